//! Which pods belong to a ReplicaSet, and how they are.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::object::{available_at, controller, created, is_finished, is_going, ready, selects};

/// A ReplicaSet and its pods.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The set.
    pub set: Arc<ReplicaSet>,
    /// When this was seen.
    pub now: Timestamp,
    /// Pods it controls that run or may come to run.
    pub active: Vec<Arc<Pod>>,
    /// Pods it controls that are on their way out.
    pub going: usize,
    /// Pods that match and that nobody controls.
    pub orphans: Vec<Arc<Pod>>,
    /// Pods it controls that no longer match.
    pub strangers: Vec<Arc<Pod>>,
    /// When new pods are made again, if not at once: the last ones were refused by their nodes.
    pub pause: Option<Timestamp>,
    /// When the next pod will have been ready for long enough, or new ones are made again.
    pub next: Option<Duration>,
}

impl Observed {
    /// What the set is asked to be.
    #[must_use]
    pub fn spec(&self) -> ReplicaSetSpec {
        self.set.spec.clone().unwrap_or_default()
    }

    /// How many pods have been ready for long enough.
    #[must_use]
    pub fn available(&self) -> usize {
        let pause = self.spec().min_ready_seconds.unwrap_or(0);
        let at = |pod: &&Arc<Pod>| available_at(pod, pause).is_some_and(|at| at <= self.now);
        self.active.iter().filter(at).count()
    }
}

/// Looks at a set and the pods of its namespace.
#[must_use]
pub fn observe(set: Arc<ReplicaSet>, pods: &[Arc<Pod>], now: Timestamp) -> Observed {
    let uid = set.uid().unwrap_or_default();
    let spec = set.spec.clone().unwrap_or_default();
    let mut observed = Observed {
        set,
        now,
        active: Vec::new(),
        going: 0,
        orphans: Vec::new(),
        strangers: Vec::new(),
        pause: None,
        next: None,
    };
    let mut refused = Vec::new();
    for pod in pods {
        let matches = selects(&spec.selector, pod.labels());
        match controller(pod.as_ref()) {
            Some(owner) if owner.uid != uid => {}
            Some(_) if !matches => observed.strangers.push(Arc::clone(pod)),
            Some(_) if was_refused(pod) => refused.push(created(pod.as_ref())),
            Some(_) if is_finished(pod) => {}
            Some(_) if is_going(pod.as_ref()) => observed.going += 1,
            Some(_) => observed.active.push(Arc::clone(pod)),
            None if matches && !is_finished(pod) && !is_going(pod.as_ref()) => {
                observed.orphans.push(Arc::clone(pod));
            }
            None => {}
        }
    }
    let pause = spec.min_ready_seconds.unwrap_or(0);
    let waiting = observed.active.iter().filter(|pod| ready(pod).is_some());
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    observed.pause = retreat(refused, wanted).filter(|at| *at > now);
    let waits = observed.pause.filter(|_| observed.active.len() < wanted);
    let due = waiting.filter_map(|pod| available_at(pod, pause)).filter(|at| *at > now);
    let due = due.chain(waits).min();
    observed.next = due.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    observed
}

/// The first and the longest pause before pods are made again that nodes refuse.
const FIRST: i64 = 1;
const LAST: i64 = 300;

/// When new pods are made again after some were refused: later after each round of them, of as many as are wanted. Those that were
/// refused long before the others count no more.
fn retreat(mut refused: Vec<Timestamp>, wanted: usize) -> Option<Timestamp> {
    refused.sort_unstable_by(|one, other| other.cmp(one));
    let last = *refused.first()?;
    let near = |pair: &&[Timestamp]| pair[0].duration_since(pair[1]).as_secs() <= 2 * LAST;
    let row = 1 + refused.windows(2).take_while(near).count();
    let rounds = u32::try_from(row.div_ceil(wanted.max(1)) - 1).unwrap_or(u32::MAX);
    let pause = FIRST.saturating_mul(2_i64.saturating_pow(rounds)).min(LAST);
    // When they were made is known to the second, rounded down.
    last.checked_add(SignedDuration::from_secs(pause + 1)).ok()
}

/// Whether a pod has failed before any of it ran: its node did not take it in.
fn was_refused(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let all = [&status.init_container_statuses, &status.container_statuses];
    let mut containers = all.into_iter().flatten().flatten();
    let ran = containers.any(|container| {
        let (state, last) = (container.state.as_ref(), container.last_state.as_ref());
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || last.is_some_and(|last| last.terminated.is_some())
    });
    status.phase.as_deref() == Some("Failed") && !ran
}
