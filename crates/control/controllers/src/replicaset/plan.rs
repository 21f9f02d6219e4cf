//! What to do so that a ReplicaSet has its pods.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use berth_client::Key;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::observe::Observed;
use crate::object::{created, is_going, ready};

/// At most so many pods are created or deleted in one go; what is left follows at once.
pub const BURST: usize = 500;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take an orphan on.
    Adopt {
        /// The pod.
        pod: Key,
        /// Which one of that name.
        uid: String,
    },
    /// Let go of a pod that no longer matches.
    Release {
        /// The pod.
        pod: Key,
        /// Which one of that name.
        uid: String,
    },
    /// Make a pod.
    Create,
    /// Delete a pod.
    Delete {
        /// The pod.
        pod: Key,
        /// Which one of that name.
        uid: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { pod, .. } => write!(formatter, "adopt {pod}"),
            Self::Release { pod, .. } => write!(formatter, "release {pod}"),
            Self::Create => formatter.write_str("create a pod"),
            Self::Delete { pod, .. } => write!(formatter, "delete {pod}"),
        }
    }
}

/// The steps to the wanted number of pods.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Step> {
    let name = |pod: &Arc<Pod>| (Key::of(pod.as_ref()), pod.uid().unwrap_or_default());
    let mut steps = Vec::new();
    for (pod, uid) in observed.strangers.iter().map(name) {
        steps.push(Step::Release { pod, uid });
    }
    if is_going(observed.set.as_ref()) {
        return steps;
    }
    for (pod, uid) in observed.orphans.iter().map(name) {
        steps.push(Step::Adopt { pod, uid });
    }
    let wanted = usize::try_from(observed.spec().replicas.unwrap_or(1)).unwrap_or(0);
    let mut pods: Vec<_> = observed.active.iter().chain(&observed.orphans).collect();
    if pods.len() < wanted {
        let missing = (wanted - pods.len()).min(BURST);
        let missing = if observed.pause.is_some() { 0 } else { missing };
        steps.extend(std::iter::repeat_n(Step::Create, missing));
    } else if pods.len() > wanted {
        let excess = (pods.len() - wanted).min(BURST);
        pods.sort_by_cached_key(|pod| rank(pod));
        for (pod, uid) in pods.into_iter().take(excess).map(name) {
            steps.push(Step::Delete { pod, uid });
        }
    }
    steps
}

/// Who goes first: without a node, then not running, then not ready, then of lower deletion cost, then ready for the
/// shortest time, then restarted more, then younger; the name makes it definite.
fn rank(pod: &Pod) -> impl Ord + use<> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let since = ready(pod).and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
    let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
    let cost: i64 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let containers = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let restarts = containers.map(|container| container.restart_count).max().unwrap_or(0);
    (
        bound,
        (phase == "Running", phase == "Unknown"),
        ready(pod).is_some(),
        cost,
        Reverse(since),
        Reverse(restarts),
        Reverse(created(pod)),
        pod.name_any(),
    )
}

/// The status to be written, if it differs from what is there. `failure` is why pods could not be made or removed.
#[must_use]
pub fn status(observed: &Observed, failure: Option<String>) -> Option<ReplicaSetStatus> {
    let spec = observed.spec();
    let old = observed.set.status.clone().unwrap_or_default();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let labels = spec.template.and_then(|template| template.metadata?.labels).unwrap_or_default();
    let full =
        |pod: &&Arc<Pod>| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, known) {
        (None, Some(at)) => {
            conditions.remove(at);
        }
        (Some(message), known) => {
            let since = known.and_then(|at| conditions.remove(at).last_transition_time);
            let created =
                observed.active.len() < usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(if created { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(message),
                last_transition_time: since.or(Some(Time(observed.now))),
            });
        }
        (None, None) => {}
    }
    let new = ReplicaSetStatus {
        replicas: count(observed.active.len()),
        fully_labeled_replicas: Some(count(observed.active.iter().filter(full).count())),
        ready_replicas: Some(count(
            observed.active.iter().filter(|pod| ready(pod).is_some()).count(),
        )),
        available_replicas: Some(count(observed.available())),
        terminating_replicas: Some(count(observed.going)),
        observed_generation: observed.set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    };
    (Some(&new) != observed.set.status.as_ref()).then_some(new)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
