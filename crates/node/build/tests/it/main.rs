//! Builds as a user writes them, run for real. Needs root, overlayfs, `unshare` and `busybox-static`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod base;
mod cache;
mod copying;
mod errors;
mod images;
mod support;
