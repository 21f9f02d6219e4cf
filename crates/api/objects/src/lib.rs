//! The machinery of API objects: schemas, selectors, quantities, merging, applying, field ownership.
//!
//! Objects are plain JSON everywhere in here. What a kind means is in the tables of schemas and, for the built-in kinds, in
//! `berth-rules`; so the same code serves kinds nobody has thought of yet.

mod decode;
mod object;
mod quantity;
mod resource;
pub mod schema;
mod selector;
mod status;
mod strategic;
pub mod time;
pub mod yaml;

pub use decode::{WrongType, decode};
pub use object::Object;
pub use quantity::{NotAQuantity, Quantity};
pub use resource::{Column, Resource, Scope, Subresource, VERBS};
pub use selector::{FieldSelector, LabelSelector, NotASelector, is_label_value, is_qualified_name};
pub use status::{Cause, FieldError, Status, Subject};
pub use strategic::{PatchError, strategic_merge};
