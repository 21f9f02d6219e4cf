//! Devices that pods claim.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "resource.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 4] = [
    Resource { scope: Scope::Cluster, ..v1(GROUP, "DeviceClass", "deviceclasses", "deviceclass") },
    Resource {
        subresources: &[Status],
        columns: cells::RESOURCE_CLAIM,
        cells: cells::resource_claim,
        ..v1(GROUP, "ResourceClaim", "resourceclaims", "resourceclaim")
    },
    Resource {
        ..v1(GROUP, "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate")
    },
    Resource {
        scope: Scope::Cluster,
        selectable: &["spec.nodeName", "spec.driver"],
        columns: cells::RESOURCE_SLICE,
        cells: cells::resource_slice,
        ..v1(GROUP, "ResourceSlice", "resourceslices", "resourceslice")
    },
];
