//! What the writer may write: checks that need to know who asks.
//!
//! Defaults and validation are the same for everybody and live in the rules; here is what is not: nobody grants rights they
//! do not have, a node changes only what is its own, a request for a certificate names whoever made it.

use berth_access::{Attributes, node_of};
use berth_objects::{FieldError, Object, Status, Subresource};
use serde_json::{Value, json};

use crate::aggregation;
use crate::call::Call;

/// Looks at a new object, and completes what only the server knows.
pub(crate) fn create(call: &Call, object: &mut Value) -> Result<(), Status> {
    match (call.resource().group, call.resource().kind) {
        (berth_access::GROUP, _) => grant(call, object)?,
        ("certificates.k8s.io", _) => sign_for(call, object)?,
        (aggregation::GROUP, _) => aggregation::admit(call, object)?,
        _ => {}
    }
    crate::restrict::create(call, object)
}

/// Looks at a change.
pub(crate) fn update(call: &Call, object: &mut Value, old: &Value) -> Result<(), Status> {
    match (call.resource().group, call.resource().kind) {
        (berth_access::GROUP, _) => {
            const MEANING: [&str; 4] = ["rules", "aggregationRule", "subjects", "roleRef"];
            if MEANING.iter().any(|field| object.get(*field) != old.get(*field)) {
                grant(call, object)?;
            }
        }
        ("certificates.k8s.io", _) => decide(call, object, old)?,
        (aggregation::GROUP, _) => aggregation::admit(call, object)?,
        _ => {}
    }
    crate::restrict::update(call, object, old)
}

fn grant(call: &Call, object: &Value) -> Result<(), Status> {
    let verdict = call.shared.access.policy().may_grant(&call.identity, object);
    verdict.map_err(|why| {
        let mut subject = call.subject();
        object.name().clone_into(&mut subject.name);
        Status::forbidden(subject, &why)
    })
}

/// A request for a certificate says who made it; nobody can say it for somebody else.
fn sign_for(call: &Call, object: &mut Value) -> Result<(), Status> {
    let text = object.text(&["spec", "request"]);
    let pem = berth_objects::base64_decode(text).and_then(|pem| String::from_utf8(pem).ok());
    let asked = pem.and_then(|pem| berth_authority::Asked::parse(&pem).ok()).ok_or_else(|| {
        let why = "must be a sound CERTIFICATE REQUEST in PEM, signed with the key it is for";
        let error = FieldError::invalid("spec.request", &Value::from("..."), why);
        Status::invalid(call.kind_subject(object), &[error])
    })?;
    let client = object.text(&["spec", "signerName"]) == "kubernetes.io/kube-apiserver-client";
    if client && asked.groups.iter().any(|group| group == berth_access::MASTERS) {
        let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        return Err(Status::forbidden(call.subject(), why));
    }
    let identity = &call.identity;
    object.set(&["spec", "username"], identity.user.as_str());
    object.set(&["spec", "groups"], json!(identity.groups));
    if identity.uid.is_empty() {
        object.unset(&["spec", "uid"]);
    } else {
        object.set(&["spec", "uid"], identity.uid.as_str());
    }
    if identity.extra.is_empty() {
        object.unset(&["spec", "extra"]);
    } else {
        object.set(&["spec", "extra"], json!(identity.extra));
    }
    Ok(())
}

/// Decisions about certificates need a right for the signer, and stay.
fn decide(call: &Call, object: &mut Value, old: &Value) -> Result<(), Status> {
    let decisions = |object: &Value| -> Vec<Value> {
        let conditions = object.list(&["status", "conditions"]).iter();
        let made = |kind: &&Value| matches!(kind.text(&["type"]), "Approved" | "Denied");
        conditions.filter(made).cloned().collect()
    };
    let (new, before) = (decisions(object), decisions(old));
    match call.subresource {
        Some(Subresource::Approval) => {
            let kinds = |of: &[Value]| -> Vec<String> {
                of.iter().map(|it| it.text(&["type"]).to_owned()).collect()
            };
            if kinds(&new) == kinds(&before) {
                return Ok(());
            }
            if !before.is_empty() || new.len() > 1 {
                let why = "a decision is final, and is either Approved or Denied";
                return Err(Status::forbidden(call.subject(), why));
            }
            stamp(object, call);
            signer_right(call, "approve", old)
        }
        Some(Subresource::Status) => {
            if new != before {
                let why = "decisions are written through the approval subresource";
                return Err(Status::forbidden(call.subject(), why));
            }
            let certificate = |object: &Value| object.text(&["status", "certificate"]).to_owned();
            if certificate(object) == certificate(old) {
                return Ok(());
            }
            if !certificate(old).is_empty() {
                let why = "a certificate was issued and is final";
                return Err(Status::forbidden(call.subject(), why));
            }
            signer_right(call, "sign", old)
        }
        _ => Ok(()),
    }
}

/// Times of decisions that the client left out.
fn stamp(object: &mut Value, call: &Call) {
    let now = berth_objects::time::seconds(call.shared.now());
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        condition.set_default(&["status"], "True");
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            condition.set_default(&[field], now.as_str());
        }
    }
}

fn signer_right(call: &Call, verb: &str, request: &Value) -> Result<(), Status> {
    let signer = request.text(&["spec", "signerName"]);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let policy = call.shared.access.policy();
    let allowed = [signer, domain.as_str()].into_iter().any(|name| {
        let wanted = Attributes {
            verb,
            group: "certificates.k8s.io",
            resource: "signers",
            name,
            ..Attributes::default()
        };
        policy.judge(&call.identity, &wanted).is_allowed()
    });
    if allowed {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(Status::forbidden(call.subject(), &why))
}

/// The node that asks, if it is one.
pub(crate) fn node(call: &Call) -> Option<&str> {
    node_of(&call.identity)
}
