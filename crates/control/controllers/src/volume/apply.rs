//! Carries the steps of a claim out.

use std::collections::BTreeMap;

use berth_client::{Key, Level};
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::debug;

use super::observe::{CLASS, DEFAULT_CLASS, DIRECTORY, NODE, Observed, PROTECTION, PROVISIONER};
use super::plan::Step;
use crate::context::{Context, is_present, or_absent};

/// Sees to it that the class of local volumes exists. What somebody has changed about it stays.
///
/// # Errors
/// When the server refuses.
pub async fn ensure_class(context: &Context) -> Result<(), kube::Error> {
    if context.mirrors.classes.get(&Key::new("", CLASS)).is_some() {
        return Ok(());
    }
    let class = StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.to_owned()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("Immediate".to_owned()),
        ..StorageClass::default()
    };
    let api: Api<StorageClass> = Api::all(context.client.clone());
    match api.create(&PostParams::default(), &class).await {
        Ok(class) => context.mirrors.classes.note(class),
        Err(error) if is_present(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Carries one step out.
///
/// # Errors
/// When the server refuses.
pub async fn apply(context: &Context, observed: &Observed, step: Step) -> Result<(), kube::Error> {
    let claim = observed.claim.as_ref();
    debug!(claim = %Key::of(claim), %step, "claim");
    match step {
        Step::Protect => {
            let mut finalizers = claim.finalizers().to_vec();
            finalizers.push(PROTECTION.to_owned());
            finalize(context, claim, finalizers).await
        }
        Step::Unprotect => {
            let mut finalizers = claim.finalizers().to_vec();
            finalizers.retain(|name| name != PROTECTION);
            finalize(context, claim, finalizers).await
        }
        Step::Provision { volume, node, path } => {
            provision(context, observed, &volume, &node, path).await
        }
        Step::Reserve { volume } => {
            let patch = json!({ "spec": { "claimRef": reference(claim) } });
            let api: Api<PersistentVolume> = Api::all(context.client.clone());
            let params = PatchParams::default();
            let changed = api.patch(&volume, &params, &Patch::Merge(&patch)).await?;
            context.mirrors.volumes.note(changed);
            Ok(())
        }
        Step::Bind { volume } => {
            let annotations = json!({
                "pv.kubernetes.io/bind-completed": "yes",
                "pv.kubernetes.io/bound-by-controller": "yes",
            });
            let patch = json!({
                "metadata": { "uid": claim.uid(), "annotations": annotations },
                "spec": { "volumeName": volume },
            });
            change(context, claim, &patch).await
        }
        Step::Phase(phase) => say(context, claim, phase).await,
    }
}

fn claims(context: &Context, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
    Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default())
}

async fn finalize(
    context: &Context,
    claim: &PersistentVolumeClaim,
    finalizers: Vec<String>,
) -> Result<(), kube::Error> {
    // The list is written as a whole, so nobody may have changed it meanwhile.
    let key = Key::of(claim);
    let latest = context.mirrors.claims.get(&key).and_then(|claim| claim.resource_version());
    let patch = json!({ "metadata": {
        "uid": claim.uid(), "resourceVersion": latest, "finalizers": finalizers,
    } });
    change(context, claim, &patch).await
}

async fn change(
    context: &Context,
    claim: &PersistentVolumeClaim,
    patch: &Value,
) -> Result<(), kube::Error> {
    let api = claims(context, claim);
    let outcome = api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    if let Some(claim) = or_absent(outcome)? {
        context.mirrors.claims.note(claim);
    }
    Ok(())
}

fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.namespace(),
        name: Some(claim.name_any()),
        uid: claim.uid(),
        ..ObjectReference::default()
    }
}

async fn provision(
    context: &Context,
    observed: &Observed,
    name: &str,
    node: &str,
    path: String,
) -> Result<(), kube::Error> {
    let claim = observed.claim.as_ref();
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let capacity: BTreeMap<_, _> =
        requests.into_iter().filter(|(name, _)| name == "storage").collect();
    let policy = observed.class.as_ref().and_then(|class| class.reclaim_policy.clone());
    let on_node = NodeSelectorRequirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname(observed).unwrap_or_else(|| node.to_owned())]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![on_node]), match_fields: None };
    let annotations = [
        ("pv.kubernetes.io/provisioned-by".to_owned(), PROVISIONER.to_owned()),
        (NODE.to_owned(), node.to_owned()),
    ];
    let volume = PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(annotations.into()),
            finalizers: Some(vec![DIRECTORY.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(capacity),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource { path, fs_type: None }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: policy.or(Some("Delete".to_owned())),
            storage_class_name: Some(observed.class_name.clone()),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    match api.create(&PostParams::default(), &volume).await {
        Ok(volume) => {
            context.mirrors.volumes.note(volume);
            let message = format!("Successfully provisioned volume {name}");
            context.recorder.record(claim, Level::Normal, "ProvisioningSucceeded", message);
            Ok(())
        }
        // Its name holds the uid of the claim: made by us before a crash.
        Err(error) if is_present(&error) => Ok(()),
        Err(error) => {
            let message = format!("Failed to provision volume: {error}");
            context.recorder.record(claim, Level::Warning, "ProvisioningFailed", message);
            Err(error)
        }
    }
}

fn hostname(observed: &Observed) -> Option<String> {
    observed.node.as_ref()?.labels().get("kubernetes.io/hostname").cloned()
}

async fn say(
    context: &Context,
    claim: &PersistentVolumeClaim,
    phase: &str,
) -> Result<(), kube::Error> {
    let latest = context.mirrors.claims.get(&Key::of(claim));
    let name = latest.and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
    let volume = name.and_then(|name| context.mirrors.volumes.get(&Key::new("", name)));
    let spec = volume.as_ref().and_then(|volume| volume.spec.as_ref()).filter(|_| phase == "Bound");
    let mut status = json!({ "phase": phase });
    if let Some(spec) = spec {
        status["accessModes"] = json!(spec.access_modes);
        status["capacity"] = json!(spec.capacity);
    }
    let patch = json!({ "metadata": { "uid": claim.uid() }, "status": status });
    let api = claims(context, claim);
    let params = PatchParams::default();
    let outcome = api.patch_status(&claim.name_any(), &params, &Patch::Merge(&patch)).await;
    if let Some(claim) = or_absent(outcome)? {
        context.mirrors.claims.note(claim);
    }
    Ok(())
}
