//! Cells of Deployments and ReplicaSets.

use berth_objects::{Column, Object};
use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, age, joined, selector};

pub(crate) const DEPLOYMENT: &[Column] = &[
    Column::text("Ready"),
    Column::number("Up-to-date"),
    Column::number("Available"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

fn containers(object: &Value, field: &str) -> Value {
    let containers = object.list(&["spec", "template", "spec", "containers"]);
    joined(containers.iter().map(|container| container.text(&[field]))).into()
}

pub(crate) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |name: &str| object.integer(&["status", name]).unwrap_or(0);
    let wanted = object.integer(&["spec", "replicas"]).unwrap_or(0);
    vec![
        format!("{}/{wanted}", status("readyReplicas")).into(),
        status("updatedReplicas").into(),
        status("availableReplicas").into(),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        selector(object, &["spec", "selector"]),
    ]
}

pub(crate) const REPLICA_SET: &[Column] = &[
    Column::number("Desired"),
    Column::number("Current"),
    Column::number("Ready"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

pub(crate) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |name: &str| object.integer(&["status", name]).unwrap_or(0);
    vec![
        object.integer(&["spec", "replicas"]).unwrap_or(0).into(),
        status("replicas").into(),
        status("readyReplicas").into(),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        selector(object, &["spec", "selector"]),
    ]
}
