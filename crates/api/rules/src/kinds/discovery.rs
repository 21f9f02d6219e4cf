//! Endpoint slices.

use berth_objects::Resource;

use super::v1;
use crate::cells;

const GROUP: &str = "discovery.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    columns: cells::ENDPOINT_SLICE,
    cells: cells::endpoint_slice,
    ..v1(GROUP, "EndpointSlice", "endpointslices", "endpointslice")
}];
