//! The numbers that SPECIFICATION.md promises for the API and its store. `cargo bench -p berth-apiserver --bench numbers`; a word
//! after `--` chooses some of them.
//!
//! Everything runs in this process, except for Debian's etcd, which is what creation is compared with: on the same disk (that of the
//! target directory, or of `BERTH_BENCH_DIR`), with the same number of clients, each over a connection of its own. A missed promise is a
//! failure.
#![expect(clippy::unwrap_used, reason = "a measurement that fails has no result")]
#![expect(clippy::print_stdout, reason = "the table is what this is for")]
#![expect(clippy::cast_precision_loss, reason = "these are measurements")]

mod latency;
mod load;
mod memory;
mod rival;
mod setting;

use std::process::ExitCode;

/// A number and its limit.
pub struct Measured {
    what: String,
    unit: &'static str,
    value: f64,
    /// What it may be at most, or at least.
    limit: Limit,
    note: String,
}

/// What a number may be.
pub enum Limit {
    /// Less than this.
    Below(f64),
    /// This or more.
    AtLeast(f64),
}

impl Measured {
    fn kept(&self) -> bool {
        match self.limit {
            Limit::Below(limit) => self.value < limit,
            Limit::AtLeast(limit) => self.value >= limit,
        }
    }

    fn row(&self) -> String {
        let limit = match self.limit {
            Limit::Below(limit) => format!("< {limit}"),
            Limit::AtLeast(limit) => format!("≥ {limit}"),
        };
        let kept = if self.kept() { "yes" } else { "**no**" };
        let value = if self.value < 10.0 {
            format!("{:.2}", self.value)
        } else {
            format!("{:.0}", self.value)
        };
        format!("| {} | {limit} {} | {value} | {kept} | {} |", self.what, self.unit, self.note)
    }
}

type Bench = fn() -> Vec<Measured>;

const ALL: [(&str, Bench); 5] = [
    ("create", load::create),
    ("single", latency::single),
    ("list", latency::list),
    ("watch", load::watch),
    ("memory", memory::overhead),
];

fn main() -> ExitCode {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    println!("| what | promised | measured | kept | |\n|---|---|---|---|---|");
    let mut kept = true;
    for (name, bench) in ALL {
        if words.is_empty() || words.iter().any(|word| word == name) {
            for measured in bench() {
                println!("{}", measured.row());
                kept &= measured.kept();
            }
        }
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
