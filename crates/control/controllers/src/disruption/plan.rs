//! How many pods may go, from values alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::object::{is_finished, is_going, ready};

/// An evicted pod that still runs after this time was not evicted after all.
const LONGEST_EVICTION: Duration = Duration::from_secs(120);

/// What makes pods, with the number it should make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaled {
    /// Which one.
    pub uid: String,
    /// How many.
    pub replicas: i32,
}

/// A budget and its pods.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The budget.
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods it selects.
    pub pods: Vec<Arc<Pod>>,
    /// What makes them, once for each pod.
    pub makers: Vec<Scaled>,
    /// When this was seen.
    pub now: Timestamp,
}

/// A share of all, rounded up.
fn share(of: &IntOrString, all: i32) -> i32 {
    match of {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            let exact = i64::from(all) * percent;
            i32::try_from((exact + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// How many pods there should be, and how many of them healthy.
fn wanted(observed: &Observed) -> (i32, i32) {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    let makers: BTreeMap<_, _> =
        observed.makers.iter().map(|maker| (&maker.uid, maker.replicas)).collect();
    let expected = makers.values().copied().fold(0, i32::saturating_add);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (expected, expected.saturating_sub(share(most, expected)).max(0)),
        (None, Some(IntOrString::Int(least))) => (count(observed.pods.len()), *least),
        (None, Some(least)) => (expected, share(least, expected)),
        (None, None) => (count(observed.pods.len()), 0),
    }
}

/// Evictions that were granted and have not happened yet, and when to look again.
fn pending(observed: &Observed) -> (BTreeMap<String, Time>, Option<Duration>) {
    let noted = observed.budget.status.as_ref().and_then(|status| status.disrupted_pods.clone());
    let mut pending = BTreeMap::new();
    let mut next = None;
    for (name, at) in noted.unwrap_or_default() {
        let running =
            observed.pods.iter().any(|pod| pod.name_any() == name && !is_going(pod.as_ref()));
        let left = (at.0 + LONGEST_EVICTION).duration_since(observed.now);
        if running && left.is_positive() {
            let left = left.unsigned_abs();
            next = Some(next.map_or(left, |next: Duration| next.min(left)));
            pending.insert(name, at);
        }
    }
    (pending, next)
}

fn condition(observed: &Observed, allowed: i32) -> Condition {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let generation = observed.budget.metadata.generation;
    let known = observed.budget.status.as_ref().and_then(|status| status.conditions.as_ref());
    let known = known.into_iter().flatten().find(|known| known.type_ == "DisruptionAllowed");
    let since = known.filter(|known| known.status == status);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: since
            .map_or(Time(observed.now), |known| known.last_transition_time.clone()),
    }
}

/// The status the budget should have, and when it may change by time alone.
#[must_use]
pub fn status(observed: &Observed) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let (expected, desired) = wanted(observed);
    let (pending, next) = pending(observed);
    let healthy = observed.pods.iter().filter(|pod| {
        !is_going(pod.as_ref())
            && !is_finished(pod)
            && ready(pod).is_some()
            && !pending.contains_key(&pod.name_any())
    });
    let healthy = count(healthy.count());
    let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        observed_generation: observed.budget.metadata.generation,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        disruptions_allowed: allowed,
        disrupted_pods: (!pending.is_empty()).then_some(pending),
        conditions: Some(vec![condition(observed, allowed)]),
    };
    (status, next)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn see(
        spec: &Value,
        status: &Value,
        pods: &[(&str, bool)],
        makers: &[(&str, i32)],
    ) -> Observed {
        let budget =
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        let pod = |(name, ready): &(&str, bool)| {
            let ready = if *ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": name}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let maker =
            |(uid, replicas): &(&str, i32)| Scaled { uid: (*uid).to_owned(), replicas: *replicas };
        Observed {
            budget: Arc::new(serde_json::from_value(budget).unwrap()),
            pods: pods.iter().map(pod).collect(),
            makers: makers.iter().map(maker).collect(),
            now: "2026-01-01T00:10:00Z".parse().unwrap(),
        }
    }

    fn numbers(observed: &Observed) -> (i32, i32, i32, i32) {
        let (status, _) = status(observed);
        (
            status.expected_pods,
            status.desired_healthy,
            status.current_healthy,
            status.disruptions_allowed,
        )
    }

    const NOTHING: Value = Value::Null;
    const THREE: [(&str, bool); 3] = [("a", true), ("b", true), ("c", true)];

    fn empty() -> Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    }

    #[test]
    fn counts_what_may_go() {
        let of = |spec: Value, pods: &[(&str, bool)], makers: &[(&str, i32)]| {
            numbers(&see(&spec, &empty(), pods, makers))
        };
        let one = [("d", 3); 3];
        assert_eq!(of(json!({"minAvailable": 2}), &THREE, &one), (3, 2, 3, 1));
        assert_eq!(of(json!({"minAvailable": 5}), &THREE, &one), (3, 5, 3, 0));
        assert_eq!(of(json!({"minAvailable": "50%"}), &THREE, &one), (3, 2, 3, 1));
        assert_eq!(of(json!({"maxUnavailable": 1}), &THREE, &one), (3, 2, 3, 1));
        assert_eq!(of(json!({"maxUnavailable": "34%"}), &THREE, &one), (3, 1, 3, 2));
        // One is missing already.
        assert_eq!(of(json!({"maxUnavailable": 1}), &THREE[..2], &one[..2]), (3, 2, 2, 0));
        let sick = [("a", true), ("b", false), ("c", true)];
        assert_eq!(of(json!({"minAvailable": 2}), &sick, &one), (3, 2, 2, 0));
        // Two makers add up, and pods nobody makes have no share.
        let two = [("d", 3), ("d", 3), ("s", 2)];
        assert_eq!(of(json!({"maxUnavailable": 1}), &THREE, &two), (5, 4, 3, 0));
        assert_eq!(of(json!({"maxUnavailable": 1}), &THREE, &[]), (0, 0, 3, 0));
        assert_eq!(of(json!({"minAvailable": 0}), &[], &[]), (0, 0, 0, 0));
    }

    #[test]
    fn an_eviction_counts_until_it_has_happened_or_failed() {
        let mut noted = empty();
        noted["disruptedPods"] = json!({"a": "2026-01-01T00:09:00Z", "b": "2026-01-01T00:07:00Z",
            "gone": "2026-01-01T00:09:30Z"});
        let observed = see(&json!({"minAvailable": 1}), &noted, &THREE, &[]);
        let (status, next) = status(&observed);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (2, 1));
        assert_eq!(status.disrupted_pods.unwrap().keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(next, Some(Duration::from_secs(60)));
        assert_eq!(status.observed_generation, Some(3));
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_holds() {
        let observed = see(&json!({"minAvailable": 1}), &NOTHING, &THREE, &[]);
        let (first, _) = status(&observed);
        let mut later = observed.clone();
        let mut budget = observed.budget.as_ref().clone();
        budget.status = Some(first.clone());
        later.budget = Arc::new(budget);
        later.now = "2026-01-01T01:00:00Z".parse().unwrap();
        assert_eq!(status(&later).0, first);
    }
}
