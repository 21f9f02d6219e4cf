//! The storage class of claims that name none.

use std::cmp::Reverse;

use berth_objects::{Object, Status};
use serde_json::Value;

use crate::call::Call;

const DEFAULTS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const OLD_NAME: &str = "volume.beta.kubernetes.io/storage-class";

/// Gives a claim the cluster's default class. Where several claim to be that, the newest is.
pub(crate) async fn fill(call: &Call, claim: &mut Value) -> Result<(), Status> {
    // An empty name asks for no class, which is an answer.
    if claim.at(&["spec", "storageClassName"]).is_some() || claim.annotation(OLD_NAME).is_some() {
        return Ok(());
    }
    let resource = berth_rules::find("storage.k8s.io", "v1", "storageclasses")
        .ok_or_else(|| Status::internal("storage classes are not served"))?;
    let classes = call.shared.list(resource, "").await?;
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
