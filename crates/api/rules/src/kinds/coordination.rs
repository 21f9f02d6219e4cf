//! Leases.

use berth_objects::Resource;

use super::v1;
use crate::cells;

const GROUP: &str = "coordination.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    columns: cells::LEASE,
    cells: cells::lease,
    ..v1(GROUP, "Lease", "leases", "lease")
}];
