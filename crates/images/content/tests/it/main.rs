//! The store as other crates use it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod archive;
mod collect;
mod images;
mod support;
