//! Carries the collector's steps out. Each names the uid it is about, and what changes metadata names the revision, so
//! that nothing is done to an object nobody has looked at.

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tracing::debug;

use super::graph::Thing;
use super::plan::Step;
use crate::context::{Context, or_absent};

/// Carries one step out.
///
/// # Errors
/// When the server refuses, a conflict included: then the object has changed and is to be looked at again.
pub async fn apply(context: &Context, step: Step) -> Result<(), kube::Error> {
    debug!(%step, "garbage");
    match step {
        Step::Delete { thing, policy } => {
            let only = Preconditions { uid: Some(thing.uid.clone()), resource_version: None };
            let params = DeleteParams {
                propagation_policy: Some(policy),
                preconditions: Some(only),
                ..DeleteParams::default()
            };
            match api(context, &thing).delete(&thing.key.name, &params).await {
                Ok(_) => Ok(()),
                // Gone, or another one by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Step::Unlink { thing, owners } => {
            let left: Vec<_> =
                thing.owners.iter().filter(|owner| !owners.contains(&owner.uid)).collect();
            change(context, &thing, json!({ "ownerReferences": left })).await
        }
        Step::Finish { thing, finalizer } => {
            let left: Vec<_> = thing.finalizers.iter().filter(|name| *name != finalizer).collect();
            change(context, &thing, json!({ "finalizers": left })).await
        }
    }
}

fn api(context: &Context, thing: &Thing) -> Api<DynamicObject> {
    thing.kind.api(&context.client, &thing.key.namespace)
}

async fn change(context: &Context, thing: &Thing, mut meta: Value) -> Result<(), kube::Error> {
    meta["uid"] = json!(thing.uid);
    meta["resourceVersion"] = json!(thing.revision);
    let patch = Patch::Merge(json!({ "metadata": meta }));
    let api = api(context, thing);
    or_absent(api.patch(&thing.key.name, &PatchParams::default(), &patch).await)?;
    Ok(())
}
