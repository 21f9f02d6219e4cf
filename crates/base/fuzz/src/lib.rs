//! Inputs spoilt at random, for tests of everything that reads what others send.
//!
//! The surprising choice: no coverage feedback, which needs nightly Rust and a build of its own. Instead the seeds are what real
//! clients sent (`corpus/`), which lie deep inside the formats already, and the targets are plain tests that run on every `make test`,
//! for a second each. `make fuzz` runs the same ones for longer and from another random seed each time.

mod corpus;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use corpus::{Request, requests};
pub use mutate::mutate;

/// How many seconds each target runs.
const SECONDS: &str = "BERTH_FUZZ_SECONDS";
/// The random seed, to repeat a run.
const SEED: &str = "BERTH_FUZZ_SEED";
/// No input of the sizes here may take this long: somebody else waits meanwhile.
const SLOW: Duration = Duration::from_secs(3);
/// What is too large is cut: the formats have limits of their own, which other tests know.
const LARGEST: usize = 64 << 10;

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// How many inputs were tried.
    pub inputs: u64,
    /// How many of them the target called good.
    pub good: u64,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Feeds a target with the seeds, then with spoilt ones until the time is over. The target says whether an input was good, which shows
/// whether the run goes deep; it panics where something is wrong.
///
/// # Panics
/// When the target does, or takes too long. The input is kept in a file, whose name is said together with the random seed.
#[expect(clippy::print_stderr, reason = "this is how tests talk")]
pub fn run(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8]) -> bool) -> Done {
    let seconds = number(SECONDS);
    // A run of the ordinary tests is the same each time.
    let seed = number(SEED).unwrap_or_else(|| seconds.map_or(1, |_| rand::random()));
    eprintln!("fuzz {name}: {SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(1));
    let mut done = Done { inputs: 0, good: 0 };
    let try_one = |input: &[u8], done: &mut Done| {
        let began = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(good) => {
                done.inputs += 1;
                done.good += u64::from(good);
                if began.elapsed() > SLOW {
                    let path = keep(name, input);
                    panic!("fuzz {name}: {:?} for `{}`", began.elapsed(), path.display());
                }
            }
            Err(panic) => {
                let path = keep(name, input);
                eprintln!("fuzz {name}: input {} is in `{}`", done.inputs, path.display());
                resume_unwind(panic);
            }
        }
    };
    for seed in seeds {
        try_one(seed, &mut done);
    }
    while Instant::now() < end && !seeds.is_empty() {
        let mut input = seeds[random.random_range(0..seeds.len())].clone();
        let other = &seeds[random.random_range(0..seeds.len())];
        for _ in 0..random.random_range(1..6) {
            mutate(&mut random, &mut input, other);
        }
        input.truncate(LARGEST);
        try_one(&input, &mut done);
    }
    eprintln!("fuzz {name}: {} inputs, {} of them good", done.inputs, done.good);
    done
}

/// The same for text: what is no UTF-8 is made some.
pub fn run_text(name: &str, seeds: &[Vec<u8>], target: impl Fn(&str) -> bool) -> Done {
    run(name, seeds, |input| target(&String::from_utf8_lossy(input)))
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("berth-fuzz-{name}-{}", std::process::id()));
    match std::fs::write(&path, input) {
        Ok(()) => path,
        Err(error) => PathBuf::from(format!("nowhere ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_wrong_and_says_with_which_input() {
        let seeds = [b"good input".to_vec()];
        let found = catch_unwind(|| {
            run("self", &seeds, |input| {
                assert!(!input.contains(&b'!'), "found");
                true
            })
        });
        // A byte that the seed does not have is there soon.
        assert!(found.is_err());
        let path = std::env::temp_dir().join(format!("berth-fuzz-self-{}", std::process::id()));
        assert!(std::fs::read(&path).unwrap().contains(&b'!'));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_recorded_can_be_read() {
        let all = requests();
        assert!(all.len() > 300);
        let kinds = |kind: &str| all.iter().filter(|request| request.kind.contains(kind)).count();
        assert!(kinds("protobuf") > 20 && kinds("strategic") > 20 && kinds("apply") > 20);
    }
}
