//! Classes of priority.

use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "scheduling.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    short: &["pc"],
    scope: Scope::Cluster,
    columns: cells::PRIORITY_CLASS,
    cells: cells::priority_class,
    ..v1(GROUP, "PriorityClass", "priorityclasses", "priorityclass")
}];
