//! The command as engines use it, in this process: it needs root, cgroups and Debian's busybox-static.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuse;
mod cgroups;
mod configuration;
mod devices;
mod features;
mod hooks;
mod life;
mod linux;
mod mounts;
mod namespaces;
mod operations;
mod oracle;
mod process;
mod refusals;
mod rules;
mod seccomp;
mod support;
mod watch;
