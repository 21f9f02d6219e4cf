//! Validation of what makes pods from a template.

use berth_objects::{FieldError, LabelSelector, Object, Resource};
use serde_json::Value;

use super::{Errors, Place, names, pod};

pub(crate) fn create(resource: &Resource, object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        spec.field(field).not_negative(errors);
    }
    selector(&spec, errors);
    let template = spec.field("template");
    names::labels(&template.field("metadata").field("labels"), errors);
    let pod = template.field("spec");
    pod::spec(&pod, errors);
    let policy = pod.field("restartPolicy");
    policy.one_of(&["Always"], errors);
    if resource.kind == "Deployment" {
        strategy(&spec, errors);
    }
}

fn selector(spec: &Place<'_>, errors: &mut Errors) {
    let place = spec.field("selector");
    if !place.required(errors) {
        return;
    }
    match LabelSelector::from_object(Some(place.value)) {
        Ok(Some(selector)) if selector.is_empty() => {
            place.invalid("empty selector is invalid for deployment", errors);
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

fn strategy(spec: &Place<'_>, errors: &mut Errors) {
    let strategy = spec.field("strategy");
    let rolling = strategy.field("rollingUpdate");
    strategy.field("type").one_of(&["Recreate", "RollingUpdate"], errors);
    if strategy.field("type").text() == "Recreate" && !rolling.is_empty() {
        let why = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden(&rolling.path, why));
        return;
    }
    let zero = |name: &str| {
        let value = rolling.field(name).value;
        matches!(value.as_i64(), Some(0)) || value.as_str() == Some("0%")
    };
    for name in ["maxSurge", "maxUnavailable"] {
        let place = rolling.field(name);
        place.not_negative(errors);
        if let Some(text) = place.value.as_str()
            && text.strip_suffix('%').is_none_or(|number| number.parse::<u32>().is_err())
        {
            place.invalid(
                "a valid percent string must be a numeric string followed by an ending '%'",
                errors,
            );
        }
    }
    if !rolling.is_empty() && zero("maxSurge") && zero("maxUnavailable") {
        rolling.field("maxUnavailable").invalid("may not be 0 when `maxSurge` is 0", errors);
    }
    let deadline = spec.field("progressDeadlineSeconds");
    if let (Some(deadline_seconds), minimum) =
        (deadline.value.as_i64(), spec.field("minReadySeconds").value.as_i64().unwrap_or(0))
        && deadline_seconds <= minimum
    {
        deadline.invalid("must be greater than minReadySeconds", errors);
    }
}
