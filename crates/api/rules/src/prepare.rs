//! What happens to an object between the request and the store: status and spec are kept apart, generations count.

use berth_objects::{Object, Resource, Subresource};
use serde_json::{Value, json};

use crate::defaults;

pub(crate) fn create(resource: &Resource, object: &mut Value) {
    if resource.subresources.contains(&Subresource::Status) {
        // A node reports itself by creating itself, so its status may come along.
        if resource.kind != "Node" {
            object.unset(&["status"]);
        }
        if object.get("spec").is_some_and(|spec| !spec.is_null()) && counts(resource) {
            object.set(&["metadata", "generation"], 1);
        }
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            let quality = defaults::quality(object.get("spec").unwrap_or(&Value::Null));
            object.set(&["status"], json!({"phase": "Pending", "qosClass": quality}));
        }
        ("", "Namespace") => {
            object.set_default(&["spec", "finalizers"], json!(["kubernetes"]));
            object.set(&["status"], json!({"phase": "Active"}));
        }
        ("", "Service") => object.set(&["status"], json!({"loadBalancer": {}})),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => {
            object.set(&["status"], json!({"phase": "Pending"}));
        }
        ("apps", _) => object.set(&["status"], json!({"replicas": 0})),
        ("", "Secret") => encode(object),
        _ => {}
    }
    if (resource.group, resource.kind) == ("apps", "Deployment") {
        object.set(&["status"], json!({}));
    }
}

/// Kinds whose generation upstream counts.
fn counts(resource: &Resource) -> bool {
    !matches!(
        resource.kind,
        "Namespace"
            | "Node"
            | "Service"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "CertificateSigningRequest"
    )
}

/// Clear texts given for convenience become data.
fn encode(object: &mut Value) {
    let Some(Value::Object(texts)) = object.unset(&["stringData"]) else { return };
    for (name, text) in texts {
        let text = text.as_str().unwrap_or_default();
        object.set(&["data", &name], berth_objects::base64_encode(text.as_bytes()));
    }
}

pub(crate) fn update(resource: &Resource, object: &mut Value, old: &Value) {
    if resource.subresources.contains(&Subresource::Status) {
        restore(object, old, "status");
    }
    if resource.kind == "Secret" {
        encode(object);
    }
    if resource.kind == "Namespace" {
        let finalizers = old.at(&["spec", "finalizers"]).cloned();
        if let Some(finalizers) = finalizers {
            object.set(&["spec", "finalizers"], finalizers);
        }
    }
    let generation = old.integer(&["metadata", "generation"]);
    if let Some(generation) = generation {
        let changed = object.get("spec") != old.get("spec");
        object.set(&["metadata", "generation"], generation + i64::from(changed));
    }
}

pub(crate) fn status(_resource: &Resource, object: &mut Value, old: &Value) {
    let status = object.get("status").cloned();
    let managed = object.at(&["metadata", "managedFields"]).cloned();
    *object = old.clone();
    match status {
        Some(status) => object.set(&["status"], status),
        None => drop(object.unset(&["status"])),
    }
    if let Some(managed) = managed {
        object.set(&["metadata", "managedFields"], managed);
    }
}

fn restore(object: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => object.set(&[field], value.clone()),
        None => drop(object.unset(&[field])),
    }
}
