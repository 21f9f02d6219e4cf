//! The audit log: which requests are recorded in what detail, and a file of JSON lines that cannot be changed unnoticed.
//!
//! Each line carries its number, the hash of the line before, and its own hash, which covers both; so a line that is changed,
//! removed or put in breaks the chain. The newest hash is kept in a file of its own as well, so that a missing end shows, too.
//! Who rewrites everything from some line on can only be found by a hash that was noted elsewhere: `verify` prints it.

mod chain;
mod journal;
mod policy;

pub use chain::{Report, VerifyError, contains, default_path, verify};
pub use journal::{Journal, Limits};
pub use policy::{Asked, Level, Policy, PolicyError};
