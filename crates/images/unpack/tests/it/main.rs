//! Layers as other crates use them. Needs root, because owners, device nodes and overlay marks are part of a layer.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod escape;
mod format;
mod fuzz;
mod oracle;
mod overlay;
mod support;
