//! Whether Endpoints are to be copied, what their copies should say and what they say now.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;

use crate::endpoints::observe::{MANAGED_BY, SERVICE_NAME};
use crate::endpoints::plan::Content;
use crate::object::{Labels, is_going};

/// Us, as upstream calls us.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// At most so many addresses of a subset are copied.
pub const ROOM: usize = 1_000;

/// The label that says that Endpoints are not to be copied.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation by which Endpoints serve an election, which changes every few seconds.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations about the Endpoints themselves.
const OWN: [&str; 3] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "endpoints.kubernetes.io/over-capacity",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// What the copies of one name should hold and what they hold.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What they should hold; nothing where there is nothing to be copied.
    pub wanted: Vec<Content>,
    /// Our slices of this Service.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// How many addresses there was no room for.
    pub skipped: usize,
}

/// Whether we keep a slice.
#[must_use]
pub fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// Whether slices are made of these Endpoints by us and nobody else.
fn is_copied(endpoints: &Endpoints, service: &Service) -> bool {
    let selects = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()));
    let skipped = endpoints.labels().get(SKIP).is_some_and(|value| value == "true");
    let elects = endpoints.annotations().contains_key(LEADER);
    !selects && !skipped && !elects && !is_going(endpoints) && !is_going(service)
}

/// Looks at Endpoints, the Service of their name, and the slices of their namespace.
#[must_use]
pub fn observe(
    name: &str,
    endpoints: Option<Arc<Endpoints>>,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
) -> Observed {
    let of_name = |slice: &&Arc<EndpointSlice>| {
        slice.labels().get(SERVICE_NAME).is_some_and(|own| own == name) && is_ours(slice)
    };
    let slices = slices.iter().filter(of_name).cloned().collect();
    let mut observed = Observed { wanted: Vec::new(), slices, skipped: 0 };
    let (Some(endpoints), Some(service)) = (endpoints, service) else { return observed };
    if !is_copied(&endpoints, service) {
        return observed;
    }
    for subset in endpoints.subsets.iter().flatten() {
        observed.skipped += copy(&endpoints, subset, &mut observed.wanted);
    }
    observed
}

/// Copies a subset, each family of addresses apart, and returns how many addresses had no room.
fn copy(endpoints: &Endpoints, subset: &EndpointSubset, wanted: &mut Vec<Content>) -> usize {
    let ports = ports(subset);
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let all: Vec<_> = ready.chain(others).collect();
    for (address, ready) in all.iter().take(ROOM) {
        let family = match address.ip.parse() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            // The server lets none in that is neither.
            Err(_) => continue,
        };
        let endpoint = endpoint(address, *ready);
        let same = |known: &&mut Content| {
            known.family == family && known.ports == ports && known.endpoints.len() < ROOM
        };
        match wanted.iter_mut().find(same) {
            Some(known) => known.endpoints.push(endpoint),
            None => wanted.push(Content {
                family,
                labels: labels(endpoints),
                annotations: Some(annotations(endpoints)),
                ports: ports.clone(),
                endpoints: vec![endpoint],
            }),
        }
    }
    all.len().saturating_sub(ROOM)
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or("TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn labels(endpoints: &Endpoints) -> Labels {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn annotations(endpoints: &Endpoints) -> Labels {
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|name, _| !OWN.contains(&name.as_str()));
    annotations
}
