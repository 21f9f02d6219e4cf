//! What to do so that a Deployment has the pods it asks for, without losing those that serve.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;

use super::hash::hash;
use super::observe::{DESIRED, Observed, REVISION, available, revision, size};
use super::{apply, proportion, status};
use crate::object::is_going;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take an orphaned ReplicaSet on.
    Adopt {
        /// Its name.
        set: String,
    },
    /// Make the ReplicaSet of the wanted template.
    Create {
        /// Its name.
        set: String,
        /// Its template's label.
        hash: String,
        /// Its size.
        replicas: i32,
        /// Its number in the history.
        revision: i64,
    },
    /// Give a ReplicaSet its number in the history, and what the Deployment passes on.
    Revise {
        /// Its name.
        set: String,
        /// The number.
        revision: i64,
    },
    /// Note the current number at the Deployment.
    Publish {
        /// The number.
        revision: i64,
    },
    /// Change the size of a ReplicaSet.
    Scale {
        /// Its name.
        set: String,
        /// Its size before.
        from: i32,
        /// Its size after.
        to: i32,
    },
    /// Delete a ReplicaSet that is beyond the history.
    Forget {
        /// Its name.
        set: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { set } => write!(formatter, "adopt {set}"),
            Self::Create { set, replicas, revision, .. } => {
                write!(formatter, "create {set} with {replicas} as revision {revision}")
            }
            Self::Revise { set, revision } => write!(formatter, "make {set} revision {revision}"),
            Self::Publish { revision } => write!(formatter, "publish revision {revision}"),
            Self::Scale { set, from, to } => write!(formatter, "scale {set} from {from} to {to}"),
            Self::Forget { set } => write!(formatter, "forget {set}"),
        }
    }
}

/// The steps towards what is wanted, as far as they can be taken now.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Step> {
    if is_going(observed.deployment.as_ref()) {
        return Vec::new();
    }
    if !observed.orphans.is_empty() {
        // What they are for is seen once they are ours.
        let orphans = observed.orphans.iter();
        return orphans.map(|set| Step::Adopt { set: set.name_any() }).collect();
    }
    let spec = observed.spec();
    let paused = spec.paused.unwrap_or(false);
    let mut steps = Vec::new();
    if paused || is_resized(observed) {
        revise(observed, &mut steps);
        steps.extend(proportion::scale(observed));
        return steps;
    }
    if observed.recreates() {
        recreate(observed, &mut steps)
    } else {
        roll(observed, &mut steps)
    }
    steps.extend(forget(observed));
    steps
}

/// Whether the Deployment has been resized since its sets were.
fn is_resized(observed: &Observed) -> bool {
    let wanted = observed.replicas().to_string();
    let mut active = observed.sets().filter(|set| size(set) > 0);
    active.any(|set| set.annotations().get(DESIRED).is_some_and(|desired| *desired != wanted))
}

fn latest(observed: &Observed) -> i64 {
    observed.old.iter().map(|set| revision(set)).max().unwrap_or(0)
}

/// Sees to it that the new set is the latest of the history, and that the Deployment says so.
fn revise(observed: &Observed, steps: &mut Vec<Step>) {
    let Some(new) = &observed.new else { return };
    let number = revision(new).max(latest(observed) + 1);
    let passed_on = apply::passed_on(&observed.deployment);
    let passed = passed_on.iter().all(|(key, value)| new.annotations().get(key) == Some(value));
    let pause = |seconds: Option<i32>| seconds.unwrap_or(0);
    let set_pause = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    if revision(new) != number
        || !passed
        || pause(set_pause) != pause(observed.spec().min_ready_seconds)
    {
        steps.push(Step::Revise { set: new.name_any(), revision: number });
    }
    publish(observed, number, steps);
}

fn publish(observed: &Observed, number: i64, steps: &mut Vec<Step>) {
    if observed.deployment.annotations().get(REVISION) != Some(&number.to_string()) {
        steps.push(Step::Publish { revision: number });
    }
}

/// The new set with so many pods: made if need be, scaled if need be.
fn renew(observed: &Observed, replicas: i32, steps: &mut Vec<Step>) {
    if let Some(new) = &observed.new {
        revise(observed, steps);
        scale(new, replicas, steps);
        return;
    }
    let collisions = observed.deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash(&observed.spec().template, collisions.unwrap_or(0));
    let revision = latest(observed) + 1;
    let set = format!("{}-{hash}", observed.deployment.name_any());
    steps.push(Step::Create { set, hash, replicas, revision });
    publish(observed, revision, steps);
}

fn scale(set: &Arc<ReplicaSet>, to: i32, steps: &mut Vec<Step>) {
    let from = size(set);
    if from != to {
        steps.push(Step::Scale { set: set.name_any(), from, to });
    }
}

fn recreate(observed: &Observed, steps: &mut Vec<Step>) {
    for set in &observed.old {
        scale(set, 0, steps);
    }
    let trace = |set: &Arc<ReplicaSet>| {
        let status = set.status.clone().unwrap_or_default();
        size(set) > 0 || status.replicas > 0 || status.terminating_replicas.unwrap_or(0) > 0
    };
    if !observed.old.iter().any(trace) {
        renew(observed, observed.replicas(), steps);
    }
}

fn roll(observed: &Observed, steps: &mut Vec<Step>) {
    let replicas = observed.replicas();
    let (surge, unavailable) = observed.leeway();
    let total: i32 = observed.sets().map(|set| size(set)).sum();
    let has = observed.new.as_deref().map_or(0, size);
    let room = (replicas + surge - total).max(0);
    let wanted = if has > replicas { replicas } else { has + room.min(replicas - has) };
    renew(observed, wanted, steps);

    // What comes up now does not serve yet, so it neither helps nor hinders taking old ones away.
    let least = replicas - unavailable;
    let serving = observed.new.as_deref().map_or(0, available);
    let mut excess = total - least - (has - serving);
    let mut sizes: Vec<i32> = observed.old.iter().map(|set| size(set)).collect();
    // Those that do not serve go first: nobody misses them.
    for (set, size) in observed.old.iter().zip(&mut sizes) {
        let gone = (*size - available(set)).min(excess).max(0);
        *size -= gone;
        excess -= gone;
    }
    let served: i32 = observed.sets().map(|set| available(set)).sum();
    let mut spare = (served - least).min(excess).max(0);
    for size in &mut sizes {
        let gone = (*size).min(spare);
        *size -= gone;
        spare -= gone;
    }
    for (set, size) in observed.old.iter().zip(sizes) {
        scale(set, size, steps);
    }
}

/// Old sets beyond the history, once the Deployment is as it should be.
fn forget(observed: &Observed) -> Vec<Step> {
    let limit = observed.spec().revision_history_limit.unwrap_or(10);
    if limit == i32::MAX || !status::is_complete(observed, &status::counts(observed)) {
        return Vec::new();
    }
    let idle = |set: &&Arc<ReplicaSet>| {
        let status = set.status.clone().unwrap_or_default();
        let current = status.observed_generation >= set.metadata.generation;
        size(set) == 0 && status.replicas == 0 && current && !is_going(set.as_ref())
    };
    let mut idle: Vec<_> = observed.old.iter().filter(idle).collect();
    idle.sort_by_key(|set| revision(set));
    let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.into_iter().take(excess).map(|set| Step::Forget { set: set.name_any() }).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
