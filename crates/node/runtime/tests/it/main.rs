//! Real containers on the real kernel. Needs root and Debian's `busybox-static`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod isolation;
mod lifecycle;
mod support;
