//! What matters of pods and nodes for where a pod may run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use berth_client::Key;
use berth_client::demand::{self, Quality, amounts};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec,
    PreferredSchedulingTerm, Taint, Toleration,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

/// Amounts by resource name, with one of `pods` for each pod.
pub type Amounts = demand::Amounts;

/// A port of the node that a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address; `0.0.0.0` is all of them.
    pub address: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had at once.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address
                || self.address == "0.0.0.0"
                || other.address == "0.0.0.0")
    }
}

/// What a pod takes from a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests.
    pub amounts: Amounts,
    /// Ports of the node.
    pub ports: Vec<HostPort>,
}

impl Usage {
    /// Takes more.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.amounts {
            let sum = self.amounts.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
        self.ports.extend(other.ports.iter().cloned());
    }

    /// Gives back what was taken.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.amounts {
            if let Some(sum) = self.amounts.get_mut(name) {
                *sum = sum.saturating_sub(*amount);
            }
        }
        for port in &other.ports {
            if let Some(at) = self.ports.iter().position(|has| has == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// A pod that wants a node.
#[derive(Debug, Clone, Default)]
pub struct PodFacts {
    /// Which pod.
    pub key: Key,
    /// Which one of that name.
    pub uid: String,
    /// Higher goes first.
    pub priority: i32,
    /// Older goes first among equals.
    pub created: Option<Timestamp>,
    /// What it takes.
    pub usage: Usage,
    /// Labels its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What its node must match.
    pub required: Option<NodeSelector>,
    /// What its node had better match.
    pub preferred: Vec<PreferredSchedulingTerm>,
    /// Taints it bears.
    pub tolerations: Vec<Toleration>,
    /// Names of the claims it mounts.
    pub claims: Vec<String>,
    /// What its condition `PodScheduled` says against it already.
    pub reported: Option<String>,
}

/// A node that may take pods.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Whether it says it is ready.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// What it has to give.
    pub allocatable: Amounts,
}

/// A node with what is taken from it.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// What is taken.
    pub used: Usage,
}

/// Whether the volumes of a pod are there, and where.
#[derive(Debug, Clone, PartialEq)]
pub enum Volumes {
    /// All are bound; each of these must match the node.
    Ready(Vec<NodeSelector>),
    /// One is not there yet, for this reason.
    Missing(String),
}

/// A pod to be bound, with what its volumes ask for.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The pod.
    pub pod: PodFacts,
    /// Its volumes.
    pub volumes: Volumes,
}

impl PodFacts {
    /// The facts of a pod that is ours to bind; nothing when it is bound, finished, going, gated or another scheduler's.
    #[must_use]
    pub fn pending(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == crate::NAME);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let bound = spec.node_name.as_ref().is_some_and(|name| !name.is_empty());
        if !ours || gated || bound || is_finished(pod) || pod.metadata.deletion_timestamp.is_some()
        {
            return None;
        }
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
        let affinity = affinity.unwrap_or_default();
        let volumes = spec.volumes.iter().flatten();
        let claims = volumes.filter_map(|volume| {
            let generic =
                volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name_any(), volume.name));
            generic.or_else(|| {
                volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone())
            })
        });
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let reported = conditions
            .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            .find_map(|condition| condition.message.clone());
        Some(Self {
            key: Key::of(pod),
            uid: pod.uid().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            usage: usage(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required: affinity.required_during_scheduling_ignored_during_execution,
            preferred: affinity
                .preferred_during_scheduling_ignored_during_execution
                .unwrap_or_default(),
            tolerations: tolerations(spec),
            claims: claims.collect(),
            reported,
        })
    }
}

/// What a pod bears. Only a pod that asked for nothing is kept from a node that is short of memory: others have their share
/// there.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    if Quality::of(spec) != Quality::BestEffort {
        all.push(Toleration {
            key: Some("node.kubernetes.io/memory-pressure".to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        });
    }
    all
}

