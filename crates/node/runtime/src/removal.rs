//! Removing directories that containers have filled.
//!
//! They may be nested deeper than any stack or table of descriptors goes, so none is entered from within another: what is in a
//! directory is moved up beside it first.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, renameat, unlinkat};
use rustix::io::Errno;

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a directory and all in it; one that is not there is no error. Links are removed, not followed, and what is mounted
/// below stays.
///
/// # Errors
/// When something cannot be removed; `EXDEV` when something is mounted there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(path, FLAGS, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let device = rustix::fs::fstat(&top)?.st_dev;
    let mut moved = 0_u64;
    loop {
        let folders = empty(top.as_fd())?;
        if folders.is_empty() {
            break;
        }
        for name in folders {
            let folder = openat(&top, name.as_c_str(), FLAGS, Mode::empty())?;
            // What is mounted there is not ours to remove.
            if rustix::fs::fstat(&folder)?.st_dev != device {
                return Err(Errno::XDEV.into());
            }
            for inner in empty(folder.as_fd())? {
                // A name of its own, also if an earlier attempt was interrupted.
                loop {
                    moved += 1;
                    let beside = format!(".removed-{moved}");
                    match renameat(&folder, inner.as_c_str(), &top, beside.as_str()) {
                        Ok(()) => break,
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            unlinkat(&top, name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    drop(top);
    std::fs::remove_dir(path)
}

/// Removes what is no directory; returns the names of those that are.
fn empty(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    let reading: OwnedFd = openat(folder, c".", FLAGS, Mode::empty())?;
    for entry in Dir::new(reading)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode) == FileType::Directory
            }
            _ => false,
        };
        if is_folder {
            folders.push(name.to_owned());
        } else {
            unlinkat(folder, name, AtFlags::empty())?;
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mounted = folder.path().join("top/volumes/mounted");
        std::fs::create_dir_all(&mounted).unwrap();
        let (nothing, flags) = (None::<&std::ffi::CStr>, rustix::mount::MountFlags::empty());
        rustix::mount::mount("tmpfs", &mounted, "tmpfs", flags, nothing).unwrap();
        std::fs::create_dir(mounted.join("deep")).unwrap();
        std::fs::write(mounted.join("file"), "kept").unwrap();
        std::fs::write(mounted.join("deep/file"), "kept").unwrap();
        let outcome = remove_tree(&folder.path().join("top"));
        let moved = folder.path().join("top/.removed-1");
        let kept = if moved.exists() { moved } else { mounted };
        let found = std::fs::read_to_string(kept.join("file"));
        let deep = std::fs::read_to_string(kept.join("deep/file"));
        rustix::mount::unmount(&kept, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(outcome.is_err(), "{outcome:?}");
        assert_eq!((found.unwrap(), deep.unwrap()), ("kept".to_owned(), "kept".to_owned()));
    }

    #[test]
    fn what_is_deeper_than_any_path_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink("/etc", top.join("link")).unwrap();
        let mut at = open(&top, FLAGS, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "a", Mode::RWXU).unwrap();
            let _file = openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            at = openat(&at, "a", FLAGS, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&top).unwrap();
        assert!(!top.exists() && Path::new("/etc/passwd").exists());
        remove_tree(&top).unwrap();
    }
}
