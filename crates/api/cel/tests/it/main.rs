//! What expressions give, and that none of them runs away.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod language;
