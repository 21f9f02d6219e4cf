//! What a node may write into objects it may write at all (NodeRestriction).

use berth_objects::{Object, Status, Subject};
use serde_json::{Value, json};

use crate::call::Call;
use crate::guard::node;

/// Held by volumes whose directory is on a node.
const VOLUME_NODE: &str = "berth.dev/node";
/// Labels under these domains are set by administrators, except those below.
const DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];
const RESTRICTED: &str = "node-restriction.kubernetes.io";
const NODE_LABELS: [&str; 16] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "kubernetes.io/role",
    "node.kubernetes.io/exclude-disruption",
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "kubernetes.io/cluster-service",
];

fn refuse(call: &Call, object: &Value, why: &str) -> Status {
    let subject = Subject::new(call.resource().group, call.resource().plural, object.name());
    Status::forbidden(subject, why)
}

/// A mirror is a node's own word on a pod that it runs without having been asked, and a node creates no other pods. Nobody else
/// creates one, whatever they may do: what is said of mirrors is not true of their pods.
pub(crate) async fn mirror(call: &Call, object: &Value) -> Result<(), Status> {
    if (call.resource().group, call.resource().kind) != ("", "Pod") {
        return Ok(());
    }
    let Some(own) = node(call) else {
        return match berth_rules::is_mirror(object) {
            true => Err(refuse(call, object, "only a node can create a mirror pod")),
            false => Ok(()),
        };
    };
    let refuse = |why: &str| Err(refuse(call, object, &format!("node \"{own}\" {why}")));
    if !berth_rules::is_mirror(object) {
        return refuse("can only create mirror pods");
    }
    if object.text(&["spec", "nodeName"]) != own {
        return refuse("can only create pods with spec.nodeName set to itself");
    }
    if let Some(field) = berth_rules::reference(object) {
        return refuse(&format!("can not create pods that reference other objects: {field}"));
    }
    let [owner] = object.list(&["metadata", "ownerReferences"]) else {
        return refuse("can only create pods with a single owner reference set to itself");
    };
    let named = [("apiVersion", "v1"), ("kind", "Node"), ("name", own)];
    if named.into_iter().any(|(field, wanted)| owner.text(&[field]) != wanted)
        || !owner.flag(&["controller"])
    {
        return refuse("can only create pods with a controller owner reference set to itself");
    }
    if owner.flag(&["blockOwnerDeletion"]) {
        return refuse("must not set blockOwnerDeletion on an owner reference");
    }
    let nodes = berth_rules::find("", "v1", "nodes")
        .ok_or_else(|| Status::internal("nodes are not served"))?;
    let known = call.shared.fetch(nodes, "", own).await?;
    match known.is_some_and(|(known, _)| known.uid() == owner.text(&["uid"])) {
        true => Ok(()),
        false => refuse("is not the one that the owner reference has the UID of"),
    }
}

/// Whether a label may be set by the node itself.
fn is_own_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let under = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    if under(RESTRICTED) {
        return false;
    }
    if under("kubelet.kubernetes.io") || under("node.kubernetes.io") {
        return true;
    }
    NODE_LABELS.contains(&label) || !DOMAINS.into_iter().any(under)
}

pub(crate) fn create(call: &Call, object: &Value) -> Result<(), Status> {
    let Some(own) = node(call) else { return Ok(()) };
    match (call.resource().group, call.resource().kind) {
        ("", "Node") => {
            if object.name() != own {
                let why =
                    format!("node \"{own}\" is not allowed to create node \"{}\"", object.name());
                return Err(refuse(call, object, &why));
            }
            labels(call, object, &json!({}))
        }
        ("coordination.k8s.io", "Lease") if object.name() != own => {
            Err(refuse(call, object, "a node can only create its own lease"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn update(call: &Call, object: &Value, old: &Value) -> Result<(), Status> {
    let Some(own) = node(call) else { return Ok(()) };
    match (call.resource().group, call.resource().kind) {
        ("", "Node") => {
            if object.at(&["spec", "taints"]) != old.at(&["spec", "taints"]) {
                return Err(refuse(call, object, "a node may not change its taints"));
            }
            if object.at(&["metadata", "ownerReferences"])
                != old.at(&["metadata", "ownerReferences"])
            {
                return Err(refuse(call, object, "a node may not change its owners"));
            }
            labels(call, object, old)
        }
        ("", "Pod") if old.text(&["spec", "nodeName"]) != own => {
            Err(refuse(call, object, "a node can only change pods bound to it"))
        }
        ("", "PersistentVolume") => volume(call, own, object, old),
        _ => Ok(()),
    }
}

fn labels(call: &Call, object: &Value, old: &Value) -> Result<(), Status> {
    let none = serde_json::Map::new();
    let (new, old) = (object.labels().unwrap_or(&none), old.labels().unwrap_or(&none));
    let names = new.keys().chain(old.keys());
    let changed = names.filter(|name| new.get(*name) != old.get(*name));
    let mut forbidden: Vec<_> = changed.filter(|name| !is_own_label(name)).cloned().collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    forbidden.sort();
    forbidden.dedup();
    let why = format!("is not allowed to modify labels: {}", forbidden.join(", "));
    Err(refuse(call, object, &why))
}

/// A node clears the finalizer of a volume whose directory it had, and does nothing else to volumes.
fn volume(call: &Call, own: &str, object: &Value, old: &Value) -> Result<(), Status> {
    let bare = |volume: &Value| {
        let mut volume = volume.clone();
        volume.unset(&["metadata", "finalizers"]);
        volume.unset(&["metadata", "managedFields"]);
        volume.unset(&["metadata", "resourceVersion"]);
        volume
    };
    let ours = old.annotation(VOLUME_NODE).is_none_or(|node| node == own);
    let fewer = object
        .list(&["metadata", "finalizers"])
        .iter()
        .all(|name| old.list(&["metadata", "finalizers"]).contains(name));
    if ours && old.deleting() && fewer && bare(object) == bare(old) {
        return Ok(());
    }
    Err(refuse(call, object, "a node can only say that the directory of a deleted volume is gone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_it_is_but_not_what_it_is_for() {
        for label in ["kubernetes.io/hostname", "team", "example.com/x", "node.kubernetes.io/a"] {
            assert!(is_own_label(label), "{label}");
        }
        for label in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "k8s.io/a",
        ] {
            assert!(!is_own_label(label), "{label}");
        }
    }
}
