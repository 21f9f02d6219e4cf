//! What can go wrong with a registry, and what the user can do about it.

use berth_content::{ContentError, Digest};

/// A failed pull or push.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry answers, but has no such image.
    #[error("registry {registry} has no image `{image}`; check the name and the tag")]
    NotFound {
        /// As the user wrote it.
        image: String,
        /// Host.
        registry: String,
    },
    /// The registry wants other credentials, or hides what it does not want to show.
    #[error(
        "registry {registry} refuses access to `{image}`; the image may not exist, or log in with `berth login {registry}`"
    )]
    Unauthorised {
        /// As the user wrote it.
        image: String,
        /// Host.
        registry: String,
    },
    /// No answer, even after several attempts.
    #[error(
        "registry {registry} cannot be reached for `{image}`; check the network and the registry's name"
    )]
    Unreachable {
        /// As the user wrote it.
        image: String,
        /// Host.
        registry: String,
        /// Of the last attempt.
        source: reqwest::Error,
    },
    /// An answer that means neither yes nor no.
    #[error("registry {registry} answers {status} for `{image}`: {detail}")]
    Status {
        /// As the user wrote it.
        image: String,
        /// Host.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        detail: String,
    },
    /// An answer that is not what the protocol says.
    #[error("registry {registry} sends {what} for `{image}`")]
    Protocol {
        /// As the user wrote it.
        image: String,
        /// Host.
        registry: String,
        /// What is wrong with it.
        what: String,
    },
    /// Bytes that are not the ones their digest names.
    #[error("registry {registry} sends bytes with digest {found} where {expected} was asked for")]
    Digest {
        /// Host.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Nothing for this machine.
    #[error("image `{image}` is not made for linux/amd64; it has {has}")]
    Platform {
        /// As the user wrote it.
        image: String,
        /// What there is.
        has: String,
    },
    /// Not here, and not to be pulled.
    #[error("image `{0}` is not here, and the pull policy is `Never`")]
    NeverPulled(String),
    /// Credentials that cannot be read.
    #[error("cannot read the credentials in `{path}`: {what}")]
    Credentials {
        /// Which file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The machine's trusted certificates could not be read.
    #[error("cannot set up TLS")]
    Tls(#[source] berth_tls::TlsError),
    /// The store failed, or the layer was refused.
    #[error("cannot store the image")]
    Store(#[from] ContentError),
}
