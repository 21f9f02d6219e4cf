//! Services, published ports and policies of the cluster, as this node's ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use berth_firewall::kernel::Settings as FirewallSettings;
use berth_firewall::{Backend, Firewall, FirewallError, Frontend, PolicySet, Protocol, Ruleset};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::agent::Shared;
use crate::settings::Settings;
use crate::status::chain;

/// Annotation that says at which of the node's addresses a published port listens. Without it, at all of them.
const LISTEN: &str = "berth.dev/listen-address";

/// The node's firewall and what feeds it.
pub struct Traffic {
    shared: Arc<Shared>,
    firewall: Firewall,
}

/// The firewall's part of an agent's settings.
#[must_use]
pub fn firewall_settings(settings: &Settings) -> FirewallSettings {
    FirewallSettings {
        table: settings.instance.clone(),
        interfaces: settings.network.prefix.clone(),
        pods: settings.network.pods,
        gateway: settings.network.gateway(),
        dns: settings.network.dns,
    }
}

impl Traffic {
    /// Reads the cluster once, then installs the rules, so that a restart never shows the kernel an empty state.
    pub(crate) async fn install(shared: Arc<Shared>) -> Result<Self, FirewallError> {
        let world = World::list(&shared.client, &shared.settings.node).await;
        let ruleset = match world {
            Ok(world) => ruleset(&world),
            Err(error) => {
                warn!(error = %chain(&error), "the cluster could not be read, rules start empty");
                Ruleset::default()
            }
        };
        let firewall = Firewall::install(firewall_settings(&shared.settings), &ruleset)?;
        Ok(Self { shared, firewall })
    }

    /// Follows the cluster until told to stop. The rules stay.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let client = self.shared.client.clone();
        let (changed, mut changes) = watch::channel(());
        let (ready, mut readiness) = mpsc::channel(4);
        let services = follow::<Service>(Api::all(client.clone()), &changed, &ready);
        let slices = follow::<EndpointSlice>(Api::all(client.clone()), &changed, &ready);
        let policies = follow::<NetworkPolicy>(Api::all(client.clone()), &changed, &ready);
        let pods = follow::<Pod>(Api::all(client), &changed, &ready);
        let update = async {
            for _ in 0..4 {
                if readiness.recv().await.is_none() {
                    return;
                }
            }
            loop {
                let world = World {
                    node: self.shared.settings.node.clone(),
                    services: services.0.state(),
                    slices: slices.0.state(),
                    policies: policies.0.state(),
                    pods: pods.0.state(),
                };
                match self.firewall.update(&ruleset(&world)) {
                    Ok(0) => {}
                    Ok(count) => debug!(count, "rules changed"),
                    Err(error) => warn!(error = %chain(&error), "rules not changed"),
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = update => {}
            () = services.1 => {}
            () = slices.1 => {}
            () = policies.1 => {}
            () = pods.1 => {}
        }
    }
}

/// A store of all objects of a kind, and the task that fills it and tells of changes.
fn follow<K>(
    api: Api<K>,
    changed: &watch::Sender<()>,
    ready: &mpsc::Sender<()>,
) -> (Store<K>, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>)
where
    K: kube::Resource
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
    K::DynamicType: Default + Eq + std::hash::Hash + Clone + Send + Sync,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
    let (changed, ready) = (changed.clone(), ready.clone());
    (store, Box::pin(pump(stream, changed, ready)))
}

async fn pump<K>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send,
    changed: watch::Sender<()>,
    ready: mpsc::Sender<()>,
) {
    let mut stream = std::pin::pin!(stream);
    let mut first = true;
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::InitDone) => {
                if std::mem::take(&mut first) {
                    // The receiver lives as long as this task.
                    let _gone = ready.send(()).await;
                }
                changed.send_replace(());
            }
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_)) => changed.send_replace(()),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Err(error) => debug!(%error, "watch interrupted"),
        }
    }
}

/// What rules are made of.
#[derive(Debug, Default)]
pub struct World {
    /// The node whose rules they are: a Service may keep to its endpoints here.
    pub node: String,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Their endpoints.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
}

impl World {
    async fn list(client: &kube::Client, node: &str) -> Result<Self, kube::Error> {
        async fn all<K>(client: &kube::Client) -> Result<Vec<Arc<K>>, kube::Error>
        where
            K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
            K::DynamicType: Default,
        {
            let list =
                Api::<K>::all(client.clone()).list(&kube::api::ListParams::default()).await?;
            Ok(list.items.into_iter().map(Arc::new).collect())
        }
        Ok(Self {
            node: node.to_owned(),
            services: all(client).await?,
            slices: all(client).await?,
            policies: all(client).await?,
            pods: all(client).await?,
        })
    }
}

