//! How a node keeps room for itself: what is reserved, from when on it counts as short of something, when images go.
//!
//! The file has the form people know from a kubelet. A field that nothing here heeds is refused, so that nobody relies on it.

mod parse;

use std::collections::BTreeMap;
use std::time::Duration;

use berth_client::demand::Amounts;

pub use parse::LimitsError;
pub(crate) use parse::duration;

/// What can run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory of the machine, in bytes.
    Memory,
    /// Memory of what pods may use together, in bytes.
    PodMemory,
    /// The disk with the data directory, in bytes.
    Disk,
    /// Files on it.
    DiskFiles,
    /// The disk with the images, in bytes.
    ImageDisk,
    /// Files on it.
    ImageFiles,
    /// Process numbers.
    Processes,
}

impl Signal {
    /// The name in a configuration and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::PodMemory => "allocatableMemory.available",
            Self::Disk => "nodefs.available",
            Self::DiskFiles => "nodefs.inodesFree",
            Self::ImageDisk => "imagefs.available",
            Self::ImageFiles => "imagefs.inodesFree",
            Self::Processes => "pid.available",
        }
    }

    /// The resource that is short, in the words of the API.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::PodMemory => "memory",
            Self::Disk | Self::ImageDisk => "ephemeral-storage",
            Self::DiskFiles | Self::ImageFiles => "inodes",
            Self::Processes => "pids",
        }
    }

    /// The condition of the node that it makes true.
    pub fn pressure(self) -> Pressure {
        match self {
            Self::Memory | Self::PodMemory => Pressure::Memory,
            Self::Disk | Self::DiskFiles | Self::ImageDisk | Self::ImageFiles => Pressure::Disk,
            Self::Processes => Pressure::Processes,
        }
    }
}

/// A condition of a node that is short of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// Memory.
    Memory,
    /// Room on a disk, or files.
    Disk,
    /// Process numbers.
    Processes,
}

impl Pressure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Processes];

    /// The type of the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Processes => "PIDPressure",
        }
    }
}

/// An amount, or a part of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// In the signal's unit.
    Amount(u64),
    /// In ten-thousandths.
    Part(u64),
}

impl Bound {
    /// Nothing.
    pub const NONE: Self = Self::Amount(0);

    /// The amount, where there is so much in all.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Part(part) => {
                let amount = u128::from(capacity) * u128::from(part) / 10_000;
                u64::try_from(amount).unwrap_or(u64::MAX)
            }
        }
    }
}

/// From when on something is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// What.
    pub signal: Signal,
    /// It is short with less than this.
    pub bound: Bound,
    /// How long it may be short before pods are evicted; none for a hard threshold.
    pub grace: Option<Duration>,
    /// How much more than the bound is to be free again before all is well.
    pub reclaim: Bound,
}

/// When images go that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// With more than this many hundredths of the disk in use they go.
    pub high: u64,
    /// Down to this many.
    pub low: u64,
    /// No image goes that has been here for a shorter time.
    pub youngest: Duration,
    /// An image that nobody used for so long goes in any case; none never.
    pub oldest: Option<Duration>,
}

/// Everything about a node's room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For the machine's own services.
    pub system: Amounts,
    /// For Berth itself.
    pub own: Amounts,
    /// From when on something is short.
    pub thresholds: Vec<Threshold>,
    /// How long a shortage must be over before its condition ends.
    pub transition: Duration,
    /// How long pods may take to end under a soft threshold.
    pub longest_grace: Duration,
    /// Images.
    pub images: ImageLimits,
    /// Most pods at once.
    pub pods: u32,
    /// Most processes of a pod; none is unlimited.
    pub pod_processes: Option<i64>,
}

