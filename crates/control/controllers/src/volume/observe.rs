//! A claim, and what it could be bound to.

use std::path::PathBuf;
use std::sync::Arc;

use berth_client::Key;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::context::Context;
use crate::object::is_finished;

/// The class of local volumes.
pub const CLASS: &str = "local";
/// Who makes local volumes.
pub const PROVISIONER: &str = "berth.dev/local";
/// The annotation of the class that claims without one get.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The finalizer of a claim that pods use.
pub const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// The finalizer of a volume whose directory is still there.
pub const DIRECTORY: &str = "berth.dev/local-volume";

/// A claim, and what it could be bound to.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// Whether a pod uses it.
    pub used: bool,
    /// Its class, if there is one.
    pub class: Option<Arc<StorageClass>>,
    /// The name of its class, or nothing for none at all.
    pub class_name: String,
    /// All volumes.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// The node for a new local volume.
    pub node: Option<Arc<Node>>,
    /// The directory of local volumes.
    pub root: PathBuf,
}

/// The names of the claims a pod uses.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let named = volumes.filter_map(|volume| {
        if volume.ephemeral.is_some() {
            return Some(format!("{}-{}", pod.name_any(), volume.name));
        }
        volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone())
    });
    named.collect()
}

pub(crate) fn observe(context: &Context, key: &Key) -> Option<Observed> {
    let mirrors = &context.mirrors;
    let claim = mirrors.claims.get(key)?;
    let pods = mirrors.pods.in_namespace(&key.namespace);
    let used = pods.iter().any(|pod| !is_finished(pod) && claims_of(pod).contains(&key.name));
    let classes = mirrors.classes.all();
    let class = match claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()) {
        Some(name) => classes.iter().find(|class| class.name_any() == name).cloned(),
        None => default_class(&classes),
    };
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
    let class_name = named.or_else(|| class.as_ref().map(|class| class.name_any()));
    let volumes = mirrors.volumes.all();
    let node = node(&mirrors.nodes.all(), &volumes, &context.settings.node_name);
    Some(Observed {
        claim,
        used,
        class,
        class_name: class_name.unwrap_or_default(),
        volumes,
        node,
        root: context.settings.volumes_root.clone(),
    })
}

/// The newest of the classes that are marked as default.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<Arc<StorageClass>> {
    let marked = classes
        .iter()
        .filter(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|mark| mark == "true"));
    marked.max_by_key(|class| (crate::object::created(class.as_ref()), class.name_any())).cloned()
}

/// The preferred node, or else the ready node with the fewest volumes.
fn node(
    nodes: &[Arc<Node>],
    volumes: &[Arc<PersistentVolume>],
    preferred: &str,
) -> Option<Arc<Node>> {
    let ready = nodes.iter().filter(|node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        ready.any(|condition| condition.status == "True") && !closed
    });
    let count = |name: &str| {
        let on = |volume: &&Arc<PersistentVolume>| {
            volume.annotations().get(NODE).is_some_and(|node| node == name)
        };
        volumes.iter().filter(on).count()
    };
    let rank = |node: &&Arc<Node>| {
        let name = node.name_any();
        (preferred != name, count(&name), name)
    };
    ready.min_by_key(rank).cloned()
}

/// The annotation of a local volume that names its node.
pub const NODE: &str = "berth.dev/node";
