//! Names of users and groups that mean something to the system.

/// Whoever is in it may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";
/// The node agents.
pub const NODES: &str = "system:nodes";
/// Everybody who has proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";

const ACCOUNT: &str = "system:serviceaccount:";

/// The user's name of a service account.
#[must_use]
pub fn service_account(namespace: &str, name: &str) -> String {
    format!("{ACCOUNT}{namespace}:{name}")
}

/// Namespace and name of the service account that a user is.
#[must_use]
pub fn service_account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty()).then_some((namespace, name))
}

/// The node that an identity is.
#[must_use]
pub fn node_of(identity: &crate::Identity) -> Option<&str> {
    let name = identity.user.strip_prefix("system:node:").filter(|name| !name.is_empty())?;
    identity.is_in(NODES).then_some(name)
}
