//! Priority and fairness of requests.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 2] = [
    Resource {
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::FLOW_SCHEMA,
        cells: cells::flow_schema,
        ..v1(GROUP, "FlowSchema", "flowschemas", "flowschema")
    },
    Resource {
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::PRIORITY_LEVEL,
        cells: cells::priority_level,
        ..v1(
            GROUP,
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
        )
    },
];