/// The rules for a world.
#[must_use]
pub fn ruleset(world: &World) -> Ruleset {
    let mut ruleset = Ruleset { services: services(world), ..Ruleset::default() };
    host_ports(world, &mut ruleset.services);
    let pods: Vec<Placed<'_>> = world.pods.iter().filter_map(|pod| Placed::of(pod)).collect();
    let groups = groups(&pods);
    for policy in &world.policies {
        apply_policy(policy, &pods, &groups, &mut ruleset);
    }
    ruleset
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn services(world: &World) -> BTreeMap<Frontend, Vec<Backend>> {
    let mut frontends = BTreeMap::new();
    for service in &world.services {
        let Some(spec) = &service.spec else { continue };
        let cluster: Option<Ipv4Addr> =
            spec.cluster_ip.as_deref().and_then(|text| text.parse().ok());
        for port in spec.ports.iter().flatten() {
            let (Some(protocol), Ok(number)) =
                (protocol(port.protocol.as_deref()), u16::try_from(port.port))
            else {
                continue;
            };
            let backends = backends(world, service, port.name.as_deref(), None);
            let inside = match spec.internal_traffic_policy.as_deref() {
                Some("Local") => {
                    self::backends(world, service, port.name.as_deref(), Some(&world.node))
                }
                _ => backends.clone(),
            };
            if let Some(address) = cluster {
                frontends.insert(Frontend { address, protocol, port: number }, inside);
            }
            let mut add = |address: Ipv4Addr, port: u16| {
                frontends.insert(Frontend { address, protocol, port }, backends.clone());
            };
            if let Some(node_port) = port.node_port.and_then(|port| u16::try_from(port).ok())
                && node_port > 0
            {
                add(Ipv4Addr::UNSPECIFIED, node_port);
            }
            if spec.type_.as_deref() == Some("LoadBalancer") {
                let listen = service.annotations().get(LISTEN).and_then(|text| text.parse().ok());
                add(listen.unwrap_or(Ipv4Addr::UNSPECIFIED), number);
            }
        }
    }
    frontends
}

/// The endpoints of a port that are ready, of all nodes or of one.
fn backends(
    world: &World,
    service: &Service,
    port: Option<&str>,
    node: Option<&str>,
) -> Vec<Backend> {
    let (namespace, name) = (service.namespace(), service.name_any());
    let mut found = BTreeSet::new();
    for slice in &world.slices {
        let of = slice.labels().get("kubernetes.io/service-name");
        if of != Some(&name) || slice.namespace() != namespace {
            continue;
        }
        let number = slice.ports.iter().flatten().find(|candidate| {
            candidate.name.as_deref().filter(|name| !name.is_empty())
                == port.filter(|name| !name.is_empty())
        });
        let Some(port) = number.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true);
            if !ready || (node.is_some() && endpoint.node_name.as_deref() != node) {
                continue;
            }
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
            found.extend(addresses.map(|address| Backend { address, port }));
        }
    }
    found.into_iter().collect()
}

fn host_ports(world: &World, frontends: &mut BTreeMap<Frontend, Vec<Backend>>) {
    for pod in &world.pods {
        let Some(placed) = Placed::of(pod) else { continue };
        let spec = pod.spec.as_ref();
        for container in spec.map(|spec| spec.containers.as_slice()).unwrap_or_default() {
            for port in container.ports.iter().flatten() {
                let (Some(protocol), Some(host), Ok(number)) = (
                    protocol(port.protocol.as_deref()),
                    port.host_port.and_then(|port| u16::try_from(port).ok()),
                    u16::try_from(port.container_port),
                ) else {
                    continue;
                };
                let address = port.host_ip.as_deref().and_then(|text| text.parse().ok());
                let frontend = Frontend {
                    address: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
                    protocol,
                    port: host,
                };
                frontends
                    .entry(frontend)
                    .or_default()
                    .push(Backend { address: placed.address, port: number });
            }
        }
    }
}

/// A pod on the pod network that has not ended.
struct Placed<'a> {
    pod: &'a Pod,
    address: Ipv4Addr,
}

/// What policies can tell pods apart by: namespace and labels.
type GroupKey = (String, BTreeMap<String, String>);
/// The addresses of the pods of each group.
type Groups = BTreeMap<GroupKey, BTreeSet<Ipv4Addr>>;

