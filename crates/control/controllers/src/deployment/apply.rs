//! Carries the steps of a Deployment out, in order. What the server answers goes into the mirror at once.

use std::collections::BTreeMap;

use berth_client::{Key, Level};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::debug;

use super::observe::{
    DESIRED, HASH_LABEL, MAXIMUM, Observed, REVISION, REVISION_HISTORY, revision, same_template,
};
use super::plan::Step;
use crate::context::{Context, is_present, or_absent};
use crate::object::{controlled_by, controller};

/// Annotations of the Deployment that its ReplicaSets bear, too, such as the cause of a change.
#[must_use]
pub fn passed_on(deployment: &Deployment) -> BTreeMap<String, String> {
    let own = [REVISION, REVISION_HISTORY, DESIRED, MAXIMUM];
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|key, _| {
        key != "kubectl.kubernetes.io/last-applied-configuration" && !own.contains(&key.as_str())
    });
    annotations
}

/// Carries all steps out; stops at the first that fails.
///
/// # Errors
/// That failure.
pub async fn apply(
    context: &Context,
    observed: &Observed,
    steps: Vec<Step>,
) -> Result<(), kube::Error> {
    for step in steps {
        debug!(deployment = %Key::of(observed.deployment.as_ref()), %step, "deployment");
        one(context, observed, step).await?;
    }
    Ok(())
}

async fn one(context: &Context, observed: &Observed, step: Step) -> Result<(), kube::Error> {
    match step {
        Step::Adopt { set } => {
            let owner = controlled_by(observed.deployment.as_ref());
            change(context, observed, &set, &json!({ "metadata": { "ownerReferences": [owner] } }))
                .await
        }
        Step::Create { set, hash, replicas, revision } => {
            create(context, observed, &set, &hash, replicas, revision).await
        }
        Step::Revise { set, revision } => {
            let patch = revise(context, observed, &set, revision);
            change(context, observed, &set, &patch).await
        }
        Step::Publish { revision } => publish(context, observed, revision).await,
        Step::Scale { set, from, to } => scale(context, observed, &set, from, to).await,
        Step::Forget { set } => {
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                ..DeleteParams::default()
            };
            or_absent(sets(context, observed).delete(&set, &params).await).map(|_| ())
        }
    }
}

fn sets(context: &Context, observed: &Observed) -> Api<ReplicaSet> {
    let namespace = observed.deployment.namespace().unwrap_or_default();
    Api::namespaced(context.client.clone(), &namespace)
}

async fn change(
    context: &Context,
    observed: &Observed,
    set: &str,
    patch: &Value,
) -> Result<(), kube::Error> {
    let api = sets(context, observed);
    let outcome = api.patch(set, &PatchParams::default(), &Patch::Strategic(patch)).await;
    if let Some(set) = or_absent(outcome)? {
        context.mirrors.replica_sets.note(set);
    }
    Ok(())
}

fn measures(observed: &Observed) -> [(String, String); 2] {
    let replicas = observed.replicas();
    let (surge, _) = observed.leeway();
    [
        (DESIRED.to_owned(), replicas.to_string()),
        (MAXIMUM.to_owned(), (replicas + surge).to_string()),
    ]
}

