//! Budgets of disruption.

use berth_objects::Resource;
use berth_objects::Subresource::Status;

use super::v1;
use crate::cells;

const GROUP: &str = "policy";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    short: &["pdb"],
    subresources: &[Status],
    columns: cells::DISRUPTION_BUDGET,
    cells: cells::disruption_budget,
    ..v1(GROUP, "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
}];
