//! Classes of storage.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "storage.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 6] = [
    Resource {
        short: &["sc"],
        scope: Scope::Cluster,
        columns: cells::STORAGE_CLASS,
        cells: cells::storage_class,
        ..v1(GROUP, "StorageClass", "storageclasses", "storageclass")
    },
    Resource {
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::VOLUME_ATTACHMENT,
        cells: cells::volume_attachment,
        ..v1(GROUP, "VolumeAttachment", "volumeattachments", "volumeattachment")
    },
    Resource {
        scope: Scope::Cluster,
        columns: cells::CSI_DRIVER,
        cells: cells::csi_driver,
        ..v1(GROUP, "CSIDriver", "csidrivers", "csidriver")
    },
    Resource {
        scope: Scope::Cluster,
        columns: cells::CSI_NODE,
        cells: cells::csi_node,
        ..v1(GROUP, "CSINode", "csinodes", "csinode")
    },
    Resource {
        columns: cells::CSI_STORAGE_CAPACITY,
        cells: cells::csi_storage_capacity,
        ..v1(GROUP, "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity")
    },
    Resource {
        short: &["vac"],
        scope: Scope::Cluster,
        columns: cells::VOLUME_ATTRIBUTES_CLASS,
        cells: cells::volume_attributes_class,
        ..v1(GROUP, "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass")
    },
];