async fn create(
    context: &Context,
    observed: &Observed,
    name: &str,
    hash: &str,
    replicas: i32,
    number: i64,
) -> Result<(), kube::Error> {
    let deployment = observed.deployment.as_ref();
    let spec = observed.spec();
    let labelled = |labels: &mut Option<BTreeMap<String, String>>| {
        labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.to_owned());
    };
    let mut template = spec.template.clone();
    labelled(&mut template.metadata.get_or_insert_default().labels);
    let mut selector = spec.selector.clone();
    labelled(&mut selector.match_labels);
    let mut annotations = passed_on(deployment);
    annotations.extend(measures(observed));
    annotations.insert(REVISION.to_owned(), number.to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: deployment.namespace(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controlled_by(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let api = sets(context, observed);
    match api.create(&PostParams::default(), &set).await {
        Ok(set) => {
            context.mirrors.replica_sets.note(set);
            tell_scaled(context, observed, name, 0, replicas);
            Ok(())
        }
        Err(error) if is_present(&error) => {
            let Some(other) = api.get_opt(name).await? else { return Err(error) };
            let ours = controller(&other).map(|owner| &owner.uid) == deployment.uid().as_ref();
            let template = other.spec.as_ref().and_then(|spec| spec.template.as_ref());
            if ours && template.is_some_and(|template| same_template(template, &spec.template)) {
                // Made before a crash of ours, or by a server before us.
                context.mirrors.replica_sets.note(other);
                return Ok(());
            }
            let count = deployment.status.as_ref().and_then(|status| status.collision_count);
            let patch = json!({ "status": { "collisionCount": count.unwrap_or(0) + 1 } });
            write_status(context, observed, &patch).await
        }
        Err(error) => {
            let message = format!("Failed to create new replica set \"{name}\": {error}");
            context.recorder.record(deployment, Level::Warning, "ReplicaSetCreateError", message);
            Err(error)
        }
    }
}

fn revise(context: &Context, observed: &Observed, name: &str, number: i64) -> Value {
    let namespace = observed.deployment.namespace().unwrap_or_default();
    let mut annotations = passed_on(&observed.deployment);
    annotations.insert(REVISION.to_owned(), number.to_string());
    if let Some(set) = context.mirrors.replica_sets.get(&Key::new(namespace, name)) {
        let before = revision(&set);
        if before > 0 && before != number {
            let earlier = set.annotations().get(REVISION_HISTORY).filter(|text| !text.is_empty());
            let history =
                earlier.map_or_else(|| before.to_string(), |text| format!("{text},{before}"));
            annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    let pause = observed.spec().min_ready_seconds.unwrap_or(0);
    json!({ "metadata": { "annotations": annotations }, "spec": { "minReadySeconds": pause } })
}

async fn publish(context: &Context, observed: &Observed, number: i64) -> Result<(), kube::Error> {
    let patch = json!({ "metadata": { "annotations": { REVISION: number.to_string() } } });
    let name = observed.deployment.name_any();
    let api = deployments(context, observed);
    let outcome = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    if let Some(deployment) = or_absent(outcome)? {
        context.mirrors.deployments.note(deployment);
    }
    Ok(())
}

async fn scale(
    context: &Context,
    observed: &Observed,
    set: &str,
    from: i32,
    to: i32,
) -> Result<(), kube::Error> {
    let annotations: BTreeMap<_, _> = measures(observed).into();
    let patch = json!({ "metadata": { "annotations": annotations }, "spec": { "replicas": to } });
    change(context, observed, set, &patch).await?;
    if from != to {
        tell_scaled(context, observed, set, from, to);
    }
    Ok(())
}

fn tell_scaled(context: &Context, observed: &Observed, set: &str, from: i32, to: i32) {
    let way = if to >= from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {set} from {from} to {to}");
    let deployment = observed.deployment.as_ref();
    context.recorder.record(deployment, Level::Normal, "ScalingReplicaSet", message);
}

fn deployments(context: &Context, observed: &Observed) -> Api<Deployment> {
    let namespace = observed.deployment.namespace().unwrap_or_default();
    Api::namespaced(context.client.clone(), &namespace)
}

/// Writes the status.
///
/// # Errors
/// When the server refuses; not when the Deployment is gone.
pub async fn status(
    context: &Context,
    observed: &Observed,
    status: DeploymentStatus,
) -> Result<(), kube::Error> {
    let uid = observed.deployment.uid();
    let patch = json!({ "metadata": { "uid": uid }, "status": status });
    write_status(context, observed, &patch).await
}

async fn write_status(
    context: &Context,
    observed: &Observed,
    patch: &Value,
) -> Result<(), kube::Error> {
    let api = deployments(context, observed);
    let name = observed.deployment.name_any();
    let outcome = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    if let Some(deployment) = or_absent(outcome)? {
        context.mirrors.deployments.note(deployment);
    }
    Ok(())
}
