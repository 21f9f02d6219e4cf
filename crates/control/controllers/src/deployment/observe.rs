//! A Deployment and its ReplicaSets, told apart into the new one and the old ones.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::object::{controller, created, is_going, selects};

/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// The annotation with the number of a template in the history of its Deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The annotation with earlier numbers of the same template.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The annotation with the size of the Deployment when the ReplicaSet was scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The annotation with the size and surge of the Deployment when the ReplicaSet was scaled.
pub const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment and its ReplicaSets.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The Deployment.
    pub deployment: Arc<Deployment>,
    /// When this was seen.
    pub now: Timestamp,
    /// The set with the wanted template, if there is one.
    pub new: Option<Arc<ReplicaSet>>,
    /// All other sets, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
    /// Sets that match and that nobody controls.
    pub orphans: Vec<Arc<ReplicaSet>>,
}

impl Observed {
    /// What the Deployment is asked to be.
    #[must_use]
    pub fn spec(&self) -> DeploymentSpec {
        self.deployment.spec.clone().unwrap_or_default()
    }

    /// How many pods are asked for.
    #[must_use]
    pub fn replicas(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    /// Whether old pods go before new ones come.
    #[must_use]
    pub fn recreates(&self) -> bool {
        let strategy = self.deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    /// All sets, the new one last.
    pub fn sets(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    /// How many pods above, and how many below the wanted number are bearable. One of them is never zero.
    #[must_use]
    pub fn leeway(&self) -> (i32, i32) {
        if self.recreates() {
            return (0, 0);
        }
        let replicas = self.replicas();
        let strategy = self.deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone());
        let rolling = rolling.unwrap_or_default();
        let surge = resolve(rolling.max_surge.as_ref(), replicas, Round::Up);
        let unavailable = resolve(rolling.max_unavailable.as_ref(), replicas, Round::Down);
        if surge == 0 && unavailable == 0 {
            return (0, 1);
        }
        (surge, unavailable.min(replicas))
    }
}

enum Round {
    Up,
    Down,
}

fn resolve(value: Option<&IntOrString>, of: i32, round: Round) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => {
            text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        None => 25_i64,
    };
    let product = percent.max(0).saturating_mul(i64::from(of));
    let whole = match round {
        Round::Up => product.saturating_add(99) / 100,
        Round::Down => product / 100,
    };
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// Looks at a Deployment and the ReplicaSets of its namespace.
#[must_use]
pub fn observe(deployment: Arc<Deployment>, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Observed {
    let uid = deployment.uid().unwrap_or_default();
    let spec = deployment.spec.clone().unwrap_or_default();
    let (mut owned, mut orphans) = (Vec::new(), Vec::new());
    for set in sets {
        match controller(set.as_ref()) {
            Some(owner) if owner.uid == uid => owned.push(Arc::clone(set)),
            Some(_) => {}
            None if selects(&spec.selector, set.labels()) && !is_going(set.as_ref()) => {
                orphans.push(Arc::clone(set));
            }
            None => {}
        }
    }
    owned.sort_by_key(|set| (created(set.as_ref()), set.name_any()));
    // The oldest of several with the same template, so that everybody chooses the same.
    let new = owned.iter().position(|set| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| same_template(template, &spec.template))
    });
    let new = new.map(|at| owned.remove(at));
    Observed { deployment, now, new, old: owned, orphans }
}

/// Whether two templates make the same pods, but for the label that tells them apart.
#[must_use]
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let bare = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        template
    };
    bare(a) == bare(b)
}

/// The wanted size of a set.
#[must_use]
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many pods of a set serve. Never more than are wanted: the status may be from before scaling down.
#[must_use]
pub fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    status.and_then(|status| status.available_replicas).unwrap_or(0).min(size(set))
}

/// The number of a set in the history.
#[must_use]
pub fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}
