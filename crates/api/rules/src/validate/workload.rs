//! Validation of what makes pods from a template.

use berth_objects::{FieldError, LabelSelector, Object, Resource};
use serde_json::Value;

use super::{Errors, Place, names, pod};

pub(crate) fn create(resource: &Resource, object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        spec.field(field).not_negative(errors);
    }
    if resource.kind == "ReplicationController" {
        plain_selector(&spec, errors);
    } else {
        selector(resource, &spec, errors);
    }
    let template = spec.field("template");
    names::labels(&template.field("metadata").field("labels"), errors);
    let pod = template.field("spec");
    pod::spec(&pod, errors);
    pod.field("restartPolicy").one_of(&["Always"], errors);
    let deadline = pod.field("activeDeadlineSeconds");
    if !deadline.value.is_null() {
        let why = format!("activeDeadlineSeconds in {} is not Supported", resource.kind);
        errors.push(FieldError::forbidden(&deadline.path, why));
    }
    match resource.kind {
        "Deployment" => strategy(&spec, errors),
        "StatefulSet" => stateful_set(&spec, errors),
        "DaemonSet" => daemon_set(&spec, errors),
        _ => {}
    }
}

fn plain_selector(spec: &Place<'_>, errors: &mut Errors) {
    let selector = spec.field("selector");
    let labels = spec.field("template").field("metadata").field("labels");
    let wanted = selector.value.as_object().filter(|wanted| !wanted.is_empty());
    let Some(wanted) = wanted else {
        errors.push(FieldError::required(&selector.path, ""));
        return;
    };
    if !LabelSelector::from_map(wanted).matches(labels.value.as_object()) {
        labels.invalid("`selector` does not match template `labels`", errors);
    }
}

fn selector(resource: &Resource, spec: &Place<'_>, errors: &mut Errors) {
    let place = spec.field("selector");
    if !place.required(errors) {
        return;
    }
    match LabelSelector::from_object(Some(place.value)) {
        Ok(Some(selector)) if selector.is_empty() => {
            let kind = match resource.kind {
                "StatefulSet" => "statefulset",
                "DaemonSet" => "daemonset",
                _ => "deployment",
            };
            place.invalid(format!("empty selector is invalid for {kind}"), errors);
        }
        Ok(Some(selector)) => {
            let labels = spec.value.map(&["template", "metadata", "labels"]);
            if !selector.matches(labels) {
                let place = spec.field("template").field("metadata").field("labels");
                place.invalid("`selector` does not match template `labels`", errors);
            }
        }
        Ok(None) => {}
        Err(error) => place.invalid(error.to_string(), errors),
    }
}

fn stateful_set(spec: &Place<'_>, errors: &mut Errors) {
    spec.field("podManagementPolicy").one_of(&["OrderedReady", "Parallel"], errors);
    let strategy = spec.field("updateStrategy");
    let rolling = strategy.field("rollingUpdate");
    strategy.field("type").one_of(&["OnDelete", "RollingUpdate"], errors);
    if strategy.field("type").text() == "OnDelete" && !rolling.value.is_null() {
        rolling.invalid("only allowed for updateStrategy 'RollingUpdate'", errors);
    }
    rolling.field("partition").not_negative(errors);
    rolling.field("maxUnavailable").number_or_percent(errors);
    if rolling.field("maxUnavailable").is_zero() {
        rolling.field("maxUnavailable").invalid("cannot be 0", errors);
    }
    for field in ["whenDeleted", "whenScaled"] {
        let policy = spec.field("persistentVolumeClaimRetentionPolicy").field(field);
        policy.one_of(&["Delete", "Retain"], errors);
    }
    spec.field("ordinals").field("start").not_negative(errors);
    for claim in spec.field("volumeClaimTemplates").items() {
        claim.field("metadata").field("name").required(errors);
        super::storage::claim_spec(&claim.field("spec"), errors);
    }
}

fn daemon_set(spec: &Place<'_>, errors: &mut Errors) {
    let strategy = spec.field("updateStrategy");
    strategy.field("type").one_of(&["OnDelete", "RollingUpdate"], errors);
    if strategy.field("type").text() != "RollingUpdate" {
        return;
    }
    let rolling = strategy.field("rollingUpdate");
    let (surge, unavailable) = (rolling.field("maxSurge"), rolling.field("maxUnavailable"));
    surge.number_or_percent(errors);
    unavailable.number_or_percent(errors);
    match (surge.is_zero(), unavailable.is_zero()) {
        (false, false) => {
            surge.invalid("may not be set when maxUnavailable is non-zero", errors);
        }
        (true, true) => {
            let why = "cannot be 0 when maxSurge is 0";
            errors.push(FieldError::required(&unavailable.path, why));
        }
        _ => {}
    }
}

/// What must stay as it was created.
pub(crate) fn update(kind: &str, object: &Value, old: &Value, errors: &mut Errors) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    match kind {
        "ControllerRevision" => super::immutable(object, old, &["data"], errors),
        "StatefulSet" => {
            let mask = |set: &Value| {
                let mut spec = set.get("spec").cloned().unwrap_or_default();
                FREE.iter().for_each(|field| drop(spec.unset(&[field])));
                spec
            };
            if mask(object) != mask(old) {
                let why = "updates to statefulset spec for fields other than 'replicas', \
                           'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
                           'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are \
                           forbidden";
                errors.push(FieldError::forbidden("spec", why));
            }
        }
        _ => super::immutable(object, old, &["spec", "selector"], errors),
    }
}

fn strategy(spec: &Place<'_>, errors: &mut Errors) {
    let strategy = spec.field("strategy");
    let rolling = strategy.field("rollingUpdate");
    strategy.field("type").one_of(&["Recreate", "RollingUpdate"], errors);
    if strategy.field("type").text() == "Recreate" && !rolling.is_empty() {
        let why = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden(&rolling.path, why));
        return;
    }
    let (surge, unavailable) = (rolling.field("maxSurge"), rolling.field("maxUnavailable"));
    if let Some(text) = surge.value.as_str()
        && text.strip_suffix('%').is_none_or(|number| number.parse::<u32>().is_err())
    {
        let why = "a valid percent string must be a numeric string followed by an ending '%'";
        surge.invalid(why, errors);
    }
    surge.not_negative(errors);
    unavailable.number_or_percent(errors);
    if !rolling.is_empty() && surge.is_zero() && unavailable.is_zero() {
        unavailable.invalid("may not be 0 when `maxSurge` is 0", errors);
    }
    let deadline = spec.field("progressDeadlineSeconds");
    if let (Some(deadline_seconds), minimum) =
        (deadline.value.as_i64(), spec.field("minReadySeconds").value.as_i64().unwrap_or(0))
        && deadline_seconds <= minimum
    {
        deadline.invalid("must be greater than minReadySeconds", errors);
    }
}
