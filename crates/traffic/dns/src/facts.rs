//! What the index needs to know of an API object, taken out once when the object changes.
//!
//! Surprising: a value that cannot become part of a name (a port called `a.b`, an address that is none) is left out
//! rather than reported; the API server has judged the object already, and one odd field must not hide its neighbours.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label by which a slice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// How a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// At addresses of its own. None of them yet while the API server has still to give one.
    Cluster(Vec<IpAddr>),
    /// At the addresses of its endpoints.
    Headless,
    /// Under another name.
    External(Name),
}

/// A named port of a Service or of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub name: String,
    /// In lower case, as in a question.
    pub protocol: String,
    pub number: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub kind: Kind,
    pub ports: Vec<Port>,
    /// Endpoints count before they are ready.
    pub unready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub service: String,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<String>,
    pub ready: bool,
}

/// A pod as somebody who asks, and as a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub addresses: Vec<IpAddr>,
    /// Its search list is exactly the one every pod gets.
    pub usual_search: bool,
}

pub(crate) fn of_service(service: &Service) -> ServiceFacts {
    let Some(spec) = &service.spec else {
        return ServiceFacts { kind: Kind::Cluster(Vec::new()), ports: Vec::new(), unready: false };
    };
    let external = (spec.type_.as_deref() == Some("ExternalName"))
        .then(|| spec.external_name.as_deref().and_then(absolute))
        .flatten();
    let kind = match (external, spec.cluster_ip.as_deref()) {
        (Some(name), _) => Kind::External(name),
        (None, Some("None")) => Kind::Headless,
        (None, single) => {
            let mut all: Vec<IpAddr> =
                spec.cluster_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect();
            if all.is_empty() {
                all.extend(single.and_then(|text| text.parse::<IpAddr>().ok()));
            }
            Kind::Cluster(all)
        }
    };
    let ports =
        spec.ports.iter().flatten().filter_map(|port| {
            named(port.name.as_deref(), port.protocol.as_deref(), Some(port.port))
        });
    ServiceFacts {
        kind,
        ports: ports.collect(),
        unready: spec.publish_not_ready_addresses.unwrap_or(false),
    }
}

/// Nothing when the slice belongs to no Service.
pub(crate) fn of_slice(slice: &EndpointSlice) -> Option<SliceFacts> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?.clone();
    let endpoints = slice.endpoints.iter().map(|endpoint| SliceEndpoint {
        addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        hostname: endpoint
            .hostname
            .as_ref()
            .filter(|name| !name.is_empty())
            .map(|name| name.to_ascii_lowercase()),
        // Unknown counts as ready, says the field's documentation.
        ready: endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
    });
    let ports = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| named(port.name.as_deref(), port.protocol.as_deref(), port.port));
    Some(SliceFacts { service, endpoints: endpoints.collect(), ports: ports.collect() })
}

/// Nothing when the pod has no address of its own: it has ended, has not begun, or uses its node's.
pub(crate) fn of_pod(pod: &Pod) -> Option<PodFacts> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if over || spec.host_network.unwrap_or(false) {
        return None;
    }
    let mut addresses: Vec<IpAddr> =
        status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()));
    }
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let added = spec.dns_config.as_ref().is_some_and(|config| {
        config.searches.as_ref().is_some_and(|searches| !searches.is_empty())
    });
    let usual_search = matches!(policy, "ClusterFirst" | "ClusterFirstWithHostNet") && !added;
    (!addresses.is_empty()).then_some(PodFacts { addresses, usual_search })
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    (!name.is_root()).then_some(name)
}

fn named(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.filter(|name| !name.is_empty())?.to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number?).ok()?,
    })
}
