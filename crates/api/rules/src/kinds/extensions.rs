//! Definitions of kinds.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    short: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    subresources: &[Status],
    columns: cells::DEFINITION,
    cells: cells::definition,
    ..v1(
        berth_custom::GROUP,
        "CustomResourceDefinition",
        berth_custom::PLURAL,
        "customresourcedefinition",
    )
}];
