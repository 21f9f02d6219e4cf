//! Which of the nodes a pod may run on is best: the emptiest, unless the pod has wishes.

use crate::filter::{bears, matches};
use crate::observe::{NodeState, PodFacts};

/// Higher is better. Comparable for one pod only.
pub fn score(pod: &PodFacts, node: &NodeState) -> i64 {
    room(pod, node) + wishes(pod, node) - unwelcome(pod, node)
}

/// How much of processor and memory stays free, in hundredths, on average.
fn room(pod: &PodFacts, node: &NodeState) -> i64 {
    let free = |name: &str| {
        let has = node.facts.allocatable.get(name).copied().unwrap_or(0);
        let used = node.used.amounts.get(name).copied().unwrap_or(0);
        let wanted = pod.usage.amounts.get(name).copied().unwrap_or(0);
        let left = has.saturating_sub(used).saturating_sub(wanted).max(0);
        left.saturating_mul(100).checked_div(has).unwrap_or(0)
    };
    i64::midpoint(free("cpu"), free("memory"))
}

/// A wish of weight 1 counts as much as a hundredth of the node, so one of weight 100 outweighs an empty node.
fn wishes(pod: &PodFacts, node: &NodeState) -> i64 {
    let met = pod.preferred.iter().filter(|wish| matches(&wish.preference, &node.facts.labels));
    met.map(|wish| i64::from(wish.weight)).sum()
}

fn unwelcome(pod: &PodFacts, node: &NodeState) -> i64 {
    let soft = node.facts.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let borne_not =
        soft.filter(|taint| !pod.tolerations.iter().any(|toleration| bears(toleration, taint)));
    100 * i64::try_from(borne_not.count()).unwrap_or(i64::MAX / 100)
}
