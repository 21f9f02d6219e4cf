//! Roles and who has them.

use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 4] = [
    Resource { columns: cells::ROLE, cells: cells::role, ..v1(GROUP, "Role", "roles", "role") },
    Resource {
        columns: cells::ROLE_BINDING,
        cells: cells::role_binding,
        ..v1(GROUP, "RoleBinding", "rolebindings", "rolebinding")
    },
    Resource {
        scope: Scope::Cluster,
        columns: cells::ROLE,
        cells: cells::role,
        ..v1(GROUP, "ClusterRole", "clusterroles", "clusterrole")
    },
    Resource {
        scope: Scope::Cluster,
        columns: cells::ROLE_BINDING,
        cells: cells::role_binding,
        ..v1(GROUP, "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
    },
];
