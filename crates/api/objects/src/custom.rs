//! Kinds that are defined at run time: what the machinery asks of them.
//!
//! The machinery knows nothing of custom resource definitions; `berth-custom` answers these questions from one.

use std::any::Any;
use std::fmt::Debug;

use jiff::Timestamp;
use serde_json::Value;

use crate::schema::Definition;
use crate::{FieldError, Lists, Resource, Subresource};

/// A place in a schema: what its parts are called, and how they are merged and owned.
pub trait Node: Debug + Send + Sync {
    /// What stands here.
    fn topology(&self) -> Topology<'_>;
    /// The field of an object or the value of a map.
    fn field(&self, name: &str) -> Option<&dyn Node>;
    /// The element of a list.
    fn element(&self) -> Option<&dyn Node>;
    /// What a key of an element is when it is left out.
    fn key_default(&self, key: &str) -> Option<Value>;
}

/// How the parts of a value are owned.
#[derive(Debug, Clone, Copy)]
pub enum Topology<'a> {
    /// As a definition of the table says: metadata.
    Table(&'static Definition),
    /// An object with named fields.
    Object,
    /// A map, whose entries are things of their own.
    Map,
    /// A list whose elements are known by these keys.
    Keyed(&'a [String]),
    /// A list of different values.
    Set,
    /// One value as a whole.
    Leaf,
}

/// A kind in one version.
pub trait Custom: Node + Any {
    /// The lists of the resource.
    fn lists(&self) -> Lists<'_>;
    /// Names, scope, columns; `lists` are those this one gave.
    fn resource<'a>(&'a self, lists: &'a Lists<'a>) -> Resource<'a>;
    /// Takes out what the schema does not know, and returns the paths.
    fn prune(&self, object: &mut Value) -> Vec<String>;
    /// Fills in what was left out.
    fn default(&self, object: &mut Value);
    /// What is wrong with an object, apart from its metadata. `old` is what it is changed from.
    fn validate(
        &self,
        object: &Value,
        old: Option<&Value>,
        part: Option<Subresource>,
    ) -> Vec<FieldError>;
    /// The cells of one object.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;
}
