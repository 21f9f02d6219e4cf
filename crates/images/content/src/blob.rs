//! Reading blobs.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use berth_unpack::Digest;
use serde::de::DeserializeOwned;

use crate::error::{ContentError, OnDisk as _};
use crate::store::ContentStore;

impl ContentStore {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// The length of a blob, if it is here.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().map(|meta| meta.len())
    }

    /// A small blob (manifest, configuration), checked against its digest.
    ///
    /// # Errors
    ///
    /// When it is not here or damaged.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let path = self.blob_path(digest);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ContentError::MissingBlob(*digest));
            }
            outcome => outcome.on_disk("read", path)?,
        };
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(ContentError::Damaged(*digest)) }
    }

    /// A large blob (layer), to be read and checked by the caller.
    ///
    /// # Errors
    ///
    /// When it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ContentError::MissingBlob(*digest))
            }
            outcome => outcome.on_disk("open", path),
        }
    }

    pub(crate) fn document<T: DeserializeOwned>(
        &self,
        what: &'static str,
        digest: &Digest,
    ) -> Result<T, ContentError> {
        serde_json::from_slice(&self.blob(digest)?).map_err(|source| ContentError::Document {
            what,
            digest: *digest,
            source,
        })
    }
}
