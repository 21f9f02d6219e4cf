//! `AdmissionReview` of `admission.k8s.io/v1`: the question a webhook is asked, and its answer.

use std::borrow::Cow;

use berth_objects::{Object, Resource, Status, base64_decode};
use serde_json::{Value, json};

use super::Asked;

/// What a webhook said.
pub(crate) struct Verdict {
    pub patch: Option<json_patch::Patch>,
    pub warnings: Vec<String>,
    /// Keys and values for the audit log.
    pub notes: Vec<(String, String)>,
    /// Why not, if not.
    pub refusal: Option<Status>,
}

/// Group, version and kind of what the request carries.
fn kind(asked: &Asked<'_>, resource: &Resource<'_>) -> (String, String, String) {
    let part = asked.call.via.or(asked.call.subresource);
    if let Some((group, version, kind)) = part.and_then(berth_objects::Subresource::body) {
        return (group.into(), version.into(), kind.into());
    }
    (resource.group.into(), resource.version.into(), resource.kind.into())
}

/// The question, with the object as `resource` shows it, which is given.
pub(crate) fn question(
    asked: &Asked<'_>,
    resource: &Resource<'_>,
    (object, old): (&Value, &Value),
    id: &str,
) -> Value {
    let (call, own) = (asked.call, asked.call.resource());
    let kind_of = |resource: &Resource<'_>| {
        let (group, version, kind) = kind(asked, resource);
        json!({"group": group, "version": version, "kind": kind})
    };
    let resource_of = |it: &Resource<'_>| json!({"group": it.group, "version": it.version, "resource": it.plural});
    let mut request = json!({
        "uid": id,
        "kind": kind_of(resource),
        "resource": resource_of(resource),
        "requestKind": kind_of(own),
        "requestResource": resource_of(own),
        "name": asked.name(),
        "operation": asked.operation.name(),
        "userInfo": call.identity.to_value(),
        "object": object,
        "oldObject": old,
        "dryRun": call.dry_run,
        "options": asked.options,
    });
    if !call.namespace.is_empty() {
        request["namespace"] = call.namespace.as_str().into();
    }
    let part = asked.subresource();
    if !part.is_empty() {
        request["subResource"] = part.into();
        request["requestSubResource"] = part.into();
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

/// Reads the answer to the question with this id. `mutating` webhooks alone may change the object.
pub(crate) fn answer(
    hook: &str,
    review: &Value,
    id: &str,
    mutating: bool,
) -> Result<Verdict, String> {
    let version = review.text(&["apiVersion"]);
    if version != "admission.k8s.io/v1" || review.text(&["kind"]) != "AdmissionReview" {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={}",
            review.text(&["kind"])
        ));
    }
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    if response.text(&["uid"]) != id {
        let found = response.text(&["uid"]);
        return Err(format!("expected response.uid=\"{id}\", got \"{found}\""));
    }
    let warnings = response.list(&["warnings"]).iter().filter_map(Value::as_str);
    let notes = response.map(&["auditAnnotations"]).into_iter().flatten();
    let mut verdict = Verdict {
        patch: None,
        warnings: warnings.map(str::to_owned).collect(),
        notes: notes
            .filter_map(|(key, value)| Some((format!("{hook}/{key}"), value.as_str()?.to_owned())))
            .collect(),
        refusal: None,
    };
    if !response.flag(&["allowed"]) {
        verdict.refusal = Some(refusal(hook, &response["status"]));
        return Ok(verdict);
    }
    let patch = response.text(&["patch"]);
    if patch.is_empty() {
        return Ok(verdict);
    }
    if !mutating {
        return Err("a validating webhook may not change the object".to_owned());
    }
    if response.text(&["patchType"]) != "JSONPatch" {
        let found = response.text(&["patchType"]);
        return Err(format!(
            "webhook returned response.patchType \"{found}\", which is not JSONPatch"
        ));
    }
    let bytes = base64_decode(patch).ok_or("webhook returned a patch that is no base64")?;
    let patch = serde_json::from_slice(&bytes);
    verdict.patch = Some(patch.map_err(|error| format!("webhook returned a bad patch: {error}"))?);
    Ok(verdict)
}

fn refusal(hook: &str, status: &Value) -> Status {
    let denied = format!("admission webhook \"{hook}\" denied the request");
    let (message, reason) = (status.text(&["message"]), status.text(&["reason"]));
    let message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.integer(&["code"]).and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let mut refusal = Status::new(code, Cow::Owned(reason.to_owned()), message);
    for cause in status.list(&["details", "causes"]) {
        refusal.causes.push(berth_objects::Cause {
            reason: cause.text(&["reason"]).to_owned(),
            message: cause.text(&["message"]).to_owned(),
            field: cause.text(&["field"]).to_owned(),
        });
    }
    refusal
}
