//! What storage classes say about claims: which class is that of claims that name none, and which claims may grow.

use std::cmp::Reverse;

use berth_objects::{Object, Quantity, Resource, Status};
use serde_json::Value;

use crate::call::Call;

const DEFAULTS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const OLD_NAME: &str = "volume.beta.kubernetes.io/storage-class";

fn resource() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find("storage.k8s.io", "v1", "storageclasses")
        .ok_or_else(|| Status::internal("storage classes are not served"))
}

/// Gives a claim the cluster's default class. Where several claim to be that, the newest is.
pub(crate) async fn fill(call: &Call, claim: &mut Value) -> Result<(), Status> {
    // An empty name asks for no class, which is an answer.
    if claim.at(&["spec", "storageClassName"]).is_some() || claim.annotation(OLD_NAME).is_some() {
        return Ok(());
    }
    let classes = call.shared.list(resource()?, "").await?;
    let default = classes
        .iter()
        .filter(|class| DEFAULTS.iter().any(|name| class.annotation(name) == Some("true")))
        .min_by_key(|class| {
            (Reverse(class.text(&["metadata", "creationTimestamp"])), class.name())
        });
    if let Some(class) = default {
        claim.set(&["spec", "storageClassName"], class.name());
    }
    Ok(())
}

/// Refuses more storage for a claim that has no volume yet, or whose class cannot give more.
pub(crate) async fn may_grow(call: &Call, claim: &Value, old: &Value) -> Result<(), Status> {
    let asked = |claim: &Value| -> Option<Quantity> {
        claim.text(&["spec", "resources", "requests", "storage"]).parse().ok()
    };
    let (Some(new), Some(before)) = (asked(claim), asked(old)) else { return Ok(()) };
    if new <= before {
        return Ok(());
    }
    if old.text(&["status", "phase"]) != "Bound" {
        let why = "Only bound persistent volume claims can be expanded";
        return Err(Status::forbidden(call.subject(), why));
    }
    let name = match old.annotation(OLD_NAME) {
        Some(name) => name,
        None => old.text(&["spec", "storageClassName"]),
    };
    let class = match name {
        "" => None,
        name => call.shared.fetch(resource()?, "", name).await?,
    };
    if class.is_some_and(|(class, _)| class.flag(&["allowVolumeExpansion"])) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions \
               the pvc must support resize";
    Err(Status::forbidden(call.subject(), why))
}
