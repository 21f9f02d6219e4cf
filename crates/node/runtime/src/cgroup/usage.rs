//! What the processes of a cgroup have used, from the accounting files of either version.
//!
//! Each file is read once and whole. The memory statistics are the dearest: the kernel adds up its counters for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Cgroup, CgroupError, failed};

/// Use of processor, memory and process numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the cgroup was made, in nanoseconds.
    pub cpu: u64,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub processes: u64,
    /// What a limit of processor time has cost.
    pub throttled: Throttled,
}

/// Use of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is accounted, with the page cache.
    pub usage: u64,
    /// The same without file pages nobody has touched lately, which the kernel can drop: what counts for eviction.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// File pages.
    pub cache: u64,
    /// Swapped out.
    pub swap: u64,
    /// Page faults since the cgroup was made.
    pub faults: u64,
    /// Those that had to read from a disk.
    pub major_faults: u64,
}

/// Periods in which the processor time was used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Periods with anything to run.
    pub periods: u64,
    /// Those of them in which it had to wait.
    pub waited: u64,
    /// How long it waited, in nanoseconds.
    pub time: u64,
}

impl Cgroup {
    /// Processor time used since the cgroup was made, in nanoseconds. One file is read.
    ///
    /// # Errors
    /// When the cgroup is gone or the kernel does not account.
    pub fn cpu_time(&self) -> Result<u64, CgroupError> {
        if let Some(path) = self.controller("cpuacct") {
            let path = path.join("cpuacct.usage");
            return number(&path);
        }
        let path = self.unified_file("cpu.stat")?;
        let stat = Flat::read(&path)?;
        Ok(stat.value("usage_usec").unwrap_or(0).saturating_mul(1000))
    }

    /// All that is accounted.
    ///
    /// # Errors
    /// When the cgroup is gone or the kernel does not account.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        let (memory, throttled) = (self.memory()?, self.throttled()?);
        let processes = match self.controller("pids") {
            Some(path) => optional(&path.join("pids.current"))?,
            None => optional(&self.unified_file("pids.current")?)?,
        };
        Ok(Usage { cpu: self.cpu_time()?, memory, processes, throttled })
    }

    fn memory(&self) -> Result<Memory, CgroupError> {
        if let Some(path) = self.controller("memory") {
            let stat = Flat::read(&path.join("memory.stat"))?;
            let usage = number(&path.join("memory.usage_in_bytes"))?;
            return Ok(legacy(usage, &stat));
        }
        let stat = Flat::read(&self.unified_file("memory.stat")?)?;
        let usage = number(&self.unified_file("memory.current")?)?;
        let swap = optional(&self.unified_file("memory.swap.current")?)?;
        Ok(Memory { swap, ..unified(usage, &stat) })
    }

    fn throttled(&self) -> Result<Throttled, CgroupError> {
        let (path, waited, unit) = match self.controller("cpu") {
            Some(path) => (path.join("cpu.stat"), "throttled_time", 1),
            None => (self.unified_file("cpu.stat")?, "throttled_usec", 1000),
        };
        let stat = Flat::read(&path)?;
        Ok(Throttled {
            periods: stat.value("nr_periods").unwrap_or(0),
            waited: stat.value("nr_throttled").unwrap_or(0),
            time: stat.value(waited).unwrap_or(0).saturating_mul(unit),
        })
    }

    /// The directory of a version 1 controller.
    pub(super) fn controller(&self, name: &str) -> Option<&PathBuf> {
        let has = |names: &[String]| names.iter().any(|known| known == name);
        self.legacy.iter().find(|(names, _)| has(names)).map(|(_, path)| path)
    }

    fn unified_file(&self, name: &str) -> Result<PathBuf, CgroupError> {
        self.unified.as_ref().map(|path| path.join(name)).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::NotFound, "no hierarchy accounts for it");
            CgroupError { action: "read", path: name.into(), source }
        })
    }
}

