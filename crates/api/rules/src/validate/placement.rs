//! Validation of where a pod may run: node selectors, affinity, tolerations, spread.

use berth_objects::{FieldError, LabelSelector, is_qualified_name};
use serde_json::Value;

use super::{Errors, Place};

pub(crate) fn check(spec: &Place<'_>, errors: &mut Errors) {
    spec.field("tolerations").items().for_each(|toleration| self::toleration(&toleration, errors));
    let affinity = spec.field("affinity");
    let nodes = affinity.field("nodeAffinity");
    let required = nodes.field("requiredDuringSchedulingIgnoredDuringExecution");
    if !required.value.is_null() {
        let terms = required.field("nodeSelectorTerms");
        if terms.is_empty() {
            let why = "must have at least one node selector term";
            errors.push(FieldError::required(&terms.path, why));
        }
        terms.items().for_each(|term| node_term(&term, errors));
    }
    for preferred in nodes.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred, errors);
        node_term(&preferred.field("preference"), errors);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.field(side);
        for term in pods.field("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, errors);
        }
        for preferred in pods.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&preferred, errors);
            pod_term(&preferred.field("podAffinityTerm"), errors);
        }
    }
    spread(&spec.field("topologySpreadConstraints"), errors);
}

fn toleration(toleration: &Place<'_>, errors: &mut Errors) {
    let (key, operator) = (toleration.field("key"), toleration.field("operator"));
    let (value, effect) = (toleration.field("value"), toleration.field("effect"));
    operator.one_of(&["Equal", "Exists", "Gt", "Lt"], errors);
    effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
    if key.is_empty() {
        if operator.text() != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values \
                       and all keys\"";
            operator.invalid(why, errors);
        }
    } else if !is_qualified_name(key.text()) {
        key.invalid("must be a qualified name", errors);
    }
    if operator.text() == "Exists" && !value.is_empty() {
        operator.invalid("value must be empty when `operator` is 'Exists'", errors);
    }
    let seconds = toleration.field("tolerationSeconds");
    if !seconds.value.is_null() && effect.text() != "NoExecute" {
        effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set", errors);
    }
}

fn weight(place: &Place<'_>, errors: &mut Errors) {
    let weight = place.field("weight");
    if weight.value.as_i64().is_none_or(|number| !(1..=100).contains(&number)) {
        weight.invalid("must be in the range 1-100", errors);
    }
}

fn node_term(term: &Place<'_>, errors: &mut Errors) {
    for field in ["matchExpressions", "matchFields"] {
        for rule in term.field(field).items() {
            requirement(&rule, errors);
        }
    }
}

fn requirement(rule: &Place<'_>, errors: &mut Errors) {
    rule.field("key").required(errors);
    let (operator, values) = (rule.field("operator"), rule.field("values"));
    match operator.text() {
        "In" | "NotIn" => {
            if values.is_empty() {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&values.path, why));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&values.path, why));
            }
        }
        "Gt" | "Lt" => {
            if values.items().count() != 1 {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(&values.path, why));
            }
        }
        _ => operator.invalid("not a valid selector operator", errors),
    }
}

fn pod_term(term: &Place<'_>, errors: &mut Errors) {
    let topology = term.field("topologyKey");
    if topology.is_empty() {
        errors.push(FieldError::required(&topology.path, "can not be empty"));
    }
    for field in ["labelSelector", "namespaceSelector"] {
        let selector = term.field(field);
        if let Err(error) = LabelSelector::from_object(Some(selector.value)) {
            selector.invalid(error.to_string(), errors);
        }
    }
}

fn spread(constraints: &Place<'_>, errors: &mut Errors) {
    let mut seen: Vec<(&Value, &Value)> = Vec::new();
    for constraint in constraints.items() {
        let (skew, topology) = (constraint.field("maxSkew"), constraint.field("topologyKey"));
        if skew.value.as_i64().is_none_or(|number| number < 1) {
            skew.invalid("must be greater than zero", errors);
        }
        if topology.is_empty() {
            errors.push(FieldError::required(&topology.path, "can not be empty"));
        }
        let action = constraint.field("whenUnsatisfiable");
        if action.required(errors) {
            action.one_of(&["DoNotSchedule", "ScheduleAnyway"], errors);
        }
        let key = (topology.value, action.value);
        if seen.contains(&key) {
            let pair = Value::from(format!("{{{}, {}}}", topology.text(), action.text()));
            errors.push(FieldError::duplicate(&constraint.path, &pair));
        }
        seen.push(key);
        let domains = constraint.field("minDomains");
        if domains.value.as_i64().is_some_and(|number| number < 1) {
            domains.invalid("must be greater than zero", errors);
        }
        if !domains.value.is_null() && action.text() != "DoNotSchedule" {
            let why =
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
            domains.invalid(why, errors);
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.field(field).one_of(&["Honor", "Ignore"], errors);
        }
    }
}
