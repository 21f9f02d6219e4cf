//! Network policies.

use berth_objects::Resource;

use super::v1;
use crate::cells;

const GROUP: &str = "networking.k8s.io";

pub(super) static RESOURCES: [Resource; 1] = [Resource {
    short: &["netpol"],
    columns: cells::NETWORK_POLICY,
    cells: cells::network_policy,
    ..v1(GROUP, "NetworkPolicy", "networkpolicies", "networkpolicy")
}];
