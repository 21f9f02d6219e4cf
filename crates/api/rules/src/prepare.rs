//! What happens to an object between the request and the store: status and spec are kept apart, generations count.

use berth_objects::{Object, Resource, Subresource};
use serde_json::{Value, json};

use crate::defaults;

pub(crate) fn create(resource: &Resource, object: &mut Value) {
    // A node reports itself by creating itself, so its status may come along.
    if resource.subresources.contains(&Subresource::Status) && resource.kind != "Node" {
        match first_status(resource, object) {
            Some(status) => object.set(&["status"], status),
            None => drop(object.unset(&["status"])),
        }
    }
    if counts(resource) {
        object.set(&["metadata", "generation"], 1);
    }
    match (resource.group, resource.kind) {
        ("", "Namespace") => object.set_default(&["spec", "finalizers"], json!(["kubernetes"])),
        ("", "Secret") => encode(object),
        (berth_custom::GROUP, _) => {
            let finalizers = object.place(&["metadata", "finalizers"]);
            match finalizers.as_array_mut() {
                Some(known) if known.iter().any(|it| it == berth_custom::FINALIZER) => {}
                Some(known) => known.push(berth_custom::FINALIZER.into()),
                None => *finalizers = json!([berth_custom::FINALIZER]),
            }
        }
        ("batch", "Job") => {
            select_own_pods(object);
            // With its template's labels filled in, the job has them, too, if it has none of its own.
            defaults::apply(resource, object);
        }
        _ => {}
    }
}

/// The status of an object nobody has looked at yet.
fn first_status(resource: &Resource, object: &Value) -> Option<Value> {
    if resource.custom.is_some() || resource.group == berth_custom::GROUP {
        return None;
    }
    Some(match (resource.group, resource.kind) {
        ("", "Pod") => {
            let quality = defaults::quality(object.get("spec").unwrap_or(&Value::Null));
            let mut status = json!({"phase": "Pending", "qosClass": quality});
            if !object.list(&["spec", "schedulingGates"]).is_empty() {
                status["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                    "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
            }
            status
        }
        ("", "Namespace") => json!({"phase": "Active"}),
        ("", "Service") | ("networking.k8s.io", "Ingress") => json!({"loadBalancer": {}}),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => json!({"phase": "Pending"}),
        ("", "ReplicationController") | ("apps", "ReplicaSet") => json!({"replicas": 0}),
        ("apps", "StatefulSet") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "DaemonSet") => json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0}),
        ("policy", _) => json!({"currentHealthy": 0, "desiredHealthy": 0,
            "disruptionsAllowed": 0, "expectedPods": 0}),
        ("autoscaling", _) => json!({"currentReplicas": 0, "desiredReplicas": 0}),
        ("storage.k8s.io", "VolumeAttachment") => json!({"attached": false}),
        ("certificates.k8s.io" | "networking.k8s.io", _) => return None,
        _ => json!({}),
    })
}

/// Kinds whose generation upstream counts.
fn counts(resource: &Resource) -> bool {
    match resource.group {
        _ if resource.custom.is_some() => true,
        berth_custom::GROUP => true,
        "" => matches!(resource.kind, "Pod" | "ReplicationController" | "PodTemplate"),
        "apps" => resource.kind != "ControllerRevision",
        "storage.k8s.io" => resource.kind == "CSIDriver",
        "resource.k8s.io" => matches!(resource.kind, "ResourceSlice" | "DeviceClass"),
        "batch"
        | "networking.k8s.io"
        | "policy"
        | "discovery.k8s.io"
        | "scheduling.k8s.io"
        | "admissionregistration.k8s.io"
        | "flowcontrol.apiserver.k8s.io" => true,
        _ => false,
    }
}

/// Clear texts given for convenience become data.
fn encode(object: &mut Value) {
    let Some(Value::Object(texts)) = object.unset(&["stringData"]) else { return };
    for (name, text) in texts {
        let text = text.as_str().unwrap_or_default();
        object.set(&["data", &name], berth_objects::base64_encode(text.as_bytes()));
    }
}

/// Unless it says that it selects by hand, a job selects the pods it made: by its uid, which is in no other's template.
fn select_own_pods(job: &mut Value) {
    if job.flag(&["spec", "manualSelector"]) {
        return;
    }
    let (uid, name) = (job.uid().to_owned(), job.name().to_owned());
    let labels = ["spec", "template", "metadata", "labels"];
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        let path: Vec<&str> = labels.iter().copied().chain([label]).collect();
        job.set_default(&path, value.as_str());
    }
    if job.at(&["spec", "selector"]).is_none() {
        let own = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        job.set(&["spec", "selector"], own);
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
    if let Some(generation) = old.integer(&["metadata", "generation"]) {
        let apart =
            resource.custom.is_none() || resource.subresources.contains(&Subresource::Status);
        let changed = wanted(object, apart).ne(wanted(old, apart));
        object.set(&["metadata", "generation"], generation + i64::from(changed));
    }
}

/// What somebody wants: all that is neither about the object nor, if that is kept `apart`, about how far it got, by name.
fn wanted(object: &Value, apart: bool) -> impl Iterator<Item = (&String, &Value)> {
    const ABOUT: [&str; 3] = ["apiVersion", "kind", "metadata"];
    let fields = object.as_object().into_iter().flatten();
    let is_wanted = |name: &str| !(ABOUT.contains(&name) || apart && name == "status");
    let mut fields: Vec<_> = fields.filter(|(name, _)| is_wanted(name)).collect();
    fields.sort_by_key(|(name, _)| *name);
    fields.into_iter()
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