impl<'a> Placed<'a> {
    fn of(pod: &'a Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let host = pod.spec.as_ref().is_some_and(|spec| spec.host_network.unwrap_or(false));
        if over || host {
            return None;
        }
        Some(Self { pod, address: status.pod_ip.as_deref()?.parse().ok()? })
    }

    /// What policies can tell pods apart by.
    fn key(&self) -> GroupKey {
        (self.pod.namespace().unwrap_or_default(), self.pod.labels().clone())
    }
}

/// Pods with the same namespace and labels are matched once.
fn groups(pods: &[Placed<'_>]) -> Groups {
    let mut groups = Groups::new();
    for pod in pods {
        groups.entry(pod.key()).or_default().insert(pod.address);
    }
    groups
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact =
        selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    exact
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let among = |value: &String| expression.values.iter().flatten().any(|one| one == value);
            match expression.operator.as_str() {
                "In" => value.is_some_and(among),
                "NotIn" => !value.is_some_and(among),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn apply_policy(
    policy: &NetworkPolicy,
    pods: &[Placed<'_>],
    groups: &Groups,
    ruleset: &mut Ruleset,
) {
    let Some(spec) = &policy.spec else { return };
    let namespace = policy.namespace().unwrap_or_default();
    let everything = LabelSelector::default();
    let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
    let selected: BTreeSet<Ipv4Addr> = groups
        .iter()
        .filter(|((space, labels), _)| *space == namespace && matches(selector, labels))
        .flat_map(|(_, addresses)| addresses.iter().copied())
        .collect();
    let types = spec.policy_types.clone().unwrap_or_else(|| {
        let mut types = vec!["Ingress".to_owned()];
        types.extend(spec.egress.is_some().then(|| "Egress".to_owned()));
        types
    });
    let resolve = |peer: &NetworkPolicyPeer| peers(peer, &namespace, groups);
    if types.iter().any(|kind| kind == "Ingress") {
        ruleset.inbound.isolated.extend(&selected);
        for rule in spec.ingress.iter().flatten() {
            let from: Option<BTreeSet<Ipv4Addr>> = rule
                .from
                .as_ref()
                .filter(|from| !from.is_empty())
                .map(|from| from.iter().flat_map(resolve).collect());
            let ports = ports(rule.ports.as_deref(), pods, &selected);
            allow(&mut ruleset.inbound, &selected, from.as_ref(), ports.as_deref());
        }
    }
    if types.iter().any(|kind| kind == "Egress") {
        ruleset.outbound.isolated.extend(&selected);
        for rule in spec.egress.iter().flatten() {
            let to: Option<BTreeSet<Ipv4Addr>> = rule
                .to
                .as_ref()
                .filter(|to| !to.is_empty())
                .map(|to| to.iter().flat_map(resolve).collect());
            let ports = ports(rule.ports.as_deref(), pods, to.as_ref().unwrap_or(&selected));
            allow(&mut ruleset.outbound, &selected, to.as_ref(), ports.as_deref());
        }
    }
}

/// The pods a peer names. Address blocks name none yet: what a policy means to allow by them stays closed.
fn peers(peer: &NetworkPolicyPeer, own: &str, groups: &Groups) -> Vec<Ipv4Addr> {
    if peer.ip_block.is_some() {
        return Vec::new();
    }
    groups
        .iter()
        .filter(|((space, labels), _)| {
            let space_fits = match &peer.namespace_selector {
                None => space == own,
                Some(selector) => {
                    // The one label every namespace has.
                    let name =
                        BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), space.clone())]);
                    matches(selector, &name)
                }
            };
            space_fits
                && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, labels))
        })
        .flat_map(|(_, addresses)| addresses.iter().copied())
        .collect()
}

/// Ports of a rule; `None` for all of them. Named ports are looked up in the pods they are to apply to.
fn ports(
    ports: Option<&[NetworkPolicyPort]>,
    pods: &[Placed<'_>],
    targets: &BTreeSet<Ipv4Addr>,
) -> Option<Vec<(Protocol, u16)>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    let mut numbers = Vec::new();
    for port in ports {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        match &port.port {
            None => numbers.extend((1..=u16::MAX).map(|number| (protocol, number))),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                let range = (*first..=last).filter_map(|number| u16::try_from(number).ok());
                numbers.extend(range.map(|number| (protocol, number)));
            }
            Some(IntOrString::String(name)) => {
                let named =
                    pods.iter().filter(|pod| targets.contains(&pod.address)).flat_map(|pod| {
                        let spec = pod.pod.spec.as_ref();
                        spec.into_iter()
                            .flat_map(|spec| &spec.containers)
                            .flat_map(|container| container.ports.iter().flatten())
                            .filter(|port| port.name.as_ref() == Some(name))
                            .filter_map(|port| u16::try_from(port.container_port).ok())
                            .collect::<Vec<_>>()
                    });
                numbers.extend(named.map(|number| (protocol, number)));
            }
        }
    }
    Some(numbers)
}

