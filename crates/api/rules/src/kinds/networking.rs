//! Network policies.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "networking.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 5] = [
    Resource {
        short: &["netpol"],
        columns: cells::NETWORK_POLICY,
        cells: cells::network_policy,
        ..v1(GROUP, "NetworkPolicy", "networkpolicies", "networkpolicy")
    },
    Resource {
        short: &["ing"],
        subresources: &[Status],
        columns: cells::INGRESS,
        cells: cells::ingress,
        ..v1(GROUP, "Ingress", "ingresses", "ingress")
    },
    Resource {
        scope: Scope::Cluster,
        columns: cells::INGRESS_CLASS,
        cells: cells::ingress_class,
        ..v1(GROUP, "IngressClass", "ingressclasses", "ingressclass")
    },
    Resource {
        short: &["ip"],
        scope: Scope::Cluster,
        columns: cells::IP_ADDRESS,
        cells: cells::ip_address,
        ..v1(GROUP, "IPAddress", "ipaddresses", "ipaddress")
    },
    Resource {
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::SERVICE_CIDR,
        cells: cells::service_cidr,
        ..v1(GROUP, "ServiceCIDR", "servicecidrs", "servicecidr")
    },
];
