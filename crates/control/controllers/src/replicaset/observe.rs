//! Which pods belong to a ReplicaSet, and how they are.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::object::{available_at, controller, is_finished, is_going, ready, selects};

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
    /// When the next pod will have been ready for long enough.
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
        next: None,
    };
    for pod in pods {
        let matches = selects(&spec.selector, pod.labels());
        match controller(pod.as_ref()) {
            Some(owner) if owner.uid != uid => {}
            Some(_) if !matches => observed.strangers.push(Arc::clone(pod)),
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
    let due = waiting.filter_map(|pod| available_at(pod, pause)).filter(|at| *at > now).min();
    observed.next = due.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    observed
}
