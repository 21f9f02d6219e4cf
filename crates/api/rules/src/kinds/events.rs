//! Events by their newer group; the objects are those of the core group.

use berth_objects::Resource;

use super::v1;
use crate::cells;

const GROUP: &str = "events.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    short: &["ev"],
    selectable: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    columns: cells::EVENT,
    cells: cells::event,
    ..v1(GROUP, "Event", "events", "event")
}];
