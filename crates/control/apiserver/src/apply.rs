//! Server-side apply, and the note of who manages which fields.

use std::collections::BTreeMap;

use berth_access::Attributes;
use berth_objects::managed::{self, Force, Manager};
use berth_objects::{Cause, Object, Status, Subresource};
use http::Response;
use serde_json::Value;

use crate::Body;
use crate::call::Call;
use crate::{service, write};

/// What only the server writes is no part of a configuration.
const SERVERS: [&str; 6] =
    ["uid", "creationTimestamp", "generation", "selfLink", "deletionTimestamp", "managedFields"];

impl Call {
    fn manager<'call>(&'call self, api_version: &'call str) -> Manager<'call> {
        Manager {
            name: &self.manager,
            api_version,
            subresource: self.via.or(self.subresource).map_or("", Subresource::name),
            now: self.shared.now(),
        }
    }

    /// Notes this call's manager as the owner of what it changed, unless apply has done so already.
    pub fn track(&self, object: &mut Value, old: Option<&Value>) {
        if self.applies {
            return;
        }
        let version = self.resource().api_version();
        let schema = self.resource().schema();
        managed::track_update(schema, old, object, &self.manager(&version));
    }
}

/// Only what this path may write can be applied to it.
fn narrow(call: &Call, configuration: &mut Value) {
    if !call.resource().subresources.contains(&Subresource::Status) {
        return;
    }
    let Some(fields) = configuration.as_object_mut() else { return };
    match call.subresource {
        Some(Subresource::Status) => {
            let kept = ["apiVersion", "kind", "metadata", "status"];
            fields.retain(|name, _| kept.contains(&name.as_str()));
            for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                configuration.unset(&["metadata", field]);
            }
        }
        _ => drop(fields.shift_remove("status")),
    }
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What kubectl applied last on its own side, when kubectl now goes on here. Other managers have no part in that note.
fn last_applied(call: &Call, live: &Value) -> Option<Value> {
    let text = live.annotation(LAST_APPLIED).filter(|_| call.manager == "kubectl")?;
    // A note that is no object was written by hand; it allows nothing.
    let mut last: Value = serde_json::from_str(text).ok().filter(Value::is_object)?;
    berth_objects::fit(call.resource(), &mut last).ok()?;
    Some(last)
}

/// An object as kubectl notes it: with its fields in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let ordered: BTreeMap<_, _> =
                fields.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// One conflict in one line; many by manager.
fn conflict(causes: Vec<Cause>) -> Status {
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let mut managers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for cause in many {
                let manager = cause.message.trim_start_matches("conflict with ");
                managers.entry(manager).or_default().push(&cause.field);
            }
            let texts: Vec<_> = managers
                .into_iter()
                .map(|(manager, fields)| {
                    let lines: String = fields.iter().map(|field| format!("\n- {field}")).collect();
                    format!("conflicts with {manager}:{lines}")
                })
                .collect();
            format!("Apply failed with {} conflicts: {}", many.len(), texts.join("\n"))
        }
    };
    Status { causes, ..Status::new(409, "Conflict", message) }
}

pub(crate) async fn apply(
    call: &mut Call,
    mut configuration: Value,
) -> Result<Response<Body>, Status> {
    if call.query.text("fieldManager").is_empty() {
        return Err(Status::bad_request("fieldManager is required for apply patch"));
    }
    if !configuration.list(&["metadata", "managedFields"]).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    call.fit(&mut configuration)?;
    call.place(&mut configuration)?;
    let uid = configuration.uid().to_owned();
    for field in SERVERS {
        configuration.unset(&["metadata", field]);
    }
    let wanted = configuration.unset(&["metadata", "resourceVersion"]);
    let wanted = wanted.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    narrow(call, &mut configuration);
    let handle = call.handle.clone();
    let (force, schema) = (call.query.flag("force"), handle.get().schema());
    let version = call.resource().api_version();
    let merge = |call: &Call, object: &mut Value| {
        let manager = call.manager(&version);
        let settle = |object: &mut Value| berth_rules::default(call.resource(), object);
        let last = last_applied(call, object);
        let force = match (&last, force) {
            (_, true) => Force::Always,
            (Some(last), false) => Force::Only(managed::unchanged(schema, last, object)),
            (None, false) => Force::Never,
        };
        managed::apply(schema, object, &configuration, &manager, &force, settle)
            .map_err(conflict)?;
        if last.is_some() {
            let text = format!("{}\n", sorted(&configuration));
            object.set(&["metadata", "annotations", LAST_APPLIED], text);
        }
        Ok(())
    };
    call.applies = true;
    let existing = call.shared.fetch(call.resource(), &call.namespace, &call.name).await?;
    if existing.is_none() && call.subresource.is_none() {
        if !uid.is_empty() {
            let why =
                "uid mismatch: the provided object specified uid, and no existing object was found";
            return Err(Status::conflict(call.subject(), why));
        }
        // Who may patch what is there may not therefore make it.
        let wanted = Attributes {
            verb: "create",
            group: call.resource().group,
            resource: call.resource().plural,
            namespace: &call.namespace,
            name: &call.name,
            ..Attributes::default()
        };
        service::check(&call.shared, &call.identity, &wanted).await?;
        let mut object = Value::Null;
        merge(call, &mut object)?;
        match write::create_object(call, object).await {
            Err(status) if status.reason == "AlreadyExists" => {}
            outcome => return outcome.map(|object| call.respond(201, object)),
        }
    }
    let call = &*call;
    let applied = write::change(call, |old| {
        write::expect_version(call, &wanted, old)?;
        if !uid.is_empty() && uid != old.uid() {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old.uid()
            );
            return Err(Status::conflict(call.subject(), &why));
        }
        let mut object = old.clone();
        merge(call, &mut object)?;
        Ok(object)
    })
    .await?;
    Ok(call.respond(200, applied))
}
