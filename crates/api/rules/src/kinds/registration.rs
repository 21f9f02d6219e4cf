//! Which server answers for which version of a group.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    subresources: &[Status],
    columns: cells::API_SERVICE,
    cells: cells::api_service,
    ..v1("apiregistration.k8s.io", "APIService", "apiservices", "apiservice")
}];
