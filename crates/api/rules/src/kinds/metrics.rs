//! What nodes and pods use: answered from the nodes, not kept.

use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "metrics.k8s.io";

const fn figures(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    scope: Scope,
) -> Resource<'static> {
    Resource {
        version: "v1beta1",
        verbs: &["get", "list"],
        scope,
        columns: cells::USE,
        ..v1(GROUP, kind, plural, singular)
    }
}

pub(super) static RESOURCES: [Resource<'static>; 2] = [
    Resource { cells: cells::node_use, ..figures("NodeMetrics", "nodes", "node", Scope::Cluster) },
    Resource { cells: cells::pod_use, ..figures("PodMetrics", "pods", "pod", Scope::Namespaced) },
];
