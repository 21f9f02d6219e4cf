//! The store's folders, its lock, and the operations that need no more than these.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_unpack::DiffId;
use rustix::fs::{FlockOperation, flock, syncfs};

use crate::error::{ContentError, OnDisk as _};
use crate::image::Image;
use crate::session::Session;
use crate::snapshot::{Directories, Snapshotter};

const FOLDERS: [&str; 7] = ["blobs/sha256", "layers", "tags", "leases", "cache", "ingest", SPARE];
/// A folder for what is being removed, made while there was room for one.
pub(crate) const SPARE: &str = "trash";

/// What an operation that adds an image guarantees when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The image survives a power failure: the filesystem is synchronised once before the tag moves.
    #[default]
    Synced,
    /// After a power failure the image may have to be pulled or built again; it is never wrong.
    ThisBoot,
}

/// A directory of images. Cheap to clone; any number of processes may have the same one open.
#[derive(Clone)]
pub struct ContentStore {
    pub(crate) root: PathBuf,
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    durability: Durability,
}

/// Holds the store's lock until dropped.
pub(crate) struct Locked(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl ContentStore {
    /// Opens the store in `directory`, making it if needed.
    ///
    /// # Errors
    ///
    /// When the folders cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ContentError> {
        let root = directory.into();
        for folder in FOLDERS {
            let path = root.join(folder);
            fs::create_dir_all(&path).on_disk("create", &path)?;
        }
        let root = fs::canonicalize(&root).on_disk("open", &root)?;
        let snapshots = Arc::new(Directories::new(root.join("layers"))?);
        Ok(Self { root, snapshots, durability: Durability::default() })
    }

    /// The same store with another guarantee for images added through this handle.
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// What images added through this handle are promised.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How layers are kept.
    pub fn snapshots(&self) -> &dyn Snapshotter {
        &*self.snapshots
    }

    /// Begins to add something. Hold the session until the image is tagged or leased.
    ///
    /// # Errors
    ///
    /// When its folder cannot be made.
    pub fn session(&self) -> Result<Session, ContentError> {
        Session::begin(self.clone())
    }

    /// The image's layers as directories for overlayfs, the lowest first.
    ///
    /// A layer that occurs twice is given once, at its upper place: overlayfs refuses doubles, and the upper one
    /// hides all that the lower one could show.
    ///
    /// # Errors
    ///
    /// When a layer is not here.
    pub fn layer_dirs(&self, image: &Image) -> Result<Vec<PathBuf>, ContentError> {
        let mut dirs = Vec::new();
        for (position, layer) in image.layers.iter().enumerate() {
            if image.layers[position + 1..].contains(layer) {
                continue;
            }
            let missing = || ContentError::MissingLayer { image: image.digest, layer: *layer };
            dirs.push(self.snapshots.lower(layer).ok_or_else(missing)?);
        }
        Ok(dirs)
    }

    /// Whether a layer is here and usable.
    pub fn has_layer(&self, layer: &DiffId) -> bool {
        self.snapshots.lower(layer).is_some()
    }

    /// Synchronises the filesystem and marks all layers of this boot as durable.
    ///
    /// # Errors
    ///
    /// When synchronising fails; then nothing is marked.
    pub fn settle(&self) -> Result<(), ContentError> {
        let layers = self.snapshots.list()?;
        let root = File::open(&self.root).on_disk("open", &self.root)?;
        syncfs(&root).on_disk("synchronise", &self.root)?;
        self.snapshots.make_durable(&layers)
    }

    /// Waits for collection to finish, and keeps the next one from beginning.
    pub(crate) fn share(&self) -> Result<Locked, ContentError> {
        self.lock(FlockOperation::LockShared)
    }

    /// Waits until nobody is between looking at something and marking it as wanted.
    pub(crate) fn exclude(&self) -> Result<Locked, ContentError> {
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, operation: FlockOperation) -> Result<Locked, ContentError> {
        let path = self.root.join("lock");
        let mut options = File::options();
        let file = options.create(true).append(true).open(&path).on_disk("open", &path)?;
        flock(&file, operation).on_disk("lock", &path)?;
        Ok(Locked(file))
    }

    /// Writes a small file so that readers see the old one or the new one, never a part.
    pub(crate) fn replace(&self, path: &Path, contents: &[u8]) -> Result<(), ContentError> {
        self.swap(path, contents, self.durability == Durability::Synced)
    }

    /// The same for what means something within this boot alone: after a power failure the file may be the old one, empty or not there.
    pub(crate) fn replace_for_now(&self, path: &Path, contents: &[u8]) -> Result<(), ContentError> {
        self.swap(path, contents, false)
    }

    fn swap(&self, path: &Path, contents: &[u8], synchronise: bool) -> Result<(), ContentError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).on_disk("create", folder)?;
        }
        let aside = self.root.join("ingest").join(format!("{}.new", uuid::Uuid::new_v4()));
        let write = || -> std::io::Result<()> {
            let file = File::create(&aside)?;
            std::io::Write::write_all(&mut &file, contents)?;
            if synchronise {
                file.sync_data()?;
            }
            fs::rename(&aside, path)
        };
        write().on_disk("write", path)
    }
}

/// Sets a file's modification time to now: it is wanted.
pub(crate) fn touch(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}
