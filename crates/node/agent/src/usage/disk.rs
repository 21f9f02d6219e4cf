//! Sizes of directories and file systems.
//!
//! A directory's size is found by walking it, so it is remembered for a minute.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

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
        let Walked { bytes, files, .. } = walk(path);
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.retain(|_, (at, _, _)| at.elapsed() < BELIEVED);
        sizes.insert(path.to_owned(), (Instant::now(), bytes, files));
        (bytes, files)
    }
}

/// What was found below a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// There is more that was not counted: it lies deeper or is more than anybody needs, or the disk fails.
    pub partial: bool,
}

/// How deep directories are followed, each of which is held open meanwhile, and how many files are counted.
const DEEPEST: usize = 200;
const MOST: u64 = 10_000_000;

/// Counts what is below a path. What goes away while we look counts for nothing. Blocks.
///
/// Who writes there may do so while we look: no name is looked up from further away than its directory, and no link is
/// followed, so that nothing is too deep to be seen and nothing outside is.
pub fn walk(path: &Path) -> Walked {
    walk_within(path, DEEPEST, MOST)
}

fn walk_within(path: &Path, deepest: usize, most: u64) -> Walked {
    let mut walked = Walked::default();
    let Ok(root) = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) else { return walked };
    walked.count(&root);
    let mut open = Vec::new();
    if is_directory(&root) {
        walked.enter(openat(CWD, path, FOLDER, Mode::empty()), &mut open);
    }
    loop {
        let depth = open.len();
        let Some(directory) = open.last_mut() else { break };
        let Some(entry) = directory.next() else {
            open.pop();
            continue;
        };
        let (Ok(entry), Ok(above)) = (entry, directory.fd()) else {
            walked.partial = true;
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(error) => {
                walked.missed(error);
                continue;
            }
        };
        // Another file system is somebody else's.
        if found.st_dev != root.st_dev {
            continue;
        }
        walked.count(&found);
        if walked.files >= most {
            walked.partial = true;
            break;
        }
        if !is_directory(&found) {
            continue;
        }
        if depth >= deepest {
            walked.partial = true;
            continue;
        }
        let inner = openat(above, name, FOLDER, Mode::empty());
        walked.enter(inner, &mut open);
    }
    walked
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl Walked {
    fn count(&mut self, stat: &Stat) {
        // A file of several names is counted where it is met, divided among them.
        let names = if is_directory(stat) { 1 } else { stat.st_nlink.max(1) };
        let whole = u128::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let bytes = u64::try_from(whole / u128::from(names)).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        self.files += 1;
    }

    fn enter(&mut self, opened: Result<OwnedFd, Errno>, open: &mut Vec<Dir>) {
        match opened.and_then(Dir::new) {
            Ok(directory) => open.push(directory),
            Err(error) => self.missed(error),
        }
    }

    /// What is gone, or something else by now, is not there; all else is there and not known.
    fn missed(&mut self, error: Errno) {
        self.partial |= !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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

    #[test]
    fn nothing_hides_from_a_walk_and_nothing_outside_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("much"), vec![1; 8 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        // Deeper than a path can say.
        let name = "d".repeat(250);
        let open = |at: &OwnedFd| openat(at, name.as_str(), FOLDER, Mode::empty()).unwrap();
        let mut at = openat(CWD, folder.path(), FOLDER, Mode::empty()).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = open(&at);
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&at, "file", flags, Mode::RUSR | Mode::WUSR).unwrap();
        io::Write::write_all(&mut fs::File::from(file), &vec![1; 1 << 20]).unwrap();
        let walked = walk(folder.path());
        assert!((1 << 20..2 << 20).contains(&walked.bytes), "{walked:?}");
        assert_eq!((walked.files, walked.partial), (23, false));
        // What is too much to be counted is not taken for nothing.
        assert!(walk_within(folder.path(), 20, MOST).partial);
        assert!(!walk_within(folder.path(), 21, MOST).partial);
        assert!(walk_within(folder.path(), DEEPEST, 22).partial);
        assert_eq!(walk(&folder.path().join("nothing")), Walked::default());
    }
}
