//! What is short and since when, from values alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::limits::{Limits, Pressure, Signal, Threshold};

/// How much there is of something and how much is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Left.
    pub available: u64,
    /// In all.
    pub capacity: u64,
}

/// By signal; what could not be read is absent.
pub type Readings = BTreeMap<Signal, Reading>;

/// A threshold that was crossed, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The threshold.
    pub threshold: Threshold,
    /// What was read.
    pub reading: Reading,
}

impl Shortage {
    /// The bound in the signal's unit.
    pub fn bound(&self) -> u64 {
        self.threshold.bound.of(self.reading.capacity)
    }
}

/// What follows from readings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Conditions that hold.
    pub pressures: BTreeSet<Pressure>,
    /// What has been short for longer than it may, memory first.
    pub due: Vec<Shortage>,
}

/// What has been short, and since when.
#[derive(Debug, Default)]
pub struct Watch {
    /// By signal and whether the threshold is a soft one.
    since: HashMap<(Signal, bool), Instant>,
    /// When each condition last had a reason.
    last: HashMap<Pressure, Instant>,
}

impl Watch {
    /// One that goes on after another, of which only the conditions are known.
    pub fn after(pressures: &BTreeSet<Pressure>, now: Instant) -> Self {
        let last = pressures.iter().map(|pressure| (*pressure, now)).collect();
        Self { since: HashMap::new(), last }
    }

    /// Takes new readings in.
    pub fn look(&mut self, limits: &Limits, readings: &Readings, now: Instant) -> Verdict {
        let mut due = Vec::new();
        let mut short = HashMap::new();
        for threshold in &all(limits) {
            let Some(reading) = readings.get(&threshold.signal).copied() else { continue };
            let key = (threshold.signal, threshold.grace.is_some());
            let shortage = Shortage { threshold: *threshold, reading };
            let known = self.since.get(&key).copied();
            // What was short is so until there is some to spare.
            let spare = known.map_or(0, |_| threshold.reclaim.of(reading.capacity));
            if reading.available >= shortage.bound().saturating_add(spare) {
                continue;
            }
            let since = known.unwrap_or(now);
            short.insert(key, since);
            self.last.insert(threshold.signal.pressure(), now);
            if threshold.grace.is_none_or(|grace| now.duration_since(since) >= grace) {
                due.push(shortage);
            }
        }
        self.since = short;
        let holds = |pressure: &Pressure| {
            let short = self.since.keys().any(|(signal, _)| signal.pressure() == *pressure);
            let last = self.last.get(pressure).map(|last| now.duration_since(*last));
            short || last.is_some_and(|ago| ago < limits.transition)
        };
        due.sort_by_key(|it| (it.threshold.signal, it.threshold.grace.is_some()));
        Verdict { pressures: Pressure::ALL.into_iter().filter(holds).collect(), due }
    }
}

/// All thresholds: the memory of pods together is held to the hard threshold of the machine's.
fn all(limits: &Limits) -> Vec<Threshold> {
    let of_pods =
        limits.hard(Signal::Memory).map(|it| Threshold { signal: Signal::PodMemory, ..*it });
    limits.thresholds.iter().copied().chain(of_pods).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Bound;

    fn limits(hard: u64, soft: Option<(u64, u64)>, reclaim: u64, transition: u64) -> Limits {
        let threshold = |bound, grace| Threshold {
            signal: Signal::Disk,
            bound: Bound::Amount(bound),
            grace,
            reclaim: Bound::Amount(reclaim),
        };
        let transition = Duration::from_secs(transition);
        let thresholds = vec![threshold(hard, None)];
        let mut limits = Limits { thresholds, transition, ..Limits::default() };
        let soft = soft.map(|(bound, grace)| threshold(bound, Some(Duration::from_secs(grace))));
        limits.thresholds.extend(soft);
        limits
    }

    fn text(verdict: &Verdict) -> String {
        let pressures: Vec<_> = verdict.pressures.iter().map(|it| it.as_str()).collect();
        let due = verdict.due.iter().map(|it| {
            let kind = if it.threshold.grace.is_some() { "soft" } else { "hard" };
            format!("{kind} {}<{}", it.reading.available, it.bound())
        });
        let due: Vec<_> = due.collect();
        format!("{} {}", pressures.join(","), due.join(","))
    }

    #[test]
    fn shortages_begin_last_and_end() {
        let limits = limits(10, Some((20, 30)), 5, 60);
        let begin = Instant::now();
        let mut watch = Watch::default();
        let mut at = |seconds, available| {
            let readings = [(Signal::Disk, Reading { available, capacity: 100 })].into();
            text(&watch.look(&limits, &readings, begin + Duration::from_secs(seconds)))
        };
        assert_eq!(at(0, 50), " ");
        assert_eq!(at(1, 19), "DiskPressure ", "soft: the node says so at once and nobody goes");
        assert_eq!(at(30, 15), "DiskPressure ");
        assert_eq!(at(31, 15), "DiskPressure soft 15<20");
        assert_eq!(at(32, 9), "DiskPressure hard 9<10,soft 9<20");
        assert_eq!(at(33, 14), "DiskPressure hard 14<10,soft 14<20", "some is to be to spare");
        assert_eq!(at(34, 25), "DiskPressure ", "enough, but not for long enough");
        assert_eq!(at(92, 25), "DiskPressure ");
        assert_eq!(at(93, 25), " ");
        assert_eq!(at(95, 19), "DiskPressure ", "the grace of a soft threshold begins anew");
    }

    #[test]
    fn a_condition_outlives_the_agent_that_saw_its_reason() {
        let (limits, now) = (limits(10, None, 0, 60), Instant::now());
        let mut watch = Watch::after(&[Pressure::Disk].into(), now);
        let readings = [(Signal::Disk, Reading { available: 50, capacity: 100 })].into();
        let mut at =
            |seconds| text(&watch.look(&limits, &readings, now + Duration::from_secs(seconds)));
        assert_eq!((at(59).as_str(), at(60).as_str()), ("DiskPressure ", " "));
    }

    #[test]
    fn nothing_is_said_about_what_cannot_be_read() {
        let mut watch = Watch::default();
        let limits = limits(10, None, 0, 0);
        assert_eq!(text(&watch.look(&limits, &Readings::new(), Instant::now())), " ");
    }

    #[test]
    fn memory_goes_before_disks_and_pods_have_their_own() {
        let reading = Reading { available: 1, capacity: 100 << 20 };
        let readings = [Signal::Disk, Signal::PodMemory, Signal::Processes]
            .map(|signal| (signal, reading))
            .into();
        let verdict = Watch::default().look(&Limits::default(), &readings, Instant::now());
        let due: Vec<_> = verdict.due.iter().map(|it| it.threshold.signal.as_str()).collect();
        assert_eq!(due, ["allocatableMemory.available", "nodefs.available", "pid.available"]);
        assert_eq!(verdict.pressures.len(), 3);
    }
}
