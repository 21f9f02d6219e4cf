//! Build steps that were done before, by key.

use std::fs;
use std::path::PathBuf;

use berth_unpack::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{ContentError, OnDisk as _};
use crate::store::{ContentStore, touch};

/// A layer that a step gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedLayer {
    /// Of the tar stream.
    pub diff_id: DiffId,
    /// Of the compressed blob.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedStep {
    /// The layer.
    pub layer: CachedLayer,
    /// When, in RFC 3339, so that an image built again from the cache keeps its dates and digest.
    pub created: String,
}

impl ContentStore {
    pub(crate) fn cache_path(&self, key: &Digest) -> PathBuf {
        self.root.join("cache").join(key.hex())
    }

    /// What the step with this key gave before, if it can still be read. Counts as use.
    pub fn cached_step(&self, key: &Digest) -> Option<CachedStep> {
        let path = self.cache_path(key);
        let step = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        touch(&path).ok()?;
        Some(step)
    }

    /// Remembers what the step with this key gave.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn cache_step(&self, key: &Digest, step: &CachedStep) -> Result<(), ContentError> {
        let path = self.cache_path(key);
        let text =
            serde_json::to_vec(step).map_err(std::io::Error::from).on_disk("encode", &path)?;
        self.replace(&path, &text)
    }
}
