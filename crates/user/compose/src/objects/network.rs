//! Names, addresses and the firewall: Services, published ports, and a NetworkPolicy per network.
//!
//! A published port is open to everyone, as with Docker, so it needs a policy of its own beside those of the networks.

use std::net::IpAddr;

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{Subject, project_metadata};
use crate::model::{Network, NetworkMode, Port, Project, Protocol};

/// Marks pods that are on internal networks only: one other network is a way out.
pub(super) const INTERNAL_ONLY: &str = "berth.dev/internal-only";

/// A port that is reached from outside the cluster, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The service's key.
    pub service: String,
    /// The address to use from the node itself.
    pub host: String,
    /// The port outside; none if the cluster picks it.
    pub port: Option<u16>,
    /// The port in the container.
    pub target: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Everything that is reached from outside, in the order of the file.
#[must_use]
pub fn published(project: &Project) -> Vec<Published> {
    let mut published = Vec::new();
    for (key, service) in &project.services {
        for port in &service.ports {
            published.push(Published {
                service: key.clone(),
                host: match port.address {
                    None => "localhost".to_owned(),
                    Some(IpAddr::V4(address)) => address.to_string(),
                    Some(IpAddr::V6(address)) => format!("[{address}]"),
                },
                port: if service.network == NetworkMode::Host {
                    Some(port.target)
                } else {
                    port.published
                },
                target: port.target,
                protocol: port.protocol,
            });
        }
    }
    published
}

/// The label of pods on a network.
pub(super) fn label(network: &Network) -> String {
    format!("network.berth.dev/{}", network.object_name)
}

/// The service's name, its further names, and its published ports.
pub(super) fn services(subject: &Subject<'_>) -> Vec<Value> {
    let service = subject.service;
    if service.network == NetworkMode::None {
        return Vec::new();
    }
    let names = std::iter::once(&service.object_name).chain(&service.aliases);
    let mut objects: Vec<Value> = names.map(|name| internal(subject, name)).collect();
    // On the node's own network the ports are open as they are.
    if service.network != NetworkMode::Host {
        objects.extend(external(subject));
    }
    objects
}

fn internal(subject: &Subject<'_>, name: &str) -> Value {
    let ports: Vec<Value> = subject
        .known_ports()
        .into_iter()
        .map(|(number, protocol)| {
            let mut port = port(protocol, number, number);
            let named = subject.service.ports.iter();
            let mut named = named.filter(|port| port.target == number && port.protocol == protocol);
            if let Some(application) = named.find_map(|port| port.app_protocol.as_ref()) {
                port["appProtocol"] = json!(application);
            }
            port
        })
        .collect();
    let mut spec = json!({
        "type": "ClusterIP",
        "selector": subject.selector(),
        "publishNotReadyAddresses": false,
    });
    if ports.is_empty() || subject.service.headless {
        spec["clusterIP"] = json!("None");
    }
    if !ports.is_empty() {
        spec["ports"] = json!(ports);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": subject.metadata(name),
        "spec": spec,
    })
}

fn port(protocol: Protocol, number: u16, target: u16) -> Value {
    json!({
        "name": format!("{protocol}-{number}"),
        "port": number,
        "targetPort": target,
        "protocol": protocol.as_str(),
    })
}

/// One Service per address and kind, because both are properties of a whole Service.
fn external(subject: &Subject<'_>) -> Vec<Value> {
    let mut groups: IndexMap<(Option<IpAddr>, bool), Vec<&Port>> = IndexMap::new();
    for port in &subject.service.ports {
        let group = groups.entry((port.address, port.published.is_some())).or_default();
        let number = |port: &Port| (port.published.unwrap_or(port.target), port.protocol);
        if !group.iter().any(|other| number(other) == number(port)) {
            group.push(port);
        }
    }
    let mut objects = Vec::new();
    for (index, ((address, fixed), ports)) in groups.into_iter().enumerate() {
        let suffix = if index == 0 { String::new() } else { format!("-{}", index + 1) };
        let name = published_name(&subject.service.object_name, &suffix);
        let mut metadata = subject.metadata(&name);
        if let Some(address) = address {
            metadata["annotations"] = json!({ "berth.dev/listen-address": address.to_string() });
        }
        let listed: Vec<Value> = ports
            .iter()
            .map(|own| {
                let published = own.published.unwrap_or(own.target);
                let mut listed = port(own.protocol, published, own.target);
                if let Some(application) = &own.app_protocol {
                    listed["appProtocol"] = json!(application);
                }
                listed
            })
            .collect();
        let mut spec = json!({
            "type": if fixed { "LoadBalancer" } else { "NodePort" },
            "selector": subject.selector(),
            "ports": listed,
        });
        if fixed {
            spec["allocateLoadBalancerNodePorts"] = json!(false);
        }
        objects.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": spec,
        }));
    }
    objects
}

/// A Service's name is a DNS label, which a long name with its ending would not be.
fn published_name(service: &str, suffix: &str) -> String {
    let ending = format!("-published{suffix}");
    let length = service.len().min(63 - ending.len());
    format!("{}{ending}", service[..length].trim_end_matches('-'))
}

/// One policy per network: who is on it reaches all who are on it.
pub(super) fn policies(project: &Project) -> Vec<Value> {
    let mut policies = Vec::new();
    for network in project.networks.values() {
        let on_network = json!({ "matchLabels": { label(network): "true" } });
        let mut peer = json!({ "podSelector": on_network });
        if network.external {
            peer["namespaceSelector"] = json!({});
        }
        let name = format!("network-{}", network.object_name);
        policies.push(policy(
            project_metadata(project, &name, &network.object_name),
            &json!({
                "podSelector": on_network,
                "policyTypes": ["Ingress"],
                "ingress": [{ "from": [peer] }],
            }),
        ));
        if network.internal {
            policies.push(policy(
                project_metadata(project, &format!("{name}-internal"), &network.object_name),
                &json!({
                    "podSelector": { "matchLabels": { label(network): "true", INTERNAL_ONLY: "true" } },
                    "policyTypes": ["Egress"],
                    "egress": [
                        { "to": [peer] },
                        { "ports": [
                            { "protocol": "UDP", "port": 53 },
                            { "protocol": "TCP", "port": 53 },
                        ] },
                    ],
                }),
            ));
        }
    }
    policies
}

/// What concerns one service alone: its published ports, or that it has no network.
pub(super) fn own_policies(subject: &Subject<'_>) -> Vec<Value> {
    let service = subject.service;
    let selector = json!({ "matchLabels": subject.selector() });
    match &service.network {
        NetworkMode::Host => Vec::new(),
        NetworkMode::None => vec![policy(
            subject.metadata(&format!("{}-isolated", service.object_name)),
            &json!({ "podSelector": selector, "policyTypes": ["Ingress", "Egress"] }),
        )],
        NetworkMode::Networks(_) if service.ports.is_empty() => Vec::new(),
        NetworkMode::Networks(_) => {
            let mut ports: Vec<Value> = Vec::new();
            for port in &service.ports {
                let open = json!({ "protocol": port.protocol.as_str(), "port": port.target });
                if !ports.contains(&open) {
                    ports.push(open);
                }
            }
            vec![policy(
                subject.metadata(&format!("{}-published", service.object_name)),
                &json!({
                    "podSelector": selector,
                    "policyTypes": ["Ingress"],
                    "ingress": [{ "ports": ports }],
                }),
            )]
        }
    }
}

fn policy(metadata: Value, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    })
}
