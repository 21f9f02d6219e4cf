//! The table of built-in resources, one module for each group. A new kind is a row there, a schema, and whatever rules it
//! needs.

mod admission;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod devices;
mod discovery;
mod events;
mod extensions;
mod flowcontrol;
mod metrics;
mod networking;
mod node;
mod policy;
mod rbac;
mod registration;
mod scheduling;
mod storage;

use berth_objects::{Resource, Scope, VERBS};

use crate::cells;

/// A row with nothing but names, to be completed by the rows of the groups.
const fn v1(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource<'static> {
    Resource {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short: &[],
        categories: &[],
        scope: Scope::Namespaced,
        verbs: &VERBS,
        subresources: &[],
        selectable: &[],
        columns: cells::ONLY_AGE,
        cells: cells::age_only,
        custom: None,
    }
}

static GROUPS: [&[Resource<'static>]; 22] = [
    &core::RESOURCES,
    &admission::RESOURCES,
    &apps::RESOURCES,
    &autoscaling::RESOURCES,
    &batch::RESOURCES,
    &coordination::RESOURCES,
    &devices::RESOURCES,
    &discovery::RESOURCES,
    &events::RESOURCES,
    &extensions::RESOURCES,
    &flowcontrol::RESOURCES,
    &networking::RESOURCES,
    &node::RESOURCES,
    &policy::RESOURCES,
    &registration::RESOURCES,
    &scheduling::RESOURCES,
    &storage::RESOURCES,
    &authentication::RESOURCES,
    &authorization::RESOURCES,
    &certificates::RESOURCES,
    &rbac::RESOURCES,
    &metrics::RESOURCES,
];

/// All built-in resources.
pub fn resources() -> impl Iterator<Item = &'static Resource<'static>> {
    GROUPS.iter().copied().flatten()
}

/// The resource of a path.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource<'static>> {
    resources().find(|resource| {
        (resource.group, resource.version, resource.plural) == (group, version, plural)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_a_schema_and_cells_for_its_columns() {
        let empty = serde_json::json!({});
        for resource in resources() {
            assert_eq!(resource.definition().1.kinds()[0].2, resource.kind);
            let cells = (resource.cells)(&empty, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), resource.columns.len(), "{}", resource.kind);
        }
    }
}
