//! Carries the steps of a ReplicaSet out, many at once.
//!
//! Pods are created in batches that double: when the first is refused, the rest is not tried.

use berth_client::{Key, Level};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::debug;

use super::observe::Observed;
use super::plan::Step;
use crate::context::{Context, or_absent};
use crate::object::controlled_by;

/// Carries all steps out. Later steps are tried though an earlier one failed.
///
/// # Errors
/// The first refusal.
pub async fn apply(
    context: &Context,
    observed: &Observed,
    steps: Vec<Step>,
) -> Result<(), kube::Error> {
    let mut creations = 0;
    let mut others = Vec::new();
    for step in steps {
        debug!(%step, "replica set");
        match step {
            Step::Create => creations += 1,
            step => others.push(one(context, observed, step)),
        }
    }
    let outcome: Result<(), _> = join_all(others).await.into_iter().collect();
    let mut batch = 1;
    while creations > 0 {
        let size = batch.min(creations);
        let made = join_all((0..size).map(|_| create(context, observed))).await;
        made.into_iter().collect::<Result<(), _>>()?;
        creations -= size;
        batch *= 2;
    }
    outcome
}

async fn one(context: &Context, observed: &Observed, step: Step) -> Result<(), kube::Error> {
    match step {
        Step::Create => create(context, observed).await,
        Step::Delete { pod, uid } => delete(context, observed, &pod, &uid).await,
        Step::Adopt { pod, uid } => {
            let owner = controlled_by(observed.set.as_ref());
            let patch = json!({ "metadata": { "uid": uid, "ownerReferences": [owner] } });
            change(context, &pod, &patch).await
        }
        Step::Release { pod, uid } => {
            let owner = observed.set.uid().unwrap_or_default();
            let gone = json!({ "$patch": "delete", "uid": owner });
            let patch = json!({ "metadata": { "uid": uid, "ownerReferences": [gone] } });
            change(context, &pod, &patch).await
        }
    }
}

async fn change(
    context: &Context,
    pod: &Key,
    patch: &serde_json::Value,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    let outcome = api.patch(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    if let Some(changed) = or_absent(outcome)? {
        context.mirrors.pods.note(changed);
    }
    Ok(())
}

async fn create(context: &Context, observed: &Observed) -> Result<(), kube::Error> {
    let set = observed.set.as_ref();
    let namespace = set.namespace().unwrap_or_default();
    let template = observed.spec().template.unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: Some(namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controlled_by(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    match api.create(&PostParams::default(), &pod).await {
        Ok(pod) => {
            let message = format!("Created pod: {}", pod.name_any());
            context.recorder.record(set, Level::Normal, "SuccessfulCreate", message);
            context.mirrors.pods.note(pod);
            Ok(())
        }
        Err(error) => {
            let message = format!("Error creating: {}", reason(&error));
            context.recorder.record(set, Level::Warning, "FailedCreate", message);
            Err(error)
        }
    }
}

async fn delete(
    context: &Context,
    observed: &Observed,
    pod: &Key,
    uid: &str,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    let only = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    match api.delete(&pod.name, &params).await {
        Ok(_) => {
            context.mirrors.pods.amend(pod, uid, |pod| {
                pod.metadata.deletion_timestamp.get_or_insert(Time(Timestamp::now()));
            });
            let message = format!("Deleted pod: {}", pod.name);
            context.recorder.record(
                observed.set.as_ref(),
                Level::Normal,
                "SuccessfulDelete",
                message,
            );
            Ok(())
        }
        // Gone, or another pod by now: either way not ours to delete.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => {
            let message = format!("Error deleting: {}", reason(&error));
            context.recorder.record(observed.set.as_ref(), Level::Warning, "FailedDelete", message);
            Err(error)
        }
    }
}

/// What the server said, without the machinery around it.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Writes the status.
///
/// # Errors
/// When the server refuses; not when the set is gone.
pub async fn status(
    context: &Context,
    observed: &Observed,
    status: ReplicaSetStatus,
) -> Result<(), kube::Error> {
    let set = &observed.set;
    let api: Api<ReplicaSet> =
        Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    // Conditions are always said, so that an empty list removes them.
    let mut value = serde_json::to_value(&status).map_err(kube::Error::SerdeError)?;
    if status.conditions.is_none() {
        value["conditions"] = serde_json::Value::Null;
    }
    let patch = json!({ "metadata": { "uid": set.uid() }, "status": value });
    let outcome =
        api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    if let Some(set) = or_absent(outcome)? {
        context.mirrors.replica_sets.note(set);
    }
    Ok(())
}
