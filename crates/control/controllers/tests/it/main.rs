//! All controllers and the scheduler against the real API server in memory, with a node that only pretends to run pods.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod disruption;
mod election;
mod endings;
mod mirroring;
mod scheduling;
mod support;
mod volumes;
mod workloads;
