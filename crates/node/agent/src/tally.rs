//! What the agent counts of its own decisions, under a kubelet's names: pods evicted and pods refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts since the agent began.
#[derive(Debug, Default)]
pub struct Tally {
    evictions: Mutex<BTreeMap<String, u64>>,
    refusals: Mutex<BTreeMap<String, u64>>,
}

/// Why a pod uses more of the disk than it may, as a kubelet names it beside its signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// One of its volumes.
    Volume,
    /// All of it together.
    Pod,
    /// One of its containers.
    Container,
}

impl Excess {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volume => "emptydirfs.limit",
            Self::Pod => "ephemeralpodfs.limit",
            Self::Container => "ephemeralcontainerfs.limit",
        }
    }
}

fn count(of: &Mutex<BTreeMap<String, u64>>, name: &str) {
    let mut counts = of.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(name.to_owned()).or_default() += 1;
}

fn read(of: &Mutex<BTreeMap<String, u64>>) -> Vec<(String, u64)> {
    let counts = of.lock().unwrap_or_else(PoisonError::into_inner);
    counts.iter().map(|(name, count)| (name.clone(), *count)).collect()
}

impl Tally {
    /// A pod was evicted for this signal or excess.
    pub fn evicted(&self, signal: &str) {
        count(&self.evictions, signal);
    }

    /// A pod was not taken in for this reason.
    pub fn refused(&self, reason: &str) {
        // Names of resources that the node does not know are anybody's to choose, and would fill whatever reads this.
        let reason = if reason.contains('/') { "OutOfExtendedResources" } else { reason };
        count(&self.refusals, reason);
    }

    /// Evictions by signal.
    pub fn evictions(&self) -> Vec<(String, u64)> {
        read(&self.evictions)
    }

    /// Refusals by reason.
    pub fn refusals(&self) -> Vec<(String, u64)> {
        read(&self.refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_makes_names_of_counters() {
        let tally = Tally::default();
        for reason in ["OutOfcpu", "OutOfexample.com/a", "OutOfexample.com/b", "OutOfcpu"] {
            tally.refused(reason);
        }
        let wanted = [("OutOfExtendedResources".to_owned(), 2), ("OutOfcpu".to_owned(), 2)];
        assert_eq!(tally.refusals(), wanted);
        assert_eq!(tally.evictions(), []);
    }
}
