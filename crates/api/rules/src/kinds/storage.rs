//! Classes of storage.

use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "storage.k8s.io";

pub(super) static RESOURCES: [Resource; 1] = [Resource {
    short: &["sc"],
    scope: Scope::Cluster,
    columns: cells::STORAGE_CLASS,
    cells: cells::storage_class,
    ..v1(GROUP, "StorageClass", "storageclasses", "storageclass")
}];
