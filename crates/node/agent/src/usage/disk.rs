//! Sizes of directories and file systems.
//!
//! A directory's size is found by walking it, so it is remembered for a minute.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a directory's size is believed.
const BELIEVED: Duration = Duration::from_secs(60);

/// Room on a file system and what of it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes there are.
    pub capacity: u64,
    /// Bytes anybody may still write.
    pub available: u64,
    /// Bytes in use: of the whole, or of one directory.
    pub used: u64,
    /// Files there may be.
    pub inodes: u64,
    /// Files that may still be made.
    pub inodes_free: u64,
    /// Files there are: of the whole, or of one directory.
    pub inodes_used: u64,
}

impl Space {
    /// The file system a path is on.
    ///
    /// # Errors
    /// When the path is not there.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self {
            capacity: bytes(stat.f_blocks),
            available: bytes(stat.f_bavail),
            used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
            inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
        })
    }
}

/// Remembered sizes of directories.
#[derive(Debug, Default)]
pub struct Disks(Mutex<HashMap<PathBuf, (Instant, u64, u64)>>);

impl Disks {
    /// The file system a directory is on, and what the directory uses of it. Blocks while it walks.
    ///
    /// # Errors
    /// When the directory is not there.
    pub fn directory(&self, path: &Path) -> io::Result<Space> {
        let whole = Space::of(path)?;
        let (used, inodes_used) = self.size(path);
        Ok(Space { used, inodes_used, ..whole })
    }

    fn size(&self, path: &Path) -> (u64, u64) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        if let Some((at, bytes, files)) = known
            && at.elapsed() < BELIEVED
        {
            return (bytes, files);
        }
        let (bytes, files) = walk(path);
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.retain(|_, (at, _, _)| at.elapsed() < BELIEVED);
        sizes.insert(path.to_owned(), (Instant::now(), bytes, files));
        (bytes, files)
    }
}

/// Bytes on the disk and files. What goes away while we look counts for nothing. Blocks.
pub fn walk(path: &Path) -> (u64, u64) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return (0, 0) };
    let (mut bytes, mut files) = (metadata.blocks().saturating_mul(512), 1);
    if metadata.is_dir() {
        let mut waiting = vec![path.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let Ok(found) = entry.metadata() else { continue };
                // Another file system is somebody else's.
                if found.dev() != metadata.dev() {
                    continue;
                }
                // A file of several names is counted where it is met, divided among them.
                let names = if found.is_dir() { 1 } else { found.nlink().max(1) };
                bytes += found.blocks().saturating_mul(512) / names;
                files += 1;
                if found.is_dir() {
                    waiting.push(entry.path());
                }
            }
        }
    }
    (bytes, files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_walked_and_remembered() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("inner")).unwrap();
        fs::write(directory.path().join("inner/file"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("everything")).unwrap();
        let disks = Disks::default();
        let space = disks.directory(directory.path()).unwrap();
        assert!((1 << 20..2 << 20).contains(&space.used), "{space:?}");
        assert_eq!(space.inodes_used, 4);
        assert!(space.capacity > space.used && space.available > 0);
        fs::remove_file(directory.path().join("inner/file")).unwrap();
        assert_eq!(disks.directory(directory.path()).unwrap().used, space.used);
        assert!(disks.directory(&directory.path().join("nothing")).is_err());
    }
}
