//! Layers made usable: one snapshot per diff-id, shared by every image and container that has the layer.
//!
//! Durability without waiting: a snapshot is moved into place without synchronising its files, and carries
//! the id of the boot that wrote it. After a power failure that id no longer matches, and the snapshot is not
//! believed, unless a later [`Snapshotter::make_durable`] marked it once the filesystem was synchronised. So a
//! half-written layer is never used, and a pull does not wait for a disk flush per layer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_unpack::DiffId;
use serde::{Deserialize, Serialize};

use crate::error::{ContentError, OnDisk as _};

/// What is known about a layer besides its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFacts {
    /// Sum of logical file sizes in bytes.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Folders that the layer used without listing them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implicit: Vec<PathBuf>,
    /// The boot that wrote it.
    #[serde(default)]
    pub boot: String,
}

/// A way to keep layers. Directories today; images of a read-only filesystem can join.
///
/// Methods may block. They are safe to call from several processes at once.
pub trait Snapshotter: Send + Sync {
    /// An empty directory inside `ingest` for the layer's files.
    fn prepare(&self, ingest: &Path) -> Result<PathBuf, ContentError>;

    /// Moves a prepared directory into place. When the layer is already there, the existing one stays and
    /// the prepared one is left for its session to remove.
    fn commit(
        &self,
        prepared: &Path,
        layer: &DiffId,
        facts: LayerFacts,
    ) -> Result<(), ContentError>;

    /// The directory to give to overlayfs, if the layer is here and can be believed.
    fn lower(&self, layer: &DiffId) -> Option<PathBuf>;

    /// What is known about a layer that is here.
    fn facts(&self, layer: &DiffId) -> Option<LayerFacts>;

    /// The folder that holds everything about a layer; its modification time says when it was last wanted.
    fn folder(&self, layer: &DiffId) -> PathBuf;

    /// All layers, believed or not.
    fn list(&self) -> Result<Vec<DiffId>, ContentError>;

    /// Marks every layer of this boot as durable. The caller has synchronised the filesystem since
    /// `layers` was listed.
    fn make_durable(&self, layers: &[DiffId]) -> Result<(), ContentError>;
}

/// Layers as plain directories, `layers/<diff-id>/fs`. Works on every kernel and without privilege.
#[derive(Debug)]
pub struct Directories {
    root: PathBuf,
    boot: String,
}

impl Directories {
    /// Keeps layers below `root`, which must exist.
    pub fn new(root: PathBuf) -> Result<Self, ContentError> {
        let path = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(path).on_disk("read", path)?.trim().to_owned();
        Ok(Self { root, boot })
    }

    fn durable(&self, layer: &DiffId) -> PathBuf {
        self.folder(layer).join("durable")
    }
}

impl Snapshotter for Directories {
    fn prepare(&self, ingest: &Path) -> Result<PathBuf, ContentError> {
        let folder = ingest.join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&folder).on_disk("create", &folder)?;
        let root = folder.join("fs");
        fs::create_dir(&root).on_disk("create", &root)?;
        // The process's umask must not decide what `/` looks like inside a container.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&root, open).on_disk("set the mode of", &root)?;
        Ok(root)
    }

    fn commit(
        &self,
        prepared: &Path,
        layer: &DiffId,
        facts: LayerFacts,
    ) -> Result<(), ContentError> {
        let folder = prepared.parent().unwrap_or(prepared);
        let facts = LayerFacts { boot: self.boot.clone(), ..facts };
        let file = folder.join("layer.json");
        let text = serde_json::to_vec(&facts).map_err(io::Error::from).on_disk("encode", &file)?;
        fs::write(&file, text).on_disk("write", &file)?;
        let place = self.folder(layer);
        loop {
            match fs::rename(folder, &place) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    if self.lower(layer).is_some() {
                        return Ok(());
                    }
                    // Left by a crash: out of the way with it.
                    let aside = prepared.with_extension("unbelieved");
                    match fs::rename(&place, &aside) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        outcome => outcome.on_disk("move aside", &place)?,
                    }
                }
                outcome => return outcome.on_disk("move into place", &place),
            }
        }
    }

    fn lower(&self, layer: &DiffId) -> Option<PathBuf> {
        let facts = self.facts(layer)?;
        (facts.boot == self.boot || self.durable(layer).exists())
            .then(|| self.folder(layer).join("fs"))
    }

    fn facts(&self, layer: &DiffId) -> Option<LayerFacts> {
        serde_json::from_slice(&fs::read(self.folder(layer).join("layer.json")).ok()?).ok()
    }

    fn folder(&self, layer: &DiffId) -> PathBuf {
        self.root.join(layer.hex())
    }

    fn list(&self) -> Result<Vec<DiffId>, ContentError> {
        let mut layers = Vec::new();
        for entry in fs::read_dir(&self.root).on_disk("list", &self.root)? {
            let name = entry.on_disk("list", &self.root)?.file_name();
            layers.extend(name.to_str().and_then(berth_unpack::Digest::from_hex).map(DiffId));
        }
        Ok(layers)
    }

    fn make_durable(&self, layers: &[DiffId]) -> Result<(), ContentError> {
        for layer in layers {
            let mark = self.durable(layer);
            if self.facts(layer).is_some_and(|facts| facts.boot == self.boot) && !mark.exists() {
                match fs::write(&mark, "") {
                    // Collected meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome.on_disk("write", &mark)?,
                }
            }
        }
        Ok(())
    }
}
