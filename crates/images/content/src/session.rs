//! Adding to the store.
//!
//! A session is a locked folder. While its lock is held, collection keeps everything that was added or wanted since the
//! session began; when the process dies, the lock goes with it and the folder is swept. So nothing needs a
//! time-out, and an interrupted pull leaves no trace.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use berth_unpack::{DiffId, Digest, Hashing, UnpackOptions, Unpacked, unpack};
use rustix::fs::{FlockOperation, flock};

use crate::error::{ContentError, OnDisk as _};
use crate::image::Image;
use crate::reference::Reference;
use crate::snapshot::LayerFacts;
use crate::store::{ContentStore, Durability, touch};

/// Protection for what is being added; see the module.
pub struct Session {
    store: ContentStore,
    folder: PathBuf,
    _lock: File,
}

/// What a layer must turn out to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerExpectation {
    /// From the manifest.
    pub digest: Option<Digest>,
    /// From the configuration.
    pub diff_id: Option<DiffId>,
}

/// A blob being written.
pub struct BlobWriter<'a> {
    session: &'a Session,
    path: PathBuf,
    file: Hashing<File>,
}

impl Session {
    pub(crate) fn begin(store: ContentStore) -> Result<Self, ContentError> {
        let _shared = store.share()?;
        let folder = store.root.join("ingest").join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&folder).on_disk("create", &folder)?;
        let path = folder.join("lock");
        let lock = File::create(&path).on_disk("create", &path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).on_disk("lock", &path)?;
        Ok(Self { store, folder, _lock: lock })
    }

    /// The store it belongs to.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// A folder for the caller's own files, on the store's filesystem, removed with the session.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf, ContentError> {
        let path = self.folder.join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&path).on_disk("create", &path)?;
        Ok(path)
    }

    /// Says that a blob is wanted. True if it is here with this size; false means: add it.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn want_blob(&self, digest: &Digest, size: u64) -> Result<bool, ContentError> {
        let _shared = self.store.share()?;
        let path = self.store.blob_path(digest);
        if self.store.blob_size(digest) != Some(size) {
            return Ok(false);
        }
        touch(&path).on_disk("touch", &path)?;
        Ok(true)
    }

    /// Says that a layer is wanted. True if it is here; false means: add it.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn want_layer(&self, layer: &DiffId) -> Result<bool, ContentError> {
        let _shared = self.store.share()?;
        if !self.store.has_layer(layer) {
            return Ok(false);
        }
        let folder = self.store.snapshots.folder(layer);
        touch(&folder).on_disk("touch", &folder)?;
        Ok(true)
    }

    /// Adds a small blob.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).on_disk("write", &writer.path)?;
        writer.commit(None).map(|(digest, _)| digest)
    }

    /// Begins a blob.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>, ContentError> {
        let path = self.folder.join(format!("{}.blob", uuid::Uuid::new_v4()));
        let file = File::create(&path).on_disk("create", &path)?;
        Ok(BlobWriter { session: self, path, file: Hashing::new(file) })
    }

    /// Streams a compressed layer into its snapshot, and keeps the compressed bytes as a blob. Blocks.
    ///
    /// # Errors
    ///
    /// When the source, the layer, its digests or the disk are bad; nothing is then visible in the store.
    pub fn add_layer(
        &self,
        source: impl Read + Send,
        expected: LayerExpectation,
    ) -> Result<Unpacked, ContentError> {
        let root = self.prepare_snapshot()?;
        let mut blob = self.blob_writer()?;
        let options = UnpackOptions {
            digest: expected.digest,
            diff_id: expected.diff_id,
            ..UnpackOptions::default()
        };
        let unpacked = unpack(source, Some(&mut blob), &root, &options)?;
        for dropped in &unpacked.dropped {
            tracing::debug!(path = %dropped.path.display(), what = dropped.what, "layer entry applied in part");
        }
        let facts = LayerFacts {
            bytes: unpacked.bytes,
            entries: unpacked.entries,
            implicit: unpacked.implicit.clone(),
            boot: String::new(),
        };
        self.commit_snapshot(&root, &unpacked.diff_id, facts)?;
        blob.commit(Some(unpacked.digest))?;
        Ok(unpacked)
    }

    /// An empty directory to become a layer, on the store's filesystem.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn prepare_snapshot(&self) -> Result<PathBuf, ContentError> {
        self.store.snapshots.prepare(&self.folder)
    }

    /// Makes a directory from [`Session::prepare_snapshot`] the snapshot of `layer`.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn commit_snapshot(
        &self,
        prepared: &Path,
        layer: &DiffId,
        facts: LayerFacts,
    ) -> Result<(), ContentError> {
        let _shared = self.store.share()?;
        self.store.snapshots.commit(prepared, layer, facts)?;
        let folder = self.store.snapshots.folder(layer);
        touch(&folder).on_disk("touch", &folder)
    }

    /// Checks that everything of the image is here, makes it durable if the store promises so, and moves the tags.
    ///
    /// # Errors
    ///
    /// When a part is missing or the disk fails; then no tag has moved.
    pub fn finish(&self, manifest: &Digest, tags: &[Reference]) -> Result<Image, ContentError> {
        let image = self.store.image(manifest)?;
        self.store.layer_dirs(&image)?;
        self.store.inherit_folders(&image)?;
        if self.store.durability() == Durability::Synced {
            self.store.settle()?;
        }
        for tag in tags {
            self.store.tag(tag, manifest)?;
        }
        Ok(image)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            // Collection will sweep it, since the lock is gone.
            tracing::debug!(%error, folder = %self.folder.display(), "session folder left behind");
        }
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter<'_> {
    /// Moves the blob into place under its digest, and returns that and its length.
    ///
    /// # Errors
    ///
    /// When the digest is not the expected one or the disk fails.
    pub fn commit(self, expected: Option<Digest>) -> Result<(Digest, u64), ContentError> {
        let (found, size, _) = self.file.finish();
        if let Some(expected) = expected
            && expected != found
        {
            return Err(ContentError::Mismatch { expected, found });
        }
        let _shared = self.session.store.share()?;
        let place = self.session.store.blob_path(&found);
        fs::rename(&self.path, &place).on_disk("move into place", &place)?;
        Ok((found, size))
    }
}
