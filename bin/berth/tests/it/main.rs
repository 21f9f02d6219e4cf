//! The binary from outside.
#![allow(clippy::unwrap_used, reason = "tests")]

mod layers;
mod shim;
mod story;
mod support;
