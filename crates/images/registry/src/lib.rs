//! Pull and push of images, over the OCI distribution protocol.
//!
//! Written on `reqwest` rather than on `oci-client`: what makes pulls fast and sturdy (streaming into the unpacker,
//! resuming a broken blob where it stopped, back-off, docker's credentials) is what that crate lacks,
//! and what is left are four requests.
//!
//! Layers never touch the disk in between: the socket feeds the unpacker of its snapshot through a short channel, six
//! layers at a time.

mod blob;
mod challenge;
mod client;
mod credentials;
mod error;
mod progress;
mod pull;
mod push;

pub use client::{Client, ClientOptions};
pub use credentials::{Credential, Credentials};
pub use error::RegistryError;
pub use progress::{LayerProgress, Silent};
pub use pull::{PullOptions, PullPolicy, pull};
pub use push::{PushOptions, push};
