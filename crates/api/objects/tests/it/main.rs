//! The machinery of objects as others use it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fuzz;
mod merging;
mod protobuf;
