//! What can go wrong with the store.

use std::io;
use std::path::PathBuf;

use berth_unpack::{DiffId, Digest, UnpackError};

/// A failed operation on the store.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The disk said no.
    #[error("cannot {action} `{}`", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such blob.
    #[error("the store has no blob {0}")]
    MissingBlob(Digest),
    /// The image is known but one of its layers is not here (any more).
    #[error("the store has no layer {layer} of image {image}; pull or build the image again")]
    MissingLayer {
        /// The image's manifest.
        image: Digest,
        /// The layer.
        layer: DiffId,
    },
    /// A blob whose bytes no longer match its name.
    #[error("blob {0} is damaged on disk; pull or build the image again")]
    Damaged(Digest),
    /// A blob that turned out to be something else.
    #[error("the bytes have digest {found} where {expected} was promised")]
    Mismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// No image of that name or id.
    #[error("no image `{0}` here")]
    Unknown(String),
    /// A prefix that fits several images.
    #[error("`{prefix}` is the beginning of {count} image ids; give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// Still in use by pods.
    #[error("image `{image}` is used by {holder}")]
    InUse {
        /// What was to be removed.
        image: String,
        /// The name of one lease on it.
        holder: String,
    },
    /// A document that is not what it should be.
    #[error("cannot read {what} {digest}")]
    Document {
        /// Manifest, configuration…
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Why.
        source: serde_json::Error,
    },
    /// A manifest and a configuration that do not fit together.
    #[error("image {image} lists {blobs} layers but its configuration {diffs}")]
    LayerCount {
        /// The manifest.
        image: Digest,
        /// Layers in the manifest.
        blobs: usize,
        /// Layers in the configuration.
        diffs: usize,
    },
    /// A digest with an algorithm other than SHA-256.
    #[error(transparent)]
    Digest(#[from] berth_unpack::ParseDigestError),
    /// A layer that could not be unpacked.
    #[error("cannot unpack a layer")]
    Unpack(#[from] UnpackError),
    /// An archive given to `load` that is no image archive.
    #[error("not an image archive: {0}")]
    Archive(String),
    /// A lease name that cannot be a file name.
    #[error("`{0}` is not a lease name: use letters, digits, `.`, `_` and `-`, at most 200")]
    LeaseName(String),
}

/// Adds the action and the path to an I/O error.
pub(crate) trait OnDisk<T> {
    fn on_disk(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ContentError>;
}

impl<T, E: Into<io::Error>> OnDisk<T> for Result<T, E> {
    fn on_disk(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ContentError> {
        self.map_err(|error| ContentError::Disk { action, path: path.into(), source: error.into() })
    }
}
