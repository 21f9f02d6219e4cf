//! What a claim needs.

use std::fmt;
use std::sync::Arc;

use berth_client::Key;
use berth_objects::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use super::observe::{Observed, PROTECTION, PROVISIONER};
use crate::object::{is_going, selects};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Keep the claim as long as pods use it.
    Protect,
    /// Let the claim go.
    Unprotect,
    /// Make a local volume for it.
    Provision {
        /// The volume's name.
        volume: String,
        /// The node it is on.
        node: String,
        /// The directory.
        path: String,
    },
    /// Reserve a volume for it.
    Reserve {
        /// The volume's name.
        volume: String,
    },
    /// Write the volume's name into it.
    Bind {
        /// The volume's name.
        volume: String,
    },
    /// Say how it is.
    Phase(&'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protect => formatter.write_str("protect"),
            Self::Unprotect => formatter.write_str("unprotect"),
            Self::Provision { volume, node, path } => {
                write!(formatter, "provision {volume} on {node} at {path}")
            }
            Self::Reserve { volume } => write!(formatter, "reserve {volume}"),
            Self::Bind { volume } => write!(formatter, "bind to {volume}"),
            Self::Phase(phase) => write!(formatter, "say {phase}"),
        }
    }
}

/// The steps for one claim.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Step> {
    let claim = observed.claim.as_ref();
    let protected = claim.finalizers().iter().any(|name| name == PROTECTION);
    if is_going(claim) {
        let free = protected && !observed.used;
        return free.then_some(Step::Unprotect).into_iter().collect();
    }
    let mut steps = Vec::new();
    if !protected {
        steps.push(Step::Protect);
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if let Some(name) = spec.volume_name.filter(|name| !name.is_empty()) {
        let volume = observed.volumes.iter().find(|volume| volume.name_any() == name);
        match volume {
            Some(volume) if is_reserved(volume, claim) => {
                steps.extend((phase != Some("Bound")).then_some(Step::Phase("Bound")));
            }
            Some(volume) if is_free(volume, claim) && is_of_mode(volume, claim) => {
                steps.push(Step::Reserve { volume: name });
                steps.extend((phase != Some("Bound")).then_some(Step::Phase("Bound")));
            }
            // Reserved for another, or gone after it was bound.
            _ if phase == Some("Bound") => steps.push(Step::Phase("Lost")),
            _ => {}
        }
        return steps;
    }
    if let Some(volume) = find(observed) {
        let name = volume.name_any();
        if !is_reserved(volume, claim) {
            steps.push(Step::Reserve { volume: name.clone() });
        }
        steps.extend([Step::Bind { volume: name }, Step::Phase("Bound")]);
        return steps;
    }
    // What is provisioned is a directory.
    let ours = observed.class.as_ref().is_some_and(|class| class.provisioner == PROVISIONER)
        && !is_block(claim);
    match &observed.node {
        Some(node) if ours => {
            let uid = claim.uid().unwrap_or_default();
            let key = Key::of(claim);
            let directory = format!("{}_{}_{uid}", key.namespace, key.name);
            let path = observed.root.join(directory).to_string_lossy().into_owned();
            let volume = format!("pvc-{uid}");
            steps.push(Step::Provision { volume: volume.clone(), node: node.name_any(), path });
            steps.extend([Step::Bind { volume }, Step::Phase("Bound")]);
        }
        _ => steps.extend((phase != Some("Pending")).then_some(Step::Phase("Pending"))),
    }
    steps
}

fn is_reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let named = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    named.is_some_and(|named| named.uid.is_some() && named.uid == claim.metadata.uid)
}

/// Whether a volume is nobody's, or kept for a claim of that name whichever it be.
fn is_free(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    if is_going(volume) {
        return false;
    }
    match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        None => true,
        Some(named) => {
            named.uid.as_deref().is_none_or(str::is_empty)
                && named.name == claim.metadata.name
                && named.namespace == claim.metadata.namespace
        }
    }
}

/// The volume already reserved for the claim, or else the smallest that will do.
fn find(observed: &Observed) -> Option<&Arc<PersistentVolume>> {
    let claim = observed.claim.as_ref();
    let reserved = observed.volumes.iter().find(|volume| is_reserved(volume, claim));
    reserved.or_else(|| {
        let fit = observed.volumes.iter().filter(|volume| fits(observed, volume));
        let kept = |volume: &PersistentVolume| {
            volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some())
        };
        fit.min_by_key(|volume| (!kept(volume), capacity(volume), volume.name_any()))
    })
}

/// Whether both are a device, or both a file system.
fn is_of_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    is_block(claim) == (volume == Some("Block"))
}

fn is_block(claim: &PersistentVolumeClaim) -> bool {
    let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    mode == Some("Block")
}

fn fits(observed: &Observed, volume: &PersistentVolume) -> bool {
    let claim = observed.claim.spec.clone().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    let has = spec.access_modes.unwrap_or_default();
    let modes = claim.access_modes.iter().flatten().all(|mode| has.contains(mode));
    let labels = volume.labels();
    is_free(volume, &observed.claim)
        && spec.storage_class_name.unwrap_or_default() == observed.class_name
        && modes
        && is_of_mode(volume, &observed.claim)
        && capacity(volume) >= wanted(&observed.claim)
        && claim.selector.as_ref().is_none_or(|selector| selects(selector, labels))
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|quantity| quantity.0.parse::<Quantity>().ok()).map_or(0, |size| size.value())
}

fn wanted(claim: &PersistentVolumeClaim) -> i64 {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get("storage"));
    storage.and_then(|quantity| quantity.0.parse::<Quantity>().ok()).map_or(0, |size| size.value())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
