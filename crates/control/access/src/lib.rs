//! Who may do what: role-based rules, the node authorizer, and the roles every cluster has.
//!
//! Everything here is a function of values. The API server feeds the index with objects as they change and asks it once for
//! each request; nothing in here waits, and an answer costs a few look-ups however many roles there are.

mod defaults;
mod graph;
mod identity;
mod index;
mod policy;
mod request;
mod rule;
mod user;

pub use defaults::{AUTOUPDATE, cluster_role_bindings, cluster_roles, role_bindings, roles};
pub use graph::Graph;
pub use identity::Identity;
pub use index::{Index, RoleName, aggregate};
pub use policy::Policy;
pub use request::{Attributes, Verdict};
pub use rule::{Rule, uncovered};
pub use user::{AUTHENTICATED, MASTERS, NODES, node_of, service_account, service_account_of};

/// The group of everything in here.
pub const GROUP: &str = "rbac.authorization.k8s.io";