impl NodeFacts {
    /// The facts of a node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let mut labels = node.labels().clone();
        // For terms over the field metadata.name.
        labels.insert("metadata.name".to_owned(), node.name_any());
        let ready = status.conditions.iter().flatten();
        let mut ready = ready.filter(|condition| condition.type_ == "Ready");
        Self {
            name: node.name_any(),
            ready: ready.any(|condition| condition.status == "True"),
            unschedulable: spec.unschedulable.unwrap_or(false),
            labels,
            taints: spec.taints.unwrap_or_default(),
            allocatable: amounts(status.allocatable.as_ref().or(status.capacity.as_ref())),
        }
    }
}

/// Whether all containers of a pod have ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What the volumes of a pod ask for, given ways to look claims and volumes up.
pub fn volumes(
    pod: &PodFacts,
    claim: impl Fn(&Key) -> Option<Arc<PersistentVolumeClaim>>,
    volume: impl Fn(&str) -> Option<Arc<PersistentVolume>>,
) -> Volumes {
    let mut selectors = Vec::new();
    for name in &pod.claims {
        let Some(claim) = claim(&Key::new(pod.key.namespace.clone(), name)) else {
            return Volumes::Missing(format!("persistentvolumeclaim \"{name}\" not found"));
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let bound = spec.volume_name.as_deref().filter(|_| phase == Some("Bound"));
        let Some(volume) = bound.and_then(&volume) else {
            return Volumes::Missing("pod has unbound immediate PersistentVolumeClaims".to_owned());
        };
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.clone());
        selectors.extend(affinity.and_then(|affinity| affinity.required));
    }
    Volumes::Ready(selectors)
}

/// What a pod takes from its node.
#[must_use]
pub fn usage(spec: &PodSpec) -> Usage {
    let mut amounts = demand::requests(spec);
    amounts.insert("pods".to_owned(), 1);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = all.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let host_network = spec.host_network == Some(true);
        let number = port.host_port.or(host_network.then_some(port.container_port));
        Some(HostPort {
            address: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0".into()),
            protocol: port.protocol.clone().unwrap_or("TCP".into()),
            port: number.filter(|number| *number > 0)?,
        })
    });
    Usage { amounts, ports: ports.collect() }
}

/// The running account of all nodes.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    /// Taken from nodes that are not known, or not yet.
    strays: HashMap<String, Usage>,
    placed: HashMap<Key, (String, Usage)>,
}

impl Cluster {
    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, NodeState> {
        &self.nodes
    }

    /// Takes a node in, new or changed.
    pub fn put_node(&mut self, facts: NodeFacts) {
        let name = facts.name.clone();
        let used = match self.nodes.remove(&name) {
            Some(state) => state.used,
            None => self.strays.remove(&name).unwrap_or_default(),
        };
        self.nodes.insert(name, NodeState { facts: Arc::new(facts), used });
    }

    /// Forgets a node, but not what its pods take: it may come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.remove(name) {
            self.strays.insert(name.to_owned(), state.used);
        }
    }

    /// Charges a pod to a node, instead of any other it was charged to.
    pub fn place(&mut self, pod: Key, node: &str, usage: Usage) {
        self.release(&pod);
        self.account(node).add(&usage);
        self.placed.insert(pod, (node.to_owned(), usage));
    }

    /// Whether a pod would take less of something than it is charged for.
    #[must_use]
    pub fn takes_less(&self, pod: &Key, usage: &Usage) -> bool {
        let Some((_, known)) = self.placed.get(pod) else { return false };
        let amount = |name: &str| usage.amounts.get(name).copied().unwrap_or(0);
        known.amounts.iter().any(|(name, before)| amount(name) < *before)
    }

    /// Gives back what a pod took. Says whether it took anything.
    pub fn release(&mut self, pod: &Key) -> bool {
        let Some((node, usage)) = self.placed.remove(pod) else { return false };
        self.account(&node).subtract(&usage);
        true
    }

    fn account(&mut self, node: &str) -> &mut Usage {
        match self.nodes.get_mut(node) {
            Some(state) => &mut state.used,
            None => self.strays.entry(node.to_owned()).or_default(),
        }
    }
}
