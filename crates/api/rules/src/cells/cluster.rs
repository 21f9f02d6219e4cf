//! Cells of what governs others: quotas, budgets, classes, admission, flow control, devices.

use berth_objects::{Column, Object};
use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, age, or_none, or_unset};

pub(crate) const LIMIT_RANGE: &[Column] = &[Column::text("Created At")];

pub(crate) fn limit_range(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![object.text(&["metadata", "creationTimestamp"]).into()]
}

pub(crate) const RESOURCE_QUOTA: &[Column] = &[Column::text("Request"), Column::text("Limit"), AGE];

pub(crate) fn resource_quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut names: Vec<_> = object.map(&["status", "hard"]).into_iter().flatten().collect();
    names.sort_by_key(|(name, _)| *name);
    let side = |limits: bool| {
        let of_side = names.iter().filter(|(name, _)| name.starts_with("limits.") == limits);
        let texts: Vec<_> = of_side
            .map(|(name, hard)| {
                let used = match object.text(&["status", "used", name]) {
                    "" => "0",
                    used => used,
                };
                format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
            })
            .collect();
        Value::from(texts.join(", "))
    };
    vec![side(false), side(true), age(object, now)]
}

pub(crate) const DISRUPTION_BUDGET: &[Column] = &[
    Column::text("Min Available"),
    Column::text("Max Unavailable"),
    Column::number("Allowed Disruptions"),
    AGE,
];

pub(crate) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |name: &str| match object.at(&["spec", name]) {
        Some(Value::String(text)) => text.clone().into(),
        Some(number) => number.to_string().into(),
        None => Value::from("N/A"),
    };
    vec![
        bound("minAvailable"),
        bound("maxUnavailable"),
        object.integer(&["status", "disruptionsAllowed"]).unwrap_or(0).into(),
        age(object, now),
    ]
}

pub(crate) const PRIORITY_CLASS: &[Column] = &[
    Column::number("Value"),
    Column { name: "Global-Default", kind: "boolean", wide: false },
    AGE,
    Column::text("PreemptionPolicy"),
];

pub(crate) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        object.integer(&["value"]).unwrap_or(0).into(),
        object.flag(&["globalDefault"]).into(),
        age(object, now),
        object.text(&["preemptionPolicy"]).into(),
    ]
}

pub(crate) const RUNTIME_CLASS: &[Column] = &[Column::text("Handler"), AGE];

pub(crate) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text(&["handler"]).into(), age(object, now)]
}

pub(crate) const WEBHOOKS: &[Column] = &[Column::number("Webhooks"), AGE];

pub(crate) fn webhooks(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.list(&["webhooks"]).len().into(), age(object, now)]
}

pub(crate) const ADMISSION_POLICY: &[Column] =
    &[Column::number("Validations"), Column::text("ParamKind"), AGE];

pub(crate) fn admission_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy("validations", object, now)
}

pub(crate) const MUTATION_POLICY: &[Column] =
    &[Column::number("Mutations"), Column::text("ParamKind"), AGE];

pub(crate) fn mutation_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy("mutations", object, now)
}

fn policy(counted: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = object
        .at(&["spec", "paramKind"])
        .map(|kind| format!("{}/{}", kind.text(&["apiVersion"]), kind.text(&["kind"])));
    vec![
        object.list(&["spec", counted]).len().into(),
        or_unset(&kind.unwrap_or_default()),
        age(object, now),
    ]
}

pub(crate) const ADMISSION_BINDING: &[Column] =
    &[Column::text("PolicyName"), Column::text("ParamRef"), AGE];

pub(crate) fn admission_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = object.at(&["spec", "paramRef"]).map(|reference| {
        let name = match reference.text(&["name"]) {
            "" => "*",
            name => name,
        };
        match reference.text(&["namespace"]) {
            "" => name.to_owned(),
            namespace => format!("{namespace}/{name}"),
        }
    });
    vec![
        object.text(&["spec", "policyName"]).into(),
        or_unset(&reference.unwrap_or_default()),
        age(object, now),
    ]
}

pub(crate) const FLOW_SCHEMA: &[Column] = &[
    Column::text("PriorityLevel"),
    Column::number("MatchingPrecedence"),
    Column::text("DistinguisherMethod"),
    AGE,
    Column::text("MissingPL"),
];

pub(crate) fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object.list(&["status", "conditions"]);
    let dangling = conditions.iter().find(|condition| condition.text(&["type"]) == "Dangling");
    vec![
        object.text(&["spec", "priorityLevelConfiguration", "name"]).into(),
        object.integer(&["spec", "matchingPrecedence"]).unwrap_or(0).into(),
        or_none(object.text(&["spec", "distinguisherMethod", "type"])),
        age(object, now),
        dangling.map_or("?", |condition| condition.text(&["status"])).into(),
    ]
}

pub(crate) const API_SERVICE: &[Column] =
    &[Column::text("Service"), Column::text("Available"), AGE];

pub(crate) fn api_service(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object.list(&["status", "conditions"]);
    let available = conditions.iter().find(|condition| condition.text(&["type"]) == "Available");
    let available =
        available.map_or(("Unknown", ""), |it| (it.text(&["status"]), it.text(&["reason"])));
    let place = match object.at(&["spec", "service"]) {
        Some(service) if service.is_object() => {
            format!("{}/{}", service.text(&["namespace"]), service.text(&["name"]))
        }
        _ => "Local".to_owned(),
    };
    vec![
        place.into(),
        match available {
            (status @ ("True" | "Unknown"), _) => status.into(),
            (status, reason) => format!("{status} ({reason})").into(),
        },
        age(object, now),
    ]
}

pub(crate) const PRIORITY_LEVEL: &[Column] = &[
    Column::text("Type"),
    Column::text("NominalConcurrencyShares"),
    Column::text("Queues"),
    Column::text("HandSize"),
    Column::text("QueueLengthLimit"),
    AGE,
];

pub(crate) fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &[&str]| match object.integer(path) {
        Some(number) => number.to_string().into(),
        None => Value::from("<none>"),
    };
    let queue = |name: &str| number(&["spec", "limited", "limitResponse", "queuing", name]);
    vec![
        object.text(&["spec", "type"]).into(),
        number(&["spec", "limited", "nominalConcurrencyShares"]),
        queue("queues"),
        queue("handSize"),
        queue("queueLengthLimit"),
        age(object, now),
    ]
}

pub(crate) const RESOURCE_CLAIM: &[Column] = &[Column::text("State"), AGE];

pub(crate) fn resource_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    if object.deleting() {
        states.push("deleted");
    }
    match object.at(&["status", "allocation"]) {
        Some(_) => states.push("allocated"),
        None if states.is_empty() => states.push("pending"),
        None => {}
    }
    if !object.list(&["status", "reservedFor"]).is_empty() {
        states.push("reserved");
    }
    vec![states.join(",").into(), age(object, now)]
}

pub(crate) const RESOURCE_SLICE: &[Column] =
    &[Column::text("Node"), Column::text("Driver"), Column::text("Pool"), AGE];

pub(crate) fn resource_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        or_unset(object.text(&["spec", "nodeName"])),
        object.text(&["spec", "driver"]).into(),
        object.text(&["spec", "pool", "name"]).into(),
        age(object, now),
    ]
}
