//! Small facts about objects that several controllers ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// The reference by which an object is controlled, if it is.
pub fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

/// A reference that says: this one controls it, and does not go before it.
pub fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether labels match a selector. An empty selector matches nothing here: it would take everything in.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let wanted = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    let empty = wanted.clone().next().is_none() && expressions.clone().next().is_none();
    let labelled = wanted.clone().all(|(key, value)| labels.get(key) == Some(value));
    let holds = expressions.clone().all(|expression| {
        let has = labels.get(&expression.key);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" => has.is_some_and(|has| values.contains(has)),
            "NotIn" => has.is_none_or(|has| !values.contains(has)),
            "Exists" => has.is_some(),
            "DoesNotExist" => has.is_none(),
            _ => false,
        }
    });
    !empty && labelled && holds
}

/// Whether an object is on its way out.
pub fn is_going<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Whether all containers of a pod have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pod's condition `Ready`, when it is true.
pub fn ready(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// When a pod has been ready for long enough; nothing while it is not ready.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let since = ready(pod)?.last_transition_time.as_ref().map(|time| time.0);
    // Since when is known to the second, rounded down: without the one more, a second could be over at once.
    let pause = match u64::try_from(min_ready_seconds) {
        Ok(0) | Err(_) => std::time::Duration::ZERO,
        Ok(seconds) => std::time::Duration::from_secs(seconds + 1),
    };
    // A pod that does not say since when counts from the beginning.
    Some(since.unwrap_or(Timestamp::UNIX_EPOCH) + pause)
}

/// When an object was made.
pub fn created<K: Resource>(object: &K) -> Timestamp {
    let created = object.meta().creation_timestamp.as_ref();
    created.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}
