//! Kinds that are defined at run time, from their definition to their objects.
//!
//! Everything here is a function of values: no store, no network, no clock. The server keeps the definitions, asks the
//! webhooks and tells the clients.

mod check;
mod definition;
mod fill;
mod format;
mod jsonpath;
mod kind;
mod names;
mod publish;
mod rules;
mod schema;
mod validate;

pub use definition::{FINALIZER, GROUP, PLURAL, default, validate, validate_update};
pub use kind::{Conversion, Kind, Scale, kinds, storage, stored_kind};
pub use names::{Accepted, accept, is_established, status};
pub use schema::Schema;
