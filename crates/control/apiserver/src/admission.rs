//! Admission: what administrators have said about objects, asked before anything is written.
//!
//! Changes come first (policies, then webhooks), then the server's own defaults and validation, then those who may only
//! refuse (policies, then webhooks). Objects that configure admission are exempt, so that nobody can lock the door with the
//! key inside.

mod expression;
mod kept;
mod matching;
mod policy;
mod review;
mod webhook;

use std::borrow::Cow;
use std::sync::Arc;

use berth_objects::{Object, Status};
use serde_json::{Value, json};

use crate::call::Call;

pub(crate) use expression::check;
pub(crate) use kept::Kept;
pub(crate) use policy::Policies;
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
    pub object: Cow<'call, Value>,
    /// The object as it is; null for a creation.
    pub old: &'call Value,
    /// What the client said about the operation itself.
    pub options: Value,
}

impl<'call> Asked<'call> {
    /// A new object.
    pub fn create(call: &'call Call, object: Cow<'call, Value>) -> Self {
        let options = options(call, "CreateOptions");
        Self { call, operation: Operation::Create, object, old: &NULL, options }
    }

    /// A change.
    pub fn update(call: &'call Call, object: Cow<'call, Value>, old: &'call Value) -> Self {
        let kind = if call.applies { "PatchOptions" } else { "UpdateOptions" };
        let options = options(call, kind);
        Self { call, operation: Operation::Update, object, old, options }
    }

    /// A deletion.
    pub fn delete(call: &'call Call, old: &'call Value, options: Value) -> Self {
        let object = Cow::Borrowed(&NULL);
        Self { call, operation: Operation::Delete, object, old, options }
    }

    /// The opening of a stream.
    pub fn connect(call: &'call Call, object: Value) -> Self {
        let (object, options) = (Cow::Owned(object), Value::Null);
        Self { call, operation: Operation::Connect, object, old: &NULL, options }
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
        self.call.own || self.call.resource().group == EXEMPT || !self.call.resource().is_kept()
    }

    /// Has the object changed by those who may. Says whether anybody did.
    pub async fn mutate(&mut self) -> Result<bool, Status> {
        if self.is_exempt() {
            return Ok(false);
        }
        let shared = &self.call.shared;
        let policies = shared.policies.mutating.uses(shared).await?;
        let webhooks = shared.webhooks.mutating(shared).await?;
        let policies = policies.into_iter().map(Changer::Policy);
        let all: Vec<Changer> =
            policies.chain(webhooks.into_iter().map(Changer::Webhook)).collect();
        // How many changes each of them has seen.
        let mut seen = Vec::with_capacity(all.len());
        let mut changes = 0;
        for changer in &all {
            changes += usize::from(changer.invoke(self).await?);
            seen.push(changes);
        }
        for (changer, seen) in all.iter().zip(seen) {
            if changer.asks_again() && seen < changes {
                changes += usize::from(changer.invoke(self).await?);
            }
        }
        Ok(changes > 0)
    }

    /// Asks those who may refuse.
    pub async fn validate(&self) -> Result<(), Status> {
        if self.is_exempt() {
            return Ok(());
        }
        policy::validate(self).await?;
        webhook::validate(self).await
    }

    /// Both, for what is not stored as it is. Returns what became of it.
    pub async fn settle(mut self) -> Result<Value, Status> {
        self.mutate().await?;
        self.validate().await?;
        Ok(self.object.into_owned())
    }

    /// The same where changes are for nothing and refusals count.
    pub async fn judge(self) -> Result<(), Status> {
        self.settle().await.map(drop)
    }
}

/// Notes on a policy that its expressions were looked at: who wrote it may wait for that.
pub(crate) fn checked(call: &Call, object: &mut Value) {
    if (call.resource().group, call.resource().kind) == (EXEMPT, "ValidatingAdmissionPolicy")
        && call.subresource.is_none()
    {
        let generation = object.integer(&["metadata", "generation"]).unwrap_or(1);
        object.set(&["status", "observedGeneration"], generation);
        object.set_default(&["status", "typeChecking"], json!({}));
    }
}

/// Whoever may change objects.
enum Changer {
    Policy(policy::Use),
    Webhook(Arc<webhook::Hook>),
}

impl Changer {
    /// Has it change the object. Says whether it did.
    async fn invoke(&self, asked: &mut Asked<'_>) -> Result<bool, Status> {
        match self {
            // There is nothing to be changed about a deletion.
            Self::Policy(policy) if asked.object.is_object() => policy.mutate(asked).await,
            Self::Policy(_) => Ok(false),
            Self::Webhook(hook) => webhook::invoke(asked, hook).await,
        }
    }

    /// Whether it wants to see what others have changed since.
    fn asks_again(&self) -> bool {
        match self {
            Self::Policy(policy) => policy.policy.again,
            Self::Webhook(hook) => hook.again,
        }
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