/// Most pods of a node. Kubernetes' own default is 110; ours cost far less.
const PODS: u32 = 1000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            system: Amounts::new(),
            own: Amounts::new(),
            thresholds: default_thresholds(),
            transition: Duration::from_secs(60),
            longest_grace: Duration::ZERO,
            images: ImageLimits {
                high: 90,
                low: 85,
                youngest: Duration::from_secs(120),
                oldest: None,
            },
            pods: PODS,
            pod_processes: None,
        }
    }
}

/// The hard thresholds of a node whose configuration names none.
fn default_thresholds() -> Vec<Threshold> {
    let one = |signal, bound| Threshold { signal, bound, grace: None, reclaim: Bound::NONE };
    let twentieth = Bound::Part(500);
    vec![
        one(Signal::Memory, Bound::Amount(100 << 20)),
        one(Signal::Disk, twentieth),
        one(Signal::DiskFiles, twentieth),
        one(Signal::ImageDisk, twentieth),
        one(Signal::ImageFiles, twentieth),
        one(Signal::Processes, twentieth),
    ]
}

impl Limits {
    /// What is not for pods: what is reserved, and what must stay free for no pod to be evicted.
    pub fn kept(&self, capacity: &Amounts) -> Amounts {
        let mut kept = self.reserved();
        for (name, signal) in [("memory", Signal::Memory), ("ephemeral-storage", Signal::Disk)] {
            let whole = u64::try_from(capacity.get(name).copied().unwrap_or(0)).unwrap_or(0);
            let free = self.hard(signal).map_or(0, |threshold| threshold.bound.of(whole));
            *kept.entry(name.to_owned()).or_default() += i64::try_from(free).unwrap_or(i64::MAX);
        }
        kept
    }

    /// What is reserved.
    pub fn reserved(&self) -> Amounts {
        let mut sum = self.system.clone();
        berth_client::demand::add(&mut sum, &self.own);
        sum
    }

    /// The hard threshold of a signal.
    pub fn hard(&self, signal: Signal) -> Option<&Threshold> {
        self.thresholds.iter().find(|it| it.signal == signal && it.grace.is_none())
    }

    /// What pods may have of this capacity.
    ///
    /// # Errors
    /// Names what is reserved beyond what there is.
    pub fn allocatable(&self, capacity: &Amounts) -> Result<Amounts, LimitsError> {
        let kept = self.kept(capacity);
        let pages: i64 = capacity
            .iter()
            .filter(|(name, _)| name.starts_with("hugepages-"))
            .map(|(_, amount)| *amount)
            .sum();
        let mut left = BTreeMap::new();
        for (name, whole) in capacity {
            let mut rest = whole - kept.get(name).copied().unwrap_or(0);
            if name == "memory" {
                // Huge pages are set apart and can be used for nothing else.
                rest -= pages;
            }
            if rest < 0 {
                return Err(LimitsError::Capacity(name.clone()));
            }
            left.insert(name.clone(), rest);
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_is_neither_reserved_nor_kept_free() {
        let mut limits = Limits::default();
        let capacity: Amounts = [
            ("cpu", 2000),
            ("memory", 8 << 30),
            ("ephemeral-storage", 100_000),
            ("hugepages-2Mi", 1 << 30),
        ]
        .map(|(name, amount)| (name.to_owned(), amount))
        .into();
        let left = limits.allocatable(&capacity).unwrap();
        assert_eq!(left["memory"], (7 << 30) - (100 << 20));
        assert_eq!((left["cpu"], left["ephemeral-storage"]), (2000, 95_000));
        limits.system = [("cpu".to_owned(), 500), ("memory".to_owned(), 1 << 30)].into();
        limits.own = [("cpu".to_owned(), 100)].into();
        let left = limits.allocatable(&capacity).unwrap();
        assert_eq!((left["cpu"], left["memory"]), (1400, (6 << 30) - (100 << 20)));
        limits.own = [("cpu".to_owned(), 2000)].into();
        let refused = limits.allocatable(&capacity).unwrap_err().to_string();
        assert_eq!(refused, "more `cpu` is reserved than the machine has");
    }
}
