//! Collection: mark what tags, leases, sessions and the build cache need, then sweep the rest.
//!
//! Marking and moving away happen under the exclusive lock; deleting, which takes long, does not.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use berth_unpack::{DiffId, Digest};
use rustix::fs::{FlockOperation, flock};

use crate::cache::CachedStep;
use crate::error::{ContentError, OnDisk as _};
use crate::image::Image;
use crate::reference::Reference;
use crate::store::{ContentStore, SPARE};

/// What collection leaves alone besides what is in use.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Content added or wanted within this time.
    pub grace: Duration,
    /// Build steps used within this time, and their layers.
    pub cache: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { grace: Duration::ZERO, cache: Duration::from_hours(7 * 24) }
    }
}

/// What collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: usize,
    /// Layers.
    pub layers: usize,
    /// Remembered build steps.
    pub steps: usize,
    /// Sessions of processes that died.
    pub sessions: usize,
    /// Bytes of blobs and of files in layers.
    pub bytes: u64,
}

/// What the store occupies, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images with a name.
    pub images: usize,
    /// Manifests, configurations and compressed layers.
    pub blobs: u64,
    /// Unpacked layers, by logical size.
    pub layers: u64,
    /// Of both, what neither a tag nor a lease needs.
    pub reclaimable: u64,
    /// Remembered build steps.
    pub steps: usize,
}

#[derive(Default)]
struct Marked {
    blobs: HashSet<Digest>,
    layers: HashSet<DiffId>,
}

impl Marked {
    fn image(&mut self, image: &Image) {
        self.blobs.insert(image.digest);
        self.blobs.insert(image.config_digest);
        self.blobs.extend(image.blobs.iter().map(|blob| blob.digest));
        self.layers.extend(&image.layers);
    }
}

impl ContentStore {
    /// Takes the image's name away, or all its names when it is given by id, and collects.
    ///
    /// # Errors
    ///
    /// When there is no such image, or a lease needs it and `force` was not said. With it, the names go
    /// and the layers stay until the lease ends.
    pub fn remove(&self, name: &str, force: bool) -> Result<Collected, ContentError> {
        let image = self.resolve(name)?;
        let all = self.tags()?.into_iter().filter(|(_, manifest)| *manifest == image.digest);
        let all: Vec<Reference> = all.map(|(reference, _)| reference).collect();
        let named = name.parse::<Reference>().ok().filter(|reference| all.contains(reference));
        let gone = named.map_or(all.clone(), |reference| vec![reference]);
        if gone.len() == all.len() && !force {
            let holder =
                self.leases()?.into_iter().find(|(_, lease)| lease.images.contains(&image.digest));
            if let Some((holder, _)) = holder {
                let holder = holder.as_str().to_owned();
                return Err(ContentError::InUse { image: name.to_owned(), holder });
            }
        }
        for reference in &gone {
            self.untag(reference)?;
        }
        self.collect(Retention::default())
    }

    /// Removes what nothing needs. Safe at any time and from several processes.
    ///
    /// # Errors
    ///
    /// When the disk fails or it cannot be known what is needed; then nothing more is removed.
    pub fn collect(&self, retention: Retention) -> Result<Collected, ContentError> {
        let own = self.root.join("ingest").join(format!("{}.trash", uuid::Uuid::new_v4()));
        let made = fs::create_dir(&own);
        self.collect_into(&own, made, retention)
    }

    fn collect_into(
        &self,
        own: &Path,
        made: io::Result<()>,
        retention: Retention,
    ) -> Result<Collected, ContentError> {
        let mut collected = Collected::default();
        // A full disk has no room for another folder, and is when this is needed most.
        let spare = made.as_ref().is_err_and(is_full);
        let trash = if spare { self.root.join(SPARE) } else { own.to_owned() };
        if !spare {
            made.on_disk("create", &trash)?;
        }
        {
            let _exclusive = self.exclude()?;
            let now = SystemTime::now();
            let horizon = self.sweep_sessions(&trash, &mut collected)?;
            let horizon = horizon.unwrap_or(now).min(earlier(now, retention.grace));
            let mut marked = self.mark()?;
            self.sweep_steps(earlier(now, retention.cache), &trash, &mut marked, &mut collected)?;
            self.sweep_blobs(horizon, &trash, &marked, &mut collected)?;
            self.sweep_layers(horizon, &trash, &marked, &mut collected)?;
        }
        if spare {
            for path in list(&trash)? {
                discard(&path)?;
            }
        } else {
            fs::remove_dir_all(&trash).on_disk("remove", &trash)?;
        }
        Ok(collected)
    }

