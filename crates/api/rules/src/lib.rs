//! The built-in kinds: names, columns, defaults, preparation and validation.
//!
//! Everything here is a function of values, with no clock and no store, so that a manifest can be judged anywhere: in the
//! server, on the command line, in a test. What needs the cluster's state (addresses, quotas) is the server's business.

mod cells;
mod convert;
mod defaults;
mod kinds;
mod prepare;
mod reference;
pub mod usage;
mod validate;

use berth_objects::{FieldError, Resource, Subresource};
use serde_json::Value;

pub use kinds::{find, resources};
pub use reference::{MIRROR, is_mirror, reference};
pub use validate::SYSTEM_PRIORITIES;

/// Fills in what was left out.
pub fn default(resource: &Resource, object: &mut Value) {
    match resource.custom {
        Some(custom) => custom.default(object),
        None => defaults::apply(resource, object),
    }
}

/// Makes a new object ready: no status but the first, generation one.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    prepare::create(resource, object);
}

/// Makes a changed object ready: the status stays as it was, and the generation counts changes of what is wanted.
pub fn prepare_update(resource: &Resource, object: &mut Value, old: &Value) {
    prepare::update(resource, object, old);
}

/// Makes a changed status ready: everything else stays as it was.
pub fn prepare_status(resource: &Resource, object: &mut Value, old: &Value) {
    prepare::status(resource, object, old);
}

/// What is wrong with a new object.
#[must_use]
pub fn validate(resource: &Resource, object: &Value) -> Vec<FieldError> {
    validate::create(resource, object)
}

/// What is wrong with a changed object.
#[must_use]
pub fn validate_update(resource: &Resource, object: &Value, old: &Value) -> Vec<FieldError> {
    validate::update(resource, object, old)
}

/// What is wrong with an object of a kind that was defined at run time, after a part of it was changed.
#[must_use]
pub fn validate_part(
    resource: &Resource,
    object: &Value,
    old: &Value,
    part: Subresource,
) -> Vec<FieldError> {
    resource.custom.map(|custom| custom.validate(object, Some(old), Some(part))).unwrap_or_default()
}

/// What is wrong with a pod to which containers were added that look into it.
#[must_use]
pub fn validate_ephemeral(resource: &Resource, object: &Value, old: &Value) -> Vec<FieldError> {
    validate::ephemeral(resource, object, old)
}

/// What is wrong with a pod whose containers were given more or less.
#[must_use]
pub fn validate_resize(resource: &Resource, object: &Value, old: &Value) -> Vec<FieldError> {
    validate::resize(resource, object, old)
}

/// The object as this resource shows it, from its stored form. Some objects are shown by several resources.
#[must_use]
pub fn present(resource: &Resource, object: Value) -> Value {
    convert::present(resource, object)
}

/// The stored form of an object that this resource shows.
#[must_use]
pub fn stored(resource: &Resource, object: Value) -> Value {
    convert::stored(resource, object)
}

/// What to tell those who create an object of a kind that is kept, but that nothing acts on. A row goes when its part
/// arrives.
#[must_use]
pub fn inert(resource: &Resource) -> Option<&'static str> {
    Some(match (resource.group, resource.kind) {
        ("apps", "StatefulSet" | "DaemonSet") | ("batch", _) | ("", "ReplicationController") => {
            "this server keeps the object, but does not make pods of it yet"
        }
        ("autoscaling", _) => "this server keeps the object, but does not scale by it yet",
        ("networking.k8s.io", "Ingress" | "IngressClass") => {
            "this server keeps the object, but does not route by it yet"
        }
        ("networking.k8s.io", "ServiceCIDR") => {
            "this server keeps the object, but takes addresses of Services from its own range"
        }
        ("storage.k8s.io", "StorageClass") => return None,
        ("storage.k8s.io", _) => {
            "this server keeps the object, but has no drivers of storage to hand it to"
        }
        ("node.k8s.io", _) => {
            "this server keeps the object, but runs all pods with its one runtime"
        }
        ("resource.k8s.io", _) => "this server keeps the object, but does not allocate devices",
        _ => return None,
    })
}
