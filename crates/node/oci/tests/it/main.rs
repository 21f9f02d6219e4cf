//! The command as engines use it, in this process: it needs root, cgroups and Debian's busybox-static.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod life;
mod refusals;
mod support;