    /// How much the store holds, and how much of it nothing needs.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn usage(&self) -> Result<Usage, ContentError> {
        let marked = self.mark()?;
        let mut usage = Usage { images: self.images()?.len(), ..Usage::default() };
        for (digest, path) in self.blob_files()? {
            let size = size_of(&path)?;
            usage.blobs += size;
            usage.reclaimable += if marked.blobs.contains(&digest) { 0 } else { size };
        }
        for layer in self.snapshots.list()? {
            let size = self.snapshots.facts(&layer).map_or(0, |facts| facts.bytes);
            usage.layers += size;
            usage.reclaimable += if marked.layers.contains(&layer) { 0 } else { size };
        }
        usage.steps = list(&self.root.join("cache"))?.len();
        Ok(usage)
    }

    fn mark(&self) -> Result<Marked, ContentError> {
        let mut marked = Marked::default();
        let mut manifests: Vec<Digest> =
            self.tags()?.into_iter().map(|(_, digest)| digest).collect();
        for (_, lease) in self.leases()? {
            marked.layers.extend(lease.layers);
            manifests.extend(lease.images);
        }
        for manifest in manifests {
            match self.image(&manifest) {
                Ok(image) => marked.image(&image),
                // A name or lease without its documents holds nothing that could be used.
                Err(ContentError::MissingBlob(_) | ContentError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(marked)
    }

    /// Removes folders of dead sessions; returns when the oldest live one began.
    fn sweep_sessions(
        &self,
        trash: &Path,
        collected: &mut Collected,
    ) -> Result<Option<SystemTime>, ContentError> {
        let mut oldest: Option<SystemTime> = None;
        for path in list(&self.root.join("ingest"))? {
            let lock = path.join("lock");
            match fs::File::open(&lock) {
                Ok(file) if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() => {
                    let began = file.metadata().and_then(|meta| meta.modified());
                    let began = began.on_disk("look at", &lock)?;
                    oldest = Some(oldest.map_or(began, |oldest| oldest.min(began)));
                }
                Ok(_) => match throw(&path, trash) {
                    // It has just ended by itself.
                    Err(ContentError::Disk { source, .. })
                        if source.kind() == io::ErrorKind::NotFound => {}
                    thrown => {
                        thrown?;
                        collected.sessions += 1;
                    }
                },
                // Another collection's trash, a file being replaced, or a session just ending; unless it is
                // old, and so left by a crash.
                Err(_) => {
                    let abandoned = earlier(SystemTime::now(), Duration::from_hours(1));
                    if path != *trash && !used_since(&path, abandoned).unwrap_or(true) {
                        throw(&path, trash)?;
                    }
                }
            }
        }
        Ok(oldest)
    }

    fn sweep_steps(
        &self,
        horizon: SystemTime,
        trash: &Path,
        marked: &mut Marked,
        collected: &mut Collected,
    ) -> Result<(), ContentError> {
        for path in list(&self.root.join("cache"))? {
            let step = fs::read(&path).ok();
            let step = step.and_then(|text| serde_json::from_slice::<CachedStep>(&text).ok());
            match step {
                Some(step) if used_since(&path, horizon)? => {
                    marked.blobs.insert(step.layer.digest);
                    marked.layers.insert(step.layer.diff_id);
                }
                _ => {
                    collected.steps += 1;
                    throw(&path, trash)?;
                }
            }
        }
        Ok(())
    }

    fn sweep_blobs(
        &self,
        horizon: SystemTime,
        trash: &Path,
        marked: &Marked,
        collected: &mut Collected,
    ) -> Result<(), ContentError> {
        for (digest, path) in self.blob_files()? {
            if !marked.blobs.contains(&digest) && !used_since(&path, horizon)? {
                collected.blobs += 1;
                collected.bytes += size_of(&path)?;
                throw(&path, trash)?;
            }
        }
        Ok(())
    }

    fn sweep_layers(
        &self,
        horizon: SystemTime,
        trash: &Path,
        marked: &Marked,
        collected: &mut Collected,
    ) -> Result<(), ContentError> {
        for layer in self.snapshots.list()? {
            let folder = self.snapshots.folder(&layer);
            if !marked.layers.contains(&layer) && !used_since(&folder, horizon)? {
                collected.layers += 1;
                collected.bytes += self.snapshots.facts(&layer).map_or(0, |facts| facts.bytes);
                throw(&folder, trash)?;
            }
        }
        Ok(())
    }

    fn blob_files(&self) -> Result<Vec<(Digest, PathBuf)>, ContentError> {
        let files = list(&self.root.join("blobs/sha256"))?.into_iter();
        Ok(files
            .filter_map(|path| Some((Digest::from_hex(path.file_name()?.to_str()?)?, path)))
            .collect())
    }
}

fn earlier(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, ContentError> {
    let entries = fs::read_dir(folder).on_disk("list", folder)?;
    entries.map(|entry| entry.map(|entry| entry.path()).on_disk("list", folder)).collect()
}

fn used_since(path: &Path, horizon: SystemTime) -> Result<bool, ContentError> {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.map(|modified| modified >= horizon).on_disk("look at", path)
}

fn size_of(path: &Path) -> Result<u64, ContentError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).on_disk("look at", path),
    }
}

fn throw(path: &Path, trash: &Path) -> Result<(), ContentError> {
    let place = trash.join(uuid::Uuid::new_v4().to_string());
    match fs::rename(path, place) {
        // Nobody can see half of a file that is removed where it lies.
        Err(error) if is_full(&error) && path.is_file() => {
            fs::remove_file(path).on_disk("remove", path)
        }
        moved => moved.on_disk("move away", path),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Removes a file or a folder; another collection may be faster.
fn discard(path: &Path) -> Result<(), ContentError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on_disk("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_for_a_folder_is_made_room_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path()).unwrap();
        let session = store.session().unwrap();
        let blob = session.put_blob(b"nobody needs this").unwrap();
        drop(session);
        let own = store.root.join("ingest/none");
        let retention = Retention { grace: Duration::ZERO, cache: Duration::ZERO };
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        let denied = Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(store.collect_into(&own, denied, retention).is_err());
        assert!(store.blob_size(&blob).is_some());
        assert_eq!(store.collect_into(&own, full(), retention).unwrap().blobs, 1);
        assert!(store.blob_size(&blob).is_none());
        assert!(list(&store.root.join(SPARE)).unwrap().is_empty());
    }
}
