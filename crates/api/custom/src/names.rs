//! Who gets which names, and what a definition says about itself.

use berth_objects::Object;
use serde_json::{Value, json};

use crate::definition::{APPROVED, FINALIZER, is_protected};

/// The names a definition may have, and why not those it does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    names: Value,
    conflict: Option<(&'static str, String)>,
}

/// Whether a condition of an object is true.
fn holds(object: &Value, kind: &str) -> bool {
    let conditions = object.list(&["status", "conditions"]);
    conditions.iter().any(|it| it.text(&["type"]) == kind && it.text(&["status"]) == "True")
}

/// Whether the objects of a definition are served.
#[must_use]
pub fn is_established(definition: &Value) -> bool {
    holds(definition, "Established")
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.list(&[field]).iter().filter_map(Value::as_str).map(String::from).collect()
}

/// Decides which names a definition gets besides the others of its group that have theirs already. `taken` are the names of
/// built-in kinds of the group: resources and kinds.
#[must_use]
pub fn accept(definition: &Value, others: &[&Value], taken: &[&str]) -> Accepted {
    let wanted = definition.at(&["spec", "names"]).cloned().unwrap_or_default();
    let mut resources: Vec<String> = taken.iter().map(|name| (*name).to_owned()).collect();
    let mut kinds = resources.clone();
    for other in others {
        let names = other.at(&["status", "acceptedNames"]).cloned().unwrap_or_default();
        resources
            .extend([names.text(&["plural"]).to_owned(), names.text(&["singular"]).to_owned()]);
        resources.extend(texts(&names, "shortNames"));
        kinds.extend([names.text(&["kind"]).to_owned(), names.text(&["listKind"]).to_owned()]);
    }
    let mut names =
        definition.at(&["status", "acceptedNames"]).cloned().unwrap_or_else(|| json!({}));
    let mut conflict = None;
    for (field, reason, known) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let words = match wanted.get(field) {
            Some(Value::String(word)) => vec![word.clone()],
            _ => texts(&wanted, field),
        };
        match words.iter().find(|word| !word.is_empty() && known.contains(word)) {
            Some(word) => {
                conflict.get_or_insert((reason, format!("\"{word}\" is already in use")));
            }
            None => match wanted.get(field) {
                Some(value) => names.set(&[field], value.clone()),
                None => drop(names.unset(&[field])),
            },
        }
    }
    match wanted.get("categories") {
        Some(categories) => names.set(&["categories"], categories.clone()),
        None => drop(names.unset(&["categories"])),
    }
    Accepted { names, conflict }
}

fn condition(status: &mut Value, kind: &str, value: &str, reason: &str, message: &str, now: &str) {
    let mut conditions = status.list(&["conditions"]).to_vec();
    let fresh = json!({"type": kind, "status": value, "lastTransitionTime": now, "reason": reason, "message": message});
    match conditions.iter_mut().find(|it| it.text(&["type"]) == kind) {
        Some(known) if known.text(&["status"]) == value => {
            known.set(&["reason"], reason);
            known.set(&["message"], message);
        }
        Some(known) => *known = fresh,
        None => conditions.push(fresh),
    }
    status.set(&["conditions"], conditions);
}

/// The status a definition should have.
#[must_use]
pub fn status(definition: &Value, accepted: &Accepted, now: &str) -> Value {
    let mut status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
    status.set(&["acceptedNames"], accepted.names.clone());
    let mut stored = texts(&status, "storedVersions");
    let versions = definition.list(&["spec", "versions"]);
    let storage = versions.iter().find(|version| version.flag(&["storage"]));
    if let Some(name) = storage.map(|version| version.text(&["name"]))
        && !stored.iter().any(|known| known == name)
    {
        stored.push(name.to_owned());
    }
    status.set(&["storedVersions"], stored);
    match &accepted.conflict {
        None => {
            let message = "no conflicts found";
            condition(&mut status, "NamesAccepted", "True", "NoConflicts", message, now);
            let message = "the initial names have been accepted";
            condition(&mut status, "Established", "True", "InitialNamesAccepted", message, now);
        }
        Some((reason, message)) => {
            condition(&mut status, "NamesAccepted", "False", reason, message, now);
            // What is served stays served under the names it has.
            if !is_established(definition) {
                let message = "not all names are accepted";
                condition(&mut status, "Established", "False", "NotAccepted", message, now);
            }
        }
    }
    if let Some(approval) = definition
        .annotation(APPROVED)
        .filter(|_| is_protected(definition.text(&["spec", "group"])))
    {
        let kind = "KubernetesAPIApprovalPolicyConformant";
        if approval.starts_with("unapproved") {
            let message = format!("not approved: \"{approval}\"");
            condition(&mut status, kind, "False", "UnapprovedAnnotation", &message, now);
        } else {
            let message = format!("approved in {approval}");
            condition(&mut status, kind, "True", "ApprovedAnnotation", &message, now);
        }
    }
    if definition.deleting()
        && definition.list(&["metadata", "finalizers"]).iter().any(|it| it == FINALIZER)
    {
        let message = "CustomResource deletion is in progress";
        condition(&mut status, "Terminating", "True", "InstanceDeletionInProgress", message, now);
    }
    status
}
