//! What every client of the API needs besides requests: copies of objects that follow the server, queues of what to look
//! at, and Events.
//!
//! Controllers, the scheduler and the DNS server know the world only through these; none of them polls.

pub mod demand;

mod election;
mod fault;
mod follow;
mod key;
mod mirror;
mod open;
mod queue;
mod recorder;

pub use election::{Candidate, Terms};
pub use fault::Fault;
pub use follow::{Follow, One};
pub use key::Key;
pub use mirror::{Change, Mirror, Mirrored};
pub use open::{OpenError, open};
pub use queue::Queue;
pub use recorder::{Level, Recorder};
