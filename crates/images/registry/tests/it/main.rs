//! Pull and push against a real registry (Debian's `docker-registry`) and against peers that misbehave.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod peers;
mod round_trip;
mod support;
