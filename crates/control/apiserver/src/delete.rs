//! Deletion: preconditions, grace, finalizers, and what becomes of dependents.

use berth_objects::{Object, Resource, Status, time};
use http::{Request, Response};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::admission::Asked;
use crate::call::Call;
use crate::registry::Change;
use crate::service::json as respond;
use crate::{Body, claims, input, list, write};

/// What the client wants of a deletion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    grace: Option<i64>,
    uid: String,
    version: String,
    policy: String,
}

impl Options {
    /// From the body, or from the query where the body says nothing.
    pub async fn read(call: &mut Call, request: Request<Body>) -> Result<Self, Status> {
        let (media_type, bytes) = input::read(request).await?;
        let body = if bytes.is_empty() { json!({}) } else { input::parse(&media_type, &bytes)? };
        Self::from_body(call, &body)
    }

    pub fn from_body(call: &mut Call, body: &Value) -> Result<Self, Status> {
        if body.list(&["dryRun"]).iter().any(|value| value == "All") {
            call.dry_run = true;
        }
        let query = i64::try_from(call.query.number("gracePeriodSeconds")?.unwrap_or(0));
        let query = query.ok().filter(|_| call.query.contains("gracePeriodSeconds"));
        let policy = match (body.text(&["propagationPolicy"]), body.at(&["orphanDependents"])) {
            ("", Some(Value::Bool(true))) => "Orphan",
            ("", _) => call.query.text("propagationPolicy"),
            (policy, _) => policy,
        };
        if !["", "Background", "Foreground", "Orphan"].contains(&policy) {
            let message = format!("invalid propagationPolicy: \"{policy}\"");
            return Err(Status::bad_request(message));
        }
        let grace = body.integer(&["gracePeriodSeconds"]).or(query);
        if grace.is_some_and(|seconds| seconds < 0) {
            return Err(Status::bad_request("gracePeriodSeconds must not be negative"));
        }
        Ok(Self {
            grace,
            uid: body.text(&["preconditions", "uid"]).to_owned(),
            version: body.text(&["preconditions", "resourceVersion"]).to_owned(),
            policy: policy.to_owned(),
        })
    }

    /// As webhooks are told.
    fn to_value(&self, call: &Call) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if call.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if let Some(grace) = self.grace {
            options["gracePeriodSeconds"] = grace.into();
        }
        let texts = [
            ("/propagationPolicy", &self.policy),
            ("/preconditions/uid", &self.uid),
            ("/preconditions/resourceVersion", &self.version),
        ];
        for (path, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            let path: Vec<&str> = path.split('/').skip(1).collect();
            options.set(&path, text.as_str());
        }
        options
    }
}

pub(crate) async fn delete(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let options = Options::read(call, request).await?;
    let (object, gone) = delete_object(call, &options).await?;
    // Pods are answered with what they were, as upstream does; for others the Status is enough.
    if !gone || call.resource().kind == "Pod" {
        return Ok(call.respond(200, object));
    }
    let mut details =
        json!({"name": call.name, "kind": call.resource().plural, "uid": object.uid()});
    if !call.resource().group.is_empty() {
        details["group"] = call.resource().group.into();
    }
    Ok(respond(
        200,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "details": details}),
    ))
}

/// Deletes the object of a call, and says what it was or is and whether it is gone.
pub(crate) async fn delete_object(call: &Call, options: &Options) -> Result<(Value, bool), Status> {
    if let Some(why) = kept(call) {
        return Err(Status::forbidden(call.subject(), why));
    }
    let current = call.read().await?;
    Asked::delete(call, &current, options.to_value(call)).judge().await?;
    let mut gone = false;
    let object = call
        .modify(|old| {
            if !options.uid.is_empty() && options.uid != old.uid() {
                let why = format!(
                    "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                    options.uid,
                    old.uid()
                );
                return Err(Status::conflict(call.subject(), &why));
            }
            write::expect_version(call, &options.version, &old)?;
            if let Some(service) = claims::holder(call.resource(), &old) {
                let why = format!("the address is that of the Service {service} and goes with it");
                return Err(Status::forbidden(call.subject(), &why));
            }
            let change = plan(call.resource(), old, options, call.shared.now());
            gone = matches!(change, Change::Remove(_));
            Ok(change)
        })
        .await?;
    Ok((object, gone))
}

