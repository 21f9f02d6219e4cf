//! What becomes of a volume, with a claim and after it.

use std::fmt;

use berth_client::Key;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::debug;

use super::observe::PROVISIONER;
use crate::context::{Context, is_absent, or_absent};
use crate::object::is_going;

/// The annotation that tells the node to remove the directory.
pub const RECLAIM: &str = "berth.dev/reclaim";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Phase(&'static str),
    Mark,
    Delete,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase) => write!(formatter, "say {phase}"),
            Self::Mark => formatter.write_str("mark for removal"),
            Self::Delete => formatter.write_str("delete"),
        }
    }
}

/// How the claim of a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClaimState {
    /// The volume names none.
    None,
    /// It is there, or may come.
    There,
    /// It was there, and is gone.
    Gone,
}

fn plan(volume: &PersistentVolume, claim: ClaimState) -> Vec<Step> {
    if is_going(volume) {
        return Vec::new();
    }
    let phase = match claim {
        ClaimState::None => "Available",
        ClaimState::There => "Bound",
        ClaimState::Gone => "Released",
    };
    let mut steps = Vec::new();
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) != Some(phase) {
        steps.push(Step::Phase(phase));
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let provisioned = volume.annotations().get("pv.kubernetes.io/provisioned-by");
    let ours = provisioned.is_some_and(|by| by == PROVISIONER);
    let policy = spec.persistent_volume_reclaim_policy.as_deref();
    if claim == ClaimState::Gone && ours && policy == Some("Delete") {
        if volume.annotations().get(RECLAIM).is_none_or(|what| what != "delete") {
            steps.push(Step::Mark);
        }
        steps.push(Step::Delete);
    }
    steps
}

pub async fn reconcile(context: &Context, name: &str) -> Result<(), kube::Error> {
    let Some(volume) = context.mirrors.volumes.get(&Key::new("", name)) else { return Ok(()) };
    let claim = claim_state(context, &volume).await?;
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let params = PatchParams::default();
    for step in plan(&volume, claim) {
        debug!(volume = %name, %step, "volume");
        let changed = match step {
            Step::Phase(phase) => {
                let patch = json!({ "status": { "phase": phase } });
                api.patch_status(name, &params, &Patch::Merge(&patch)).await
            }
            Step::Mark => {
                let patch = json!({ "metadata": { "annotations": { RECLAIM: "delete" } } });
                api.patch(name, &params, &Patch::Merge(&patch)).await
            }
            Step::Delete => {
                or_absent(api.delete(name, &DeleteParams::default()).await)?;
                continue;
            }
        };
        if let Some(volume) = or_absent(changed)? {
            context.mirrors.volumes.note(volume);
        }
    }
    Ok(())
}

/// How the claim is. That it is gone is asked of the server itself: data depend on it.
async fn claim_state(
    context: &Context,
    volume: &PersistentVolume,
) -> Result<ClaimState, kube::Error> {
    let named = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(named) = named else { return Ok(ClaimState::None) };
    let Some(uid) = named.uid.as_ref().filter(|uid| !uid.is_empty()) else {
        return Ok(ClaimState::None);
    };
    let (namespace, name) =
        (named.namespace.clone().unwrap_or_default(), named.name.clone().unwrap_or_default());
    let known = context.mirrors.claims.get(&Key::new(&namespace, &name));
    if known.is_some_and(|claim| claim.uid().as_ref() == Some(uid)) {
        return Ok(ClaimState::There);
    }
    let api: Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &namespace);
    match api.get_metadata(&name).await {
        Ok(claim) if claim.metadata.uid.as_ref() == Some(uid) => Ok(ClaimState::There),
        Ok(_) => Ok(ClaimState::Gone),
        Err(error) if is_absent(&error) => Ok(ClaimState::Gone),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(policy: &str, by: &str, phase: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": { "name": "v", "annotations": { "pv.kubernetes.io/provisioned-by": by } },
            "spec": { "persistentVolumeReclaimPolicy": policy },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn text(volume: &PersistentVolume, claim: ClaimState) -> String {
        plan(volume, claim).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_volume_of_ours_goes_after_its_claim() {
        let mut volume = volume("Delete", PROVISIONER, "Bound");
        assert_eq!(text(&volume, ClaimState::There), "");
        assert_eq!(text(&volume, ClaimState::Gone), "say Released\nmark for removal\ndelete");
        // After a crash between the steps.
        volume.status.as_mut().unwrap().phase = Some("Released".into());
        assert_eq!(text(&volume, ClaimState::Gone), "mark for removal\ndelete");
        volume.annotations_mut().insert(RECLAIM.into(), "delete".into());
        assert_eq!(text(&volume, ClaimState::Gone), "delete");
    }

    #[test]
    fn other_volumes_are_only_released() {
        let kept = volume("Retain", PROVISIONER, "Bound");
        assert_eq!(text(&kept, ClaimState::Gone), "say Released");
        let foreign = volume("Delete", "somebody", "Bound");
        assert_eq!(text(&foreign, ClaimState::Gone), "say Released");
        assert_eq!(text(&volume("Retain", "", "Pending"), ClaimState::None), "say Available");
    }
}
