//! What a Deployment says about itself.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::observe::{Observed, size};

/// The numbers, without conditions.
#[must_use]
pub fn counts(observed: &Observed) -> DeploymentStatus {
    let sum = |count: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| {
        observed.sets().filter_map(|set| set.status.as_ref()).map(count).sum::<i32>()
    };
    let new = observed.new.as_ref().and_then(|set| set.status.as_ref());
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let wanted: i32 = observed.sets().map(|set| size(set)).sum();
    let old = observed.deployment.status.as_ref();
    DeploymentStatus {
        observed_generation: observed.deployment.metadata.generation,
        replicas: Some(sum(|status| status.replicas)),
        updated_replicas: Some(new.map_or(0, |status| status.replicas)),
        ready_replicas: Some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((wanted - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: old.and_then(|status| status.collision_count),
        conditions: None,
    }
}

/// Whether all that is wanted is there, and nothing else.
#[must_use]
pub fn is_complete(observed: &Observed, counts: &DeploymentStatus) -> bool {
    let wanted = Some(observed.replicas());
    observed.new.is_some()
        && counts.updated_replicas == wanted
        && counts.replicas == wanted
        && counts.available_replicas == wanted
}

/// The status to be written, if it differs from what is there; and when to look again.
#[must_use]
pub fn status(observed: &Observed) -> (Option<DeploymentStatus>, Option<Duration>) {
    let old = observed.deployment.status.clone().unwrap_or_default();
    let mut new = counts(observed);
    let mut conditions =
        Conditions { list: old.conditions.clone().unwrap_or_default(), now: observed.now };
    let (_, unavailable) = observed.leeway();
    if new.available_replicas.unwrap_or(0) >= observed.replicas() - unavailable {
        let text = "Deployment has minimum availability.";
        conditions.set("Available", "True", "MinimumReplicasAvailable", text);
    } else {
        let text = "Deployment does not have minimum availability.";
        conditions.set("Available", "False", "MinimumReplicasUnavailable", text);
    }
    failures(observed, &mut conditions);
    let next = progress(observed, &old, &new, &mut conditions);
    new.conditions = Some(conditions.list);
    let changed = Some(&new) != observed.deployment.status.as_ref();
    (changed.then_some(new), next)
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    fn drop(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_ != kind);
    }

    /// Says it, unless it has been said.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let same = |condition: &DeploymentCondition| {
            condition.status == status
                && condition.reason.as_deref() == Some(reason)
                && condition.message.as_deref() == Some(message)
        };
        if !self.get(kind).is_some_and(same) {
            self.say(kind, status, reason, message);
        }
    }

    /// Says it again, now.
    fn say(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Some(Time(self.now));
        let since = self.get(kind).filter(|condition| condition.status == status);
        let since = since.and_then(|condition| condition.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: now.clone(),
            last_transition_time: since.or(now),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) => *known = condition,
            None => self.list.push(condition),
        }
    }
}

/// Passes on what keeps the new set, or else an old one, from making pods.
fn failures(observed: &Observed, conditions: &mut Conditions) {
    let sets = observed.new.iter().chain(&observed.old);
    let all = sets.filter_map(|set| set.status.as_ref()?.conditions.as_ref()).flatten();
    let mut failed = all.filter(|condition| condition.type_ == "ReplicaFailure");
    match failed.next() {
        Some(failure) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (reason, message) = (text(&failure.reason), text(&failure.message));
            conditions.set("ReplicaFailure", &failure.status, &reason, &message);
        }
        None => conditions.drop("ReplicaFailure"),
    }
}

fn progress(
    observed: &Observed,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    conditions: &mut Conditions,
) -> Option<Duration> {
    const KIND: &str = "Progressing";
    let spec = observed.spec();
    let deadline = spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX);
    let Some(deadline) = deadline else {
        conditions.drop(KIND);
        return None;
    };
    let reason = conditions.get(KIND).and_then(|condition| condition.reason.clone());
    if spec.paused.unwrap_or(false) {
        conditions.set(KIND, "Unknown", "DeploymentPaused", "Deployment is paused");
        return None;
    }
    if reason.as_deref() == Some("DeploymentPaused") {
        conditions.say(KIND, "Unknown", "DeploymentResumed", "Deployment is resumed");
    }
    let name = observed.new.as_ref().map(|set| set.name_any());
    let subject = match &name {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", observed.deployment.name_any()),
    };
    if is_complete(observed, new) {
        let text = format!("{subject} has successfully progressed.");
        conditions.set(KIND, "True", "NewReplicaSetAvailable", &text);
        return None;
    }
    let message = conditions.get(KIND).and_then(|condition| condition.message.clone());
    let current = message.is_some_and(|message| message.contains(&subject) || name.is_none());
    if let Some(name) = name.as_ref().filter(|_| !current) {
        // The clock of the deadline starts with each new set.
        let text = format!("Created new replica set \"{name}\" ({subject} is progressing).");
        conditions.say(KIND, "True", "NewReplicaSetCreated", &text);
    } else if reason.as_deref() == Some("NewReplicaSetAvailable")
        && new.replicas == new.updated_replicas
    {
        // It was there once; pods that fail later are no roll-out that fails.
        return None;
    } else if has_progressed(old, new) {
        let text = format!("{subject} is progressing.");
        conditions.say(KIND, "True", "ReplicaSetUpdated", &text);
    }
    let since = conditions.get(KIND)?.last_update_time.as_ref()?.0;
    let due = since + Duration::from_secs(u64::try_from(deadline).unwrap_or(0));
    if due <= observed.now {
        let text = format!("{subject} has timed out progressing.");
        conditions.set(KIND, "False", "ProgressDeadlineExceeded", &text);
        return None;
    }
    // A little later, so that it is over when we look.
    Duration::try_from(due.duration_since(observed.now))
        .ok()
        .map(|left| left + Duration::from_secs(1))
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let stale = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
    };
    new.updated_replicas > old.updated_replicas
        || stale(new) < stale(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}
