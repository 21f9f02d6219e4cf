//! Admission: what administrators have said about objects, asked before anything is written.
//!
//! Changes come first (policies, then webhooks), then the server's own defaults and validation, then those who may only
//! refuse (policies, then webhooks). Objects that configure admission are exempt, so that nobody can lock the door with the
//! key inside.

mod kept;
mod matching;
mod review;
mod webhook;

use berth_objects::{Object, Status};
use serde_json::{Value, json};

use crate::call::Call;

pub(crate) use webhook::Webhooks;

/// Objects that configure admission itself.
const EXEMPT: &str = "admissionregistration.k8s.io";

static NULL: Value = Value::Null;

/// What is about to be done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What is asked to be admitted.
pub(crate) struct Asked<'call> {
    pub call: &'call Call,
    pub operation: Operation,
    /// The object as it is to be; null for a deletion.
    pub object: Value,
    /// The object as it is; null for a creation.
    pub old: &'call Value,
    /// What the client said about the operation itself.
    pub options: Value,
}

impl<'call> Asked<'call> {
    /// A new object.
    pub fn create(call: &'call Call, object: Value) -> Self {
        let options = options(call, "CreateOptions");
        Self { call, operation: Operation::Create, object, old: &NULL, options }
    }

    /// A change.
    pub fn update(call: &'call Call, object: Value, old: &'call Value) -> Self {
        let kind = if call.applies { "PatchOptions" } else { "UpdateOptions" };
        let options = options(call, kind);
        Self { call, operation: Operation::Update, object, old, options }
    }

    /// A deletion.
    pub fn delete(call: &'call Call, old: &'call Value, options: Value) -> Self {
        Self { call, operation: Operation::Delete, object: Value::Null, old, options }
    }

    /// The opening of a stream.
    pub fn connect(call: &'call Call, object: Value) -> Self {
        Self { call, operation: Operation::Connect, object, old: &NULL, options: Value::Null }
    }

    /// The subresource of the request, or nothing.
    pub fn subresource(&self) -> &'static str {
        self.call.via.or(self.call.subresource).map_or("", berth_objects::Subresource::name)
    }

    /// The name of the object, which may not be known before it is created.
    pub fn name(&self) -> &str {
        match self.call.name.as_str() {
            "" => self.object.name(),
            name => name,
        }
    }

    fn is_exempt(&self) -> bool {
        self.call.resource.group == EXEMPT || !self.call.resource.is_kept()
    }

    /// Has the object changed by those who may. Says whether anybody did.
    pub async fn mutate(&mut self) -> Result<bool, Status> {
        if self.is_exempt() {
            return Ok(false);
        }
        webhook::mutate(self).await
    }

    /// Asks those who may refuse.
    pub async fn validate(&self) -> Result<(), Status> {
        if self.is_exempt() {
            return Ok(());
        }
        webhook::validate(self).await
    }

    /// Both, for what is not stored: changes are for nothing, refusals count.
    pub async fn judge(mut self) -> Result<(), Status> {
        self.mutate().await?;
        self.validate().await
    }
}

fn options(call: &Call, kind: &str) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if call.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    for field in ["fieldManager", "fieldValidation"] {
        let text = call.query.text(field);
        if !text.is_empty() {
            options[field] = text.into();
        }
    }
    options
}