/// Why an object that the cluster cannot do without stays.
fn kept(call: &Call) -> Option<&'static str> {
    const NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];
    match (call.resource().group, call.resource().kind) {
        ("", "Namespace") if NAMESPACES.contains(&call.name.as_str()) => {
            Some("this namespace may not be deleted")
        }
        ("scheduling.k8s.io", _)
            if berth_rules::SYSTEM_PRIORITIES.iter().any(|(name, _)| *name == call.name) =>
        {
            Some("this is a system priority class and cannot be deleted")
        }
        ("networking.k8s.io", "ServiceCIDR") if call.name == "kubernetes" => {
            Some("this is where addresses of Services come from")
        }
        _ => None,
    }
}

/// What a deletion makes of an object.
fn plan(resource: &Resource<'_>, old: Value, options: &Options, now: jiff::Timestamp) -> Change {
    let mut object = old;
    match options.policy.as_str() {
        "Foreground" => finalizer(&mut object, "foregroundDeletion", "orphan"),
        "Orphan" => finalizer(&mut object, "orphan", "foregroundDeletion"),
        // The way out of a deletion that waits for dependents.
        "Background" => {
            let finalizers =
                object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut);
            if let Some(finalizers) = finalizers {
                finalizers.retain(|it| it != "foregroundDeletion" && it != "orphan");
            }
        }
        _ => {}
    }
    let grace = grace(resource, &object, options);
    if grace == 0 && !is_held(resource, &object) {
        return Change::Remove(object);
    }
    let before = object.integer(&["metadata", "deletionGracePeriodSeconds"]);
    if object.deleting() && before.is_none_or(|before| before <= grace) {
        return Change::Put(object);
    }
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    // Shortening counts from when the deletion began.
    let began = before.and_then(|before| {
        let end = time::parse(object.text(&["metadata", "deletionTimestamp"]))?;
        end.checked_add(SignedDuration::from_secs(grace - before)).ok()
    });
    object.set(&["metadata", "deletionTimestamp"], time::seconds(began.unwrap_or(at)));
    object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
    if let Some(generation) = object.integer(&["metadata", "generation"]) {
        object.set(&["metadata", "generation"], generation + 1);
    }
    if (resource.group, resource.kind) == ("", "Namespace") {
        object.set(&["status", "phase"], "Terminating");
    }
    Change::Put(object)
}

/// How long the node has to end a pod. Nothing else has grace.
fn grace(resource: &Resource<'_>, object: &Value, options: &Options) -> i64 {
    if (resource.group, resource.kind) != ("", "Pod") {
        return 0;
    }
    let phase = object.text(&["status", "phase"]);
    if object.text(&["spec", "nodeName"]).is_empty() || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let own = object.integer(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

fn finalizer(object: &mut Value, wanted: &str, unwanted: &str) {
    let place = object.place(&["metadata", "finalizers"]);
    if !place.is_array() {
        *place = json!([]);
    }
    if let Some(finalizers) = place.as_array_mut() {
        finalizers.retain(|known| known != unwanted);
        if !finalizers.iter().any(|known| known == wanted) {
            finalizers.push(wanted.into());
        }
    }
}

fn is_held(resource: &Resource<'_>, object: &Value) -> bool {
    let namespace = (resource.group, resource.kind) == ("", "Namespace");
    object.has_finalizers() || (namespace && !object.list(&["spec", "finalizers"]).is_empty())
}

/// Whether an object whose deletion was asked for has nothing left that holds it.
pub(crate) fn is_finished(resource: &Resource<'_>, object: &Value) -> bool {
    let grace = object.integer(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    object.deleting() && grace == 0 && !is_held(resource, object)
}

pub(crate) async fn delete_collection(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let options = Options::read(call, request).await?;
    let found = list::find(call, call.query.number("limit")?.unwrap_or(0)).await?;
    let namespace = std::mem::take(&mut call.namespace);
    let mut items = Vec::new();
    for object in found.items {
        object.name().clone_into(&mut call.name);
        call.namespace =
            if namespace.is_empty() { object.namespace().to_owned() } else { namespace.clone() };
        match delete_object(call, &options).await {
            Ok(_) => items.push(object),
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let metadata = json!({"resourceVersion": call.shared.store.current().to_string()});
    Ok(respond(200, &call.form.list(call.resource(), items, metadata, call.shared.now())))
}
