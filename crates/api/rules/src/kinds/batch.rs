//! Jobs, once and on a schedule.

use berth_objects::Resource;
use berth_objects::Subresource::Status;

use super::v1;
use crate::cells;

const GROUP: &str = "batch";

pub(super) static RESOURCES: [Resource<'static>; 2] = [
    Resource {
        categories: &["all"],
        subresources: &[Status],
        selectable: &["status.successful"],
        columns: cells::JOB,
        cells: cells::job,
        ..v1(GROUP, "Job", "jobs", "job")
    },
    Resource {
        short: &["cj"],
        categories: &["all"],
        subresources: &[Status],
        columns: cells::CRON_JOB,
        cells: cells::cron_job,
        ..v1(GROUP, "CronJob", "cronjobs", "cronjob")
    },
];
