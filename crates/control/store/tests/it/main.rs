//! The store as its users see it: one contract for all backends, a model, crashes, and a full disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod churn;
mod contract;
mod crash;
#[cfg(feature = "etcd")]
mod etcd;
mod full_disk;
mod model;
