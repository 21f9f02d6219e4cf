//! Autoscalers, in two versions of the same stored object.

use berth_objects::Resource;
use berth_objects::Subresource::Status;

use super::v1;
use crate::cells;

const GROUP: &str = "autoscaling";

pub(super) static RESOURCES: [Resource<'static>; 2] = [
    Resource {
        version: "v2",
        short: &["hpa"],
        categories: &["all"],
        subresources: &[Status],
        columns: cells::AUTOSCALER,
        cells: cells::autoscaler,
        ..v1(
            GROUP,
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
    },
    Resource {
        short: &["hpa"],
        categories: &["all"],
        subresources: &[Status],
        columns: cells::AUTOSCALER,
        cells: cells::autoscaler_v1,
        ..v1(
            GROUP,
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
    },
];
