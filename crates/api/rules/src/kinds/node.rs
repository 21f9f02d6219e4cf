//! Classes of container runtimes.

use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "node.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    scope: Scope::Cluster,
    columns: cells::RUNTIME_CLASS,
    cells: cells::runtime_class,
    ..v1(GROUP, "RuntimeClass", "runtimeclasses", "runtimeclass")
}];
