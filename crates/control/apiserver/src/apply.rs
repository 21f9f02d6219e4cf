//! Server-side apply, and the note of who manages which fields.

use berth_objects::managed::{self, Manager};
use berth_objects::{Object, Status, Subresource};
use http::Response;
use serde_json::Value;

use crate::Body;
use crate::call::Call;
use crate::write;

/// What only the server writes is no part of a configuration.
const SERVERS: [&str; 6] =
    ["uid", "creationTimestamp", "generation", "selfLink", "deletionTimestamp", "managedFields"];

impl Call {
    fn manager<'call>(&'call self, api_version: &'call str) -> Manager<'call> {
        Manager {
            name: &self.manager,
            api_version,
            subresource: self.subresource.map_or("", Subresource::name),
            now: self.shared.now(),
        }
    }

    /// Notes this call's manager as the owner of what it changed, unless apply has done so already.
    pub fn track(&self, object: &mut Value, old: Option<&Value>) {
        if self.applies {
            return;
        }
        let version = self.resource.api_version();
        let schema = self.resource.schema().1;
        managed::track_update(schema, old, object, &self.manager(&version));
    }
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
    let (force, schema) = (call.query.flag("force"), call.resource.schema().1);
    let version = call.resource.api_version();
    let merge = |call: &Call, object: &mut Value| {
        let manager = call.manager(&version);
        let settle = |object: &mut Value| berth_rules::default(call.resource, object);
        managed::apply(schema, object, &configuration, &manager, force, settle).map_err(|causes| {
            let count = causes.len();
            let texts: Vec<_> =
                causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
            let plural = if count == 1 { "conflict" } else { "conflicts" };
            let message = format!("Apply failed with {count} {plural}: {}", texts.join("\n"));
            Status { causes, ..Status::new(409, "Conflict", message) }
        })
    };
    call.applies = true;
    let existing = call.shared.fetch(call.resource, &call.namespace, &call.name).await?;
    if existing.is_none() && call.subresource.is_none() {
        if !uid.is_empty() {
            let why =
                "uid mismatch: the provided object specified uid, and no existing object was found";
            return Err(Status::conflict(call.subject(), why));
        }
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
        let mut object = old.clone();
        merge(call, &mut object)?;
        Ok(object)
    })
    .await?;
    Ok(call.respond(200, applied))
}
