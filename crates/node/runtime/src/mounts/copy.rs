//! Filling a new file system with what it will cover.
//!
//! What is copied comes from an image and may be hostile, so nothing is opened by a path: every step goes from an open directory to a
//! name in it, and no link is followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmodat, chownat, fstat,
    mkdirat, openat, openat2, readlinkat, statat, symlinkat,
};

/// Deeper directories are refused: each one on the way is open.
const DEEPEST: usize = 64;
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what lies at `path` below `root` into `target`; nothing there is nothing to copy.
pub fn fill(root: BorrowedFd<'_>, path: &str, target: BorrowedFd<'_>) -> io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        opened => opened?,
    };
    folder(&from, target, 0)
}

fn folder(from: &OwnedFd, target: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other("directories are nested too deep to be copied"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(target, name, Mode::RWXU)?;
                let inner = openat(from, name, FOLDER, Mode::empty())?;
                let made = openat(target, name, FOLDER, Mode::empty())?;
                folder(&inner, made.as_fd(), depth + 1)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let mut source = File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut made = File::from(openat(target, name, flags, Mode::RUSR | Mode::WUSR)?);
                if FileType::from_raw_mode(fstat(&source)?.st_mode) == FileType::RegularFile {
                    io::copy(&mut source, &mut made)?;
                }
            }
            FileType::Symlink => {
                let link = readlinkat(from, name, Vec::new())?;
                symlinkat(link.as_c_str(), target, name)?;
                own(target, name, &stat)?;
                continue;
            }
            // Sockets, pipes and devices are not files of a directory that is meant to be copied.
            _ => continue,
        }
        own(target, name, &stat)?;
        // After the owner, whose change would drop the bits for setuid.
        chmodat(target, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

fn own(target: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(chownat(target, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}