fn allow(
    set: &mut PolicySet,
    selected: &BTreeSet<Ipv4Addr>,
    peers: Option<&BTreeSet<Ipv4Addr>>,
    ports: Option<&[(Protocol, u16)]>,
) {
    for identity in selected {
        match (peers, ports) {
            (None, None) => {
                set.anybody.insert(*identity);
            }
            (None, Some(ports)) => {
                set.anybody_ports
                    .extend(ports.iter().map(|(protocol, port)| (*identity, *protocol, *port)));
            }
            (Some(peers), None) => {
                set.peers.extend(peers.iter().map(|peer| (*identity, *peer)));
            }
            (Some(peers), Some(ports)) => {
                for peer in peers {
                    let four =
                        ports.iter().map(|(protocol, port)| (*identity, *peer, *protocol, *port));
                    set.peer_ports.extend(four);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn pod(name: &str, network: &str, address: &str) -> Arc<Pod> {
        object(json!({
            "metadata": { "name": name, "namespace": "shop", "labels": { format!("network.berth.dev/{network}"): "true" } },
            "spec": { "containers": [{ "name": "main", "ports": [{ "containerPort": 80, "hostPort": 8088 }] }] },
            "status": { "phase": "Running", "podIP": address },
        }))
    }

    fn world() -> World {
        World {
            node: "here".into(),
            services: vec![object(json!({
                "metadata": { "name": "web", "namespace": "shop", "annotations": { LISTEN: "127.0.0.1" } },
                "spec": { "type": "LoadBalancer", "clusterIP": "10.43.0.5",
                          "ports": [{ "name": "http", "port": 8080, "targetPort": 80, "nodePort": 30001 }] },
            }))],
            slices: vec![object(json!({
                "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": 80 }],
                "endpoints": [{ "addresses": ["10.42.0.2"], "conditions": { "ready": true } },
                              { "addresses": ["10.42.0.9"], "conditions": { "ready": false } }],
            }))],
            policies: vec![object(json!({
                "metadata": { "name": "front", "namespace": "shop" },
                "spec": { "podSelector": { "matchLabels": { "network.berth.dev/front": "true" } }, "policyTypes": ["Ingress"],
                          "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "network.berth.dev/front": "true" } } }] }] },
            }))],
            pods: vec![
                pod("a", "front", "10.42.0.2"),
                pod("b", "front", "10.42.0.3"),
                pod("c", "back", "10.42.0.4"),
            ],
        }
    }

    #[test]
    fn a_published_service_is_reached_at_all_its_fronts() {
        let rules = ruleset(&world());
        let text: Vec<String> = rules
            .services
            .iter()
            .map(|(front, back)| format!("{}:{} -> {}", front.address, front.port, back.len()))
            .collect();
        assert_eq!(
            text,
            [
                "0.0.0.0:8088 -> 3",
                "0.0.0.0:30001 -> 1",
                "10.43.0.5:8080 -> 1",
                "127.0.0.1:8080 -> 1"
            ]
        );
    }

    #[test]
    fn a_service_may_keep_to_the_node() {
        let mut world = world();
        let mut service = (*world.services[0]).clone();
        service.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".into());
        world.services = vec![Arc::new(service)];
        let mut slice = (*world.slices[0]).clone();
        slice.endpoints[0].node_name = Some("there".into());
        world.slices = vec![Arc::new(slice.clone())];
        let inside = |world: &World| {
            let rules = ruleset(world);
            let front = rules.services.iter().find(|(front, _)| front.port == 8080).unwrap();
            assert!(rules.services.values().any(|back| back.len() == 1), "outside it is reached");
            front.1.len()
        };
        assert_eq!(inside(&world), 0);
        slice.endpoints[0].node_name = Some("here".into());
        world.slices = vec![Arc::new(slice)];
        assert_eq!(inside(&world), 1);
    }

    #[test]
    fn a_network_is_closed_to_those_outside_it() {
        let rules = ruleset(&world());
        let of = |last| Ipv4Addr::new(10, 42, 0, last);
        assert_eq!(rules.inbound.isolated, [of(2), of(3)].into());
        let pairs = [(of(2), of(2)), (of(2), of(3)), (of(3), of(2)), (of(3), of(3))];
        assert_eq!(rules.inbound.peers, pairs.into());
        assert!(rules.outbound.isolated.is_empty());
    }
}
