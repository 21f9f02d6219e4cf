//! Workloads.

use berth_objects::Resource;
use berth_objects::Subresource::{Scale, Status};

use super::v1;
use crate::cells;

const GROUP: &str = "apps";

pub(super) static RESOURCES: [Resource<'static>; 5] = [
    Resource {
        short: &["deploy"],
        categories: &["all"],
        subresources: &[Status, Scale],
        columns: cells::DEPLOYMENT,
        cells: cells::deployment,
        ..v1(GROUP, "Deployment", "deployments", "deployment")
    },
    Resource {
        short: &["rs"],
        categories: &["all"],
        subresources: &[Status, Scale],
        selectable: &["status.replicas"],
        columns: cells::REPLICA_SET,
        cells: cells::replica_set,
        ..v1(GROUP, "ReplicaSet", "replicasets", "replicaset")
    },
    Resource {
        short: &["sts"],
        categories: &["all"],
        subresources: &[Status, Scale],
        columns: cells::STATEFUL_SET,
        cells: cells::stateful_set,
        ..v1(GROUP, "StatefulSet", "statefulsets", "statefulset")
    },
    Resource {
        short: &["ds"],
        categories: &["all"],
        subresources: &[Status],
        columns: cells::DAEMON_SET,
        cells: cells::daemon_set,
        ..v1(GROUP, "DaemonSet", "daemonsets", "daemonset")
    },
    Resource {
        columns: cells::CONTROLLER_REVISION,
        cells: cells::controller_revision,
        ..v1(GROUP, "ControllerRevision", "controllerrevisions", "controllerrevision")
    },
];
