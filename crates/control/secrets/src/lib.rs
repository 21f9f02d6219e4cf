//! Secrets sealed at rest.
//!
//! [`SealedStore`] stands between the API server and any store: what is written under certain prefixes is encrypted on the
//! way in and decrypted on the way out, so that neither the file, nor its history, nor a backup holds a Secret in the clear.
//! Each value has a key of its own, which is sealed with the newest key of the [`Keyring`]; both are bound to the value's
//! place, so that a sealed value moved elsewhere does not open.

mod keyring;
mod passphrase;
mod seal;
mod store;

pub use keyring::{Keyring, KeyringError};
pub use passphrase::{PassphraseError, lock_keys, unlock_keys};
pub use seal::{OpenError, check};
pub use store::{SealedStore, UnsealError};