fn legacy(usage: u64, stat: &Flat) -> Memory {
    let value = |name| stat.value(name).unwrap_or(0);
    Memory {
        usage,
        working_set: usage.saturating_sub(value("total_inactive_file")),
        rss: value("total_rss"),
        cache: value("total_cache"),
        swap: value("total_swap"),
        faults: value("total_pgfault"),
        major_faults: value("total_pgmajfault"),
    }
}

fn unified(usage: u64, stat: &Flat) -> Memory {
    let value = |name| stat.value(name).unwrap_or(0);
    Memory {
        usage,
        working_set: usage.saturating_sub(value("inactive_file")),
        rss: value("anon"),
        cache: value("file"),
        swap: 0,
        faults: value("pgfault"),
        major_faults: value("pgmajfault"),
    }
}

/// A file of names and numbers.
struct Flat(String);

impl Flat {
    fn read(path: &Path) -> Result<Self, CgroupError> {
        fs::read_to_string(path).map(Self).map_err(failed("read", path))
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| {
            line.strip_prefix(name)?.strip_prefix(' ').and_then(|number| number.parse().ok())
        })
    }
}

fn number(path: &Path) -> Result<u64, CgroupError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    text.trim().parse().map_err(|error| failed("read", path)(io::Error::other(error)))
}

/// A file that not every kernel has.
fn optional(path: &Path) -> Result<u64, CgroupError> {
    match number(path) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_account_the_same_things() {
        let old = "cache 1\nrss 2\ntotal_cache 900\ntotal_rss 500\ntotal_inactive_file 300\n\
                   total_pgfault 7\ntotal_pgmajfault 1\ntotal_swap 0\n";
        let new =
            "anon 500\nfile 900\nactive_file 600\ninactive_file 300\npgfault 7\npgmajfault 1\n";
        let wanted = Memory {
            usage: 1400,
            working_set: 1100,
            rss: 500,
            cache: 900,
            swap: 0,
            faults: 7,
            major_faults: 1,
        };
        assert_eq!(legacy(1400, &Flat(old.to_owned())), wanted);
        assert_eq!(unified(1400, &Flat(new.to_owned())), wanted);
        // The kernel's counters are not of one moment.
        assert_eq!(unified(200, &Flat(new.to_owned())).working_set, 0);
    }

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let path = directory.path().to_owned();
        (directory, path)
    }

    #[test]
    fn a_unified_tree_is_read_without_legacy_ones() {
        let (_held, path) = tree(&[
            ("cpu.stat", "usage_usec 1500\nnr_periods 4\nnr_throttled 2\nthrottled_usec 9\n"),
            ("memory.stat", "anon 10\nfile 20\ninactive_file 5\n"),
            ("memory.current", "40\n"),
            ("pids.current", "3\n"),
        ]);
        let usage = Cgroup { legacy: Vec::new(), unified: Some(path) }.usage().unwrap();
        assert_eq!((usage.cpu, usage.processes), (1_500_000, 3));
        assert_eq!((usage.memory.working_set, usage.memory.rss), (35, 10));
        assert_eq!(usage.throttled, Throttled { periods: 4, waited: 2, time: 9000 });
    }

    #[test]
    fn legacy_controllers_stand_above_an_empty_unified_tree() {
        let (_held, path) = tree(&[
            ("cpuacct.usage", "77\n"),
            ("cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 5\n"),
            ("memory.stat", "total_rss 1\ntotal_inactive_file 2\n"),
            ("memory.usage_in_bytes", "10\n"),
            ("pids.current", "1\n"),
        ]);
        let (_empty, unified) = tree(&[]);
        let names = ["memory", "cpu", "cpuacct", "pids"].map(str::to_owned).to_vec();
        let cgroup = Cgroup { legacy: vec![(names, path)], unified: Some(unified) };
        let usage = cgroup.usage().unwrap();
        assert_eq!((usage.cpu, usage.memory.working_set, usage.throttled.time), (77, 8, 5));
        let nowhere = Cgroup { legacy: Vec::new(), unified: Some("/nonexistent".into()) };
        assert_eq!(nowhere.usage().unwrap_err().source.kind(), io::ErrorKind::NotFound);
    }
}
