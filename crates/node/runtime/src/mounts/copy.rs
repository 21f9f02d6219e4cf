//! Filling a new file system with what it will cover.
//!
//! What is copied comes from an image and may be hostile, so nothing is opened by a path: every step goes from an open directory to a
//! name in it, and no link is followed. It is done by the container's own child, in its cgroup, and so without any allocation.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, Uid, chmodat,
    chownat, fstat, ftruncate, mkdirat, openat, openat2, readlinkat_raw, seek, statat, symlinkat,
};
use rustix::io::Errno;

/// Deeper directories are refused: each one on the way is open.
const DEEPEST: usize = 64;
/// What is copied at most: a file system without a size of its own may take half of the machine's memory.
const MOST_BYTES: u64 = 1 << 30;
const MOST_ENTRIES: u64 = 100_000;
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What may still be copied.
struct Room {
    bytes: u64,
    entries: u64,
}

impl Room {
    fn bytes(&mut self, count: usize) -> Result<(), Errno> {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.bytes = self.bytes.checked_sub(count).ok_or(Errno::FBIG)?;
        Ok(())
    }

    fn entry(&mut self) -> Result<(), Errno> {
        self.entries = self.entries.checked_sub(1).ok_or(Errno::FBIG)?;
        Ok(())
    }
}

/// Copies what lies at `path` below `root` into `target`; nothing there is nothing to copy.
///
/// # Errors
/// `EFBIG` for more than a container may begin with, `ELOOP` for directories nested too deep; else the kernel's.
pub fn fill(root: BorrowedFd<'_>, path: &CStr, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        opened => opened?,
    };
    folder(&from, target, 0, &mut Room { bytes: MOST_BYTES, entries: MOST_ENTRIES })
}

fn folder(
    from: &OwnedFd,
    target: BorrowedFd<'_>,
    depth: usize,
    room: &mut Room,
) -> Result<(), Errno> {
    if depth > DEEPEST {
        return Err(Errno::LOOP);
    }
    // One of each directory on the way is on the stack.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        room.entry()?;
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(target, name, Mode::RWXU)?;
                let inner = openat(from, name, FOLDER, Mode::empty())?;
                let made = openat(target, name, FOLDER, Mode::empty())?;
                folder(&inner, made.as_fd(), depth + 1, room)?;
            }
            FileType::RegularFile => file(from, target, name, room)?,
            FileType::Symlink => {
                link(from, target, name)?;
                own(target, name, &stat)?;
                continue;
            }
            // Sockets, pipes and devices are not files of a directory that is meant to be copied.
            _ => continue,
        }
        own(target, name, &stat)?;
        // After the owner, whose change would drop the bits for setuid.
        chmodat(target, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(())
}

#[inline(never)]
fn link(from: &OwnedFd, target: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut buffer = [0_u8; 4097];
    let length = readlinkat_raw(from, name, &mut buffer[..4096])?;
    // The kernel keeps no longer ones.
    buffer[length] = 0;
    let text = CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?;
    symlinkat(text, target, name)
}

/// Copies what is written in a file; holes stay holes.
#[inline(never)]
fn file(from: &OwnedFd, target: BorrowedFd<'_>, name: &CStr, room: &mut Room) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made = openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
    let stat = fstat(&source)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    ftruncate(&made, size)?;
    let mut at = 0;
    while at < size {
        let data = match seek(&source, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let end = seek(&source, SeekFrom::Hole(data))?.min(size);
        copy(&source, &made, data, end, room)?;
        at = end.max(data + 1);
    }
    Ok(())
}

fn copy(
    source: &OwnedFd,
    made: &OwnedFd,
    mut at: u64,
    end: u64,
    room: &mut Room,
) -> Result<(), Errno> {
    let mut buffer = [0_u8; 32 << 10];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(source, &mut buffer[..most], at)?;
        if read == 0 {
            return Ok(());
        }
        room.bytes(read)?;
        let mut written = 0;
        while written < read {
            let offset = at + u64::try_from(written).unwrap_or(0);
            written += rustix::io::pwrite(made, &buffer[written..read], offset)?;
        }
        at += u64::try_from(read).unwrap_or(0);
    }
    Ok(())
}

/// Who is nobody in the container cannot own what is the container's.
fn own(target: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match chownat(target, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL) => Ok(()),
        owned => owned,
    }
}
