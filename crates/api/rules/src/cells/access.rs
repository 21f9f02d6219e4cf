//! Cells of roles, bindings and requests for certificates.

use berth_objects::{Column, Object, time};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{AGE, age};

pub(crate) const DEFINITION: &[Column] = ROLE;

pub(crate) fn definition(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![object.text(&["metadata", "creationTimestamp"]).into()]
}

pub(crate) const ROLE: &[Column] = &[Column { name: "Created At", kind: "date", wide: false }];

pub(crate) fn role(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![object.text(&["metadata", "creationTimestamp"]).into()]
}

pub(crate) const ROLE_BINDING: &[Column] = &[
    Column::text("Role"),
    AGE,
    Column::wide("Users"),
    Column::wide("Groups"),
    Column::wide("ServiceAccounts"),
];

pub(crate) fn role_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role =
        format!("{}/{}", object.text(&["roleRef", "kind"]), object.text(&["roleRef", "name"]));
    let named = |kind: &str| {
        let subjects = object.list(&["subjects"]).iter();
        let names =
            subjects.filter(|subject| subject.text(&["kind"]) == kind).map(|subject| {
                match (kind, subject.text(&["namespace"])) {
                    ("ServiceAccount", space) if !space.is_empty() => {
                        format!("{space}/{}", subject.text(&["name"]))
                    }
                    _ => subject.text(&["name"]).to_owned(),
                }
            });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![role.into(), age(object, now), named("User"), named("Group"), named("ServiceAccount")]
}

pub(crate) const SIGNING_REQUEST: &[Column] = &[
    AGE,
    Column::text("SignerName"),
    Column::text("Requestor"),
    Column::text("RequestedDuration"),
    Column::text("Condition"),
];

pub(crate) fn signing_request(object: &Value, now: Timestamp) -> Vec<Value> {
    let duration = match object.integer(&["spec", "expirationSeconds"]) {
        Some(seconds) => {
            let span = SignedDuration::from_secs(seconds);
            let end = Timestamp::UNIX_EPOCH.checked_add(span).unwrap_or(Timestamp::MAX);
            time::age(Timestamp::UNIX_EPOCH, end)
        }
        None => "<none>".to_owned(),
    };
    let conditions = object.list(&["status", "conditions"]);
    let is = |kind: &str| conditions.iter().any(|it| it.text(&["type"]) == kind);
    let mut condition = match () {
        () if is("Denied") => "Denied",
        () if is("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if is("Failed") {
        condition += ",Failed";
    }
    if !object.text(&["status", "certificate"]).is_empty() {
        condition += ",Issued";
    }
    vec![
        age(object, now),
        object.text(&["spec", "signerName"]).into(),
        object.text(&["spec", "username"]).into(),
        duration.into(),
        condition.into(),
    ]
}
