//! The machinery of API objects: schemas, selectors, quantities, merging, applying, field ownership.
//!
//! Objects are plain JSON everywhere in here. What a kind means is in the tables of schemas and, for the built-in kinds, in
//! `berth-rules`; so the same code serves kinds nobody has thought of yet.

mod custom;
mod decode;
mod fields;
pub mod json;
pub mod managed;
mod object;
pub mod protobuf;
mod quantity;
mod resource;
pub mod schema;
mod selector;
mod status;
mod strategic;
pub mod time;
pub mod yaml;

pub use custom::{Custom, Node, Topology};
pub use decode::{WrongType, decode, fit};
pub use fields::{Fields, merge_applied};
pub use object::Object;
pub use quantity::{NotAQuantity, Quantity};
pub use resource::{Column, Handle, Lists, Resource, Scope, Subresource, VERBS};
pub use selector::{FieldSelector, LabelSelector, NotASelector, is_label_value, is_qualified_name};
pub use status::{Cause, FieldError, Status, Subject};
pub use strategic::{PatchError, strategic_merge};

/// Base64 as JSON carries bytes.
#[must_use]
pub fn base64_encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Bytes from base64, or nothing if the text is none.
#[must_use]
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
