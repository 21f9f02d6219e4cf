//! Who goes first when something is short, from values alone.

use std::cmp::Reverse;

use crate::capacity::binary;
use crate::limits::Signal;
use crate::pressure::plan::Shortage;

/// What of a pod is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// UID.
    pub uid: String,
    /// Namespace and name.
    pub name: String,
    /// Its priority.
    pub priority: i32,
    /// Nothing may end it.
    pub critical: bool,
    /// What it asked for of what is short.
    pub request: u64,
    /// What it uses of that.
    pub used: u64,
    /// Its containers: name, use and request.
    pub containers: Vec<(String, u64, u64)>,
}

/// What a pod must use for its end to help anybody.
fn least(signal: Signal) -> u64 {
    match signal {
        Signal::Memory | Signal::PodMemory | Signal::Disk | Signal::ImageDisk => 1 << 20,
        Signal::DiskFiles | Signal::ImageFiles => 64,
        Signal::Processes => 8,
    }
}

/// The order in which pods go: those that use more than they asked for, then the least important, then those that use most
/// beyond what they asked for. Critical pods are not among them, nor are those whose end would free next to nothing.
pub fn rank(signal: Signal, mut all: Vec<Candidate>) -> Vec<Candidate> {
    all.retain(|it| !it.critical && it.used >= least(signal));
    let within = |it: &Candidate| it.used <= it.request;
    let beyond = |it: &Candidate| i128::from(it.used) - i128::from(it.request);
    if signal == Signal::Processes {
        // Nobody asks for process numbers.
        all.sort_by_key(|it| (it.priority, Reverse(it.used), it.name.clone()));
    } else {
        all.sort_by_key(|it| (within(it), it.priority, Reverse(beyond(it)), it.name.clone()));
    }
    all
}

/// Why a pod goes, in the words people know.
pub fn message(shortage: &Shortage, candidate: &Candidate) -> String {
    let signal = shortage.threshold.signal;
    let resource = signal.resource();
    let amount = |value: u64| match signal {
        _ if value >= super::local::UNKNOWN => "more than can be counted".to_owned(),
        Signal::DiskFiles | Signal::ImageFiles | Signal::Processes => value.to_string(),
        _ => binary(value),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(shortage.bound()),
        amount(shortage.reading.available)
    );
    let larger = candidate.containers.iter().filter(|(_, used, request)| used > request);
    for (name, used, request) in larger {
        text.push_str(&format!(
            "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
            amount(*used),
            amount(*request)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Bound, Threshold};
    use crate::pressure::plan::Reading;

    fn candidate(name: &str, priority: i32, request: u64, used: u64) -> Candidate {
        Candidate {
            uid: name.to_owned(),
            name: name.to_owned(),
            priority,
            critical: false,
            request: request << 20,
            used: used << 20,
            containers: vec![("main".to_owned(), used << 20, request << 20)],
        }
    }

    fn order(signal: Signal, all: &[Candidate]) -> String {
        let ranked = rank(signal, all.to_vec());
        ranked.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_keeps_to_what_he_asked_for_goes_last() {
        let mut system = candidate("system", 0, 0, 900);
        system.critical = true;
        let all = [
            candidate("within", -5, 800, 700),
            candidate("important", 10, 100, 600),
            candidate("little", 0, 100, 150),
            candidate("much", 0, 100, 400),
            candidate("nothing", -10, 0, 0),
            system,
        ];
        assert_eq!(order(Signal::Memory, &all), "much little important within");
        // Of processes nobody asks for any, and the most important goes last.
        assert_eq!(order(Signal::Processes, &all), "within much little important");
        assert_eq!(order(Signal::Disk, &[]), "");
    }

    #[test]
    fn a_message_names_the_containers_that_took_more() {
        let threshold = |signal| Threshold {
            signal,
            bound: Bound::Amount(100 << 20),
            grace: None,
            reclaim: Bound::NONE,
        };
        let reading = Reading { available: 90 << 10, capacity: 1 << 30 };
        let shortage = Shortage { threshold: threshold(Signal::Memory), reading };
        let mut pod = candidate("a", 0, 0, 200);
        pod.containers.push(("modest".to_owned(), 5, 10));
        assert_eq!(
            message(&shortage, &pod),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Ki. \
             Container main was using 200Mi, request is 0, has larger consumption of memory. "
        );
        let shortage = Shortage { threshold: threshold(Signal::DiskFiles), reading };
        assert!(message(&shortage, &pod).starts_with(
            "The node was low on resource: inodes. Threshold quantity: 104857600, available: 92160. "
        ));
    }
}
