//! Validation of autoscalers and disruption budgets.

use berth_objects::{FieldError, LabelSelector};
use serde_json::Value;

use super::{Errors, Place, quantity};

pub(crate) fn autoscaler(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let target = spec.field("scaleTargetRef");
    target.field("kind").required(errors);
    target.field("name").required(errors);
    let (least, most) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    least.at_least(1, errors);
    match most.value.as_i64() {
        Some(number) if number > 0 => {
            if least.value.as_i64().is_some_and(|least| number < least) {
                most.invalid("must be greater than or equal to `minReplicas`", errors);
            }
        }
        Some(_) => most.invalid("must be greater than 0", errors),
        None => errors.push(FieldError::invalid(&most.path, &0.into(), "must be greater than 0")),
    }
    spec.field("targetCPUUtilizationPercentage").at_least(1, errors);
    for metric in spec.field("metrics").items() {
        self::metric(&metric, errors);
    }
    for side in ["scaleUp", "scaleDown"] {
        rules(&spec.field("behavior").field(side), errors);
    }
}

fn metric(metric: &Place<'_>, errors: &mut Errors) {
    const SOURCES: [(&str, &str); 5] = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let kind = metric.field("type");
    if !kind.required(errors) {
        return;
    }
    let Some((_, name)) = SOURCES.iter().find(|(known, _)| *known == kind.text()) else {
        kind.one_of(&SOURCES.map(|(known, _)| known), errors);
        return;
    };
    for (_, other) in SOURCES {
        if other != *name && !metric.field(other).value.is_null() {
            let why = "must not be set for this metric source type";
            errors.push(FieldError::forbidden(&metric.field(other).path, why));
        }
    }
    let source = metric.field(name);
    if source.value.is_null() {
        let why = "must populate information for the given metric source";
        errors.push(FieldError::required(&source.path, why));
        return;
    }
    match *name {
        "resource" => drop(source.field("name").required(errors)),
        "containerResource" => {
            source.field("name").required(errors);
            source.field("container").required(errors);
        }
        _ => drop(source.field("metric").field("name").required(errors)),
    }
    let target = source.field("target");
    let kind = target.field("type");
    if kind.required(errors) {
        kind.one_of(&["AverageValue", "Utilization", "Value"], errors);
    }
    target.field("averageUtilization").at_least(1, errors);
    let bounds = ["averageValue", "value"].map(|field| target.field(field));
    for bound in bounds.iter().filter(|bound| !bound.is_empty()) {
        quantity(bound, errors);
    }
    let given = bounds.iter().any(|bound| !bound.is_empty())
        || !target.field("averageUtilization").value.is_null();
    if !given {
        let why = "must set either a target raw value or a target utilization";
        errors.push(FieldError::required(&target.field("averageUtilization").path, why));
    }
}

fn rules(rules: &Place<'_>, errors: &mut Errors) {
    const LONGEST_WINDOW: i64 = 3600;
    const LONGEST_PERIOD: i64 = 1800;
    if rules.value.is_null() {
        return;
    }
    let window = rules.field("stabilizationWindowSeconds");
    window.not_negative(errors);
    if window.value.as_i64().is_some_and(|seconds| seconds > LONGEST_WINDOW) {
        window.invalid("must be less than or equal to 3600", errors);
    }
    rules.field("selectPolicy").one_of(&["Disabled", "Max", "Min"], errors);
    if rules.field("policies").is_empty() {
        let why = "must specify at least one Policy";
        errors.push(FieldError::required(&rules.field("policies").path, why));
    }
    for policy in rules.field("policies").items() {
        policy.field("type").one_of(&["Percent", "Pods"], errors);
        for (field, most) in [("value", i64::MAX), ("periodSeconds", LONGEST_PERIOD)] {
            let place = policy.field(field);
            match place.value.as_i64() {
                Some(number) if number < 1 => place.invalid("must be greater than zero", errors),
                Some(number) if number > most => {
                    place.invalid(format!("must be less than or equal to {most}"), errors);
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn disruption_budget(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let (least, most) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if !least.value.is_null() && !most.value.is_null() {
        spec.invalid("minAvailable and maxUnavailable cannot be both set", errors);
    }
    least.number_or_percent(errors);
    most.number_or_percent(errors);
    spec.field("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"], errors);
    let selector = spec.field("selector");
    if let Err(error) = LabelSelector::from_object(Some(selector.value)) {
        selector.invalid(error.to_string(), errors);
    }
}
