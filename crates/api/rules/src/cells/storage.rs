//! Cells of storage kinds other than volumes and claims.

use berth_objects::{Column, Object};
use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, age, joined, or_unset};

const fn flag(name: &'static str) -> Column<'static> {
    Column { name, kind: "boolean", wide: false }
}

pub(crate) const VOLUME_ATTACHMENT: &[Column] =
    &[Column::text("Attacher"), Column::text("PV"), Column::text("Node"), flag("Attached"), AGE];

pub(crate) fn volume_attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        object.text(&["spec", "attacher"]).into(),
        object.text(&["spec", "source", "persistentVolumeName"]).into(),
        object.text(&["spec", "nodeName"]).into(),
        object.flag(&["status", "attached"]).into(),
        age(object, now),
    ]
}

pub(crate) const CSI_DRIVER: &[Column] = &[
    flag("AttachRequired"),
    flag("PodInfoOnMount"),
    flag("StorageCapacity"),
    Column::text("TokenRequests"),
    flag("RequiresRepublish"),
    Column::text("Modes"),
    AGE,
];

pub(crate) fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let flag = |name: &str| Value::from(object.flag(&["spec", name]));
    let tokens = object.list(&["spec", "tokenRequests"]).iter();
    let tokens = joined(tokens.map(|token| token.text(&["audience"])));
    let modes = object.list(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str);
    vec![
        object.at(&["spec", "attachRequired"]).and_then(Value::as_bool).unwrap_or(true).into(),
        flag("podInfoOnMount"),
        flag("storageCapacity"),
        or_unset(&tokens),
        flag("requiresRepublish"),
        joined(modes).into(),
        age(object, now),
    ]
}

pub(crate) const CSI_NODE: &[Column] = &[Column::number("Drivers"), AGE];

pub(crate) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.list(&["spec", "drivers"]).len().into(), age(object, now)]
}

pub(crate) const CSI_STORAGE_CAPACITY: &[Column] =
    &[Column::text("StorageClassName"), Column::text("Capacity")];

pub(crate) fn csi_storage_capacity(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![object.text(&["storageClassName"]).into(), object.text(&["capacity"]).into()]
}

pub(crate) const VOLUME_ATTRIBUTES_CLASS: &[Column] = &[Column::text("DriverName"), AGE];

pub(crate) fn volume_attributes_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text(&["driverName"]).into(), age(object, now)]
}
