//! A directory into a layer: the reverse of unpacking.
//!
//! The order is by name and nothing of the machine leaks in (no user names, no access times, no inode
//! numbers), so the same files give the same digests. Deletion marks of overlayfs become OCI whiteouts.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, lgetxattr, llistxattr, major, minor, openat,
    readlinkat, statat,
};
use tar::{EntryType, Header};

use crate::digest::{DiffId, Digest, Hashing};
use crate::overlay::{OPAQUE, WHITEOUT, is_opaque, is_overlay_xattr, xattr_names, xattr_value};
use crate::pax::encode_record;

const BLOCK: usize = 512;
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// How a directory is packed.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackOptions {
    /// Write a plain tar stream instead of gzip at its fastest level.
    pub plain: bool,
    /// Later modification times are set back to this one, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub latest: Option<i64>,
}

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the bytes written.
    pub digest: Digest,
    /// Their number.
    pub compressed: u64,
    /// Digest of the tar stream inside.
    pub diff_id: DiffId,
    /// Length of the tar stream.
    pub size: u64,
    /// Number of entries; 0 means that the directory is empty.
    pub entries: u64,
}

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Path inside the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The destination failed.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// An overlay feature that moves content out of the directory; the mount must not use it.
    #[error("`{}` carries `{attribute}`, so its content lies elsewhere", path.display())]
    Redirected {
        /// Path inside the directory.
        path: PathBuf,
        /// The attribute.
        attribute: String,
    },
    /// A file that changed its size while it was read.
    #[error("`{}` changed while it was read", .0.display())]
    Changed(PathBuf),
}

/// Packs everything below `directory` (not the directory itself) and writes the layer to `to`.
///
/// Sockets are left out, as in every image. Blocks.
///
/// # Errors
///
/// When a file cannot be read, changes meanwhile, or the destination fails.
pub fn pack(directory: &Path, to: impl Write, options: &PackOptions) -> Result<Packed, PackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty())
        .map_err(|error| PackError::Read { path: directory.into(), source: error.into() })?;
    let blob = Hashing::new(to);
    if options.plain {
        let (packer, stream) = run(&root, Hashing::new(blob), options)?;
        let (diff_id, size, blob) = stream.finish();
        Ok(packed(packer, DiffId(diff_id), size, blob))
    } else {
        let gzip = GzEncoder::new(blob, flate2::Compression::fast());
        let (packer, stream) = run(&root, Hashing::new(gzip), options)?;
        let (diff_id, size, gzip) = stream.finish();
        let blob = gzip.finish().map_err(PackError::Write)?;
        Ok(packed(packer, DiffId(diff_id), size, blob))
    }
}

fn packed<W>(entries: u64, diff_id: DiffId, size: u64, blob: Hashing<W>) -> Packed {
    let (digest, compressed, _) = blob.finish();
    Packed { digest, compressed, diff_id, size, entries }
}

fn run<W: Write>(
    root: &OwnedFd,
    to: Hashing<W>,
    options: &PackOptions,
) -> Result<(u64, Hashing<W>), PackError> {
    let mut packer = Packer {
        to,
        latest: options.latest.unwrap_or(i64::MAX),
        links: HashMap::new(),
        entries: 0,
        buffer: vec![0; 256 * 1024],
    };
    packer.folder(root, Path::new(""))?;
    packer.write(&[0; 2 * BLOCK])?;
    packer.to.flush().map_err(PackError::Write)?;
    Ok((packer.entries, packer.to))
}

struct Packer<W> {
    to: W,
    latest: i64,
    /// First path of every file with several names.
    links: HashMap<(u64, u64), PathBuf>,
    entries: u64,
    buffer: Vec<u8>,
}

struct Meta<'a> {
    path: &'a Path,
    kind: EntryType,
    size: u64,
    link: Option<&'a [u8]>,
    device: u64,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl<W: Write> Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.to.write_all(bytes).map_err(PackError::Write)
    }

    fn folder(&mut self, folder: &OwnedFd, path: &Path) -> Result<(), PackError> {
        let read = |source: io::Error| PackError::Read { path: path.to_owned(), source };
        if is_opaque(folder.as_fd()).map_err(read)? {
            self.mark(&path.join(OsStr::from_bytes(OPAQUE)))?;
        }
        for name in sorted_names(folder).map_err(read)? {
            let path = path.join(&name);
            self.child(folder, &name, &path)?;
        }
        Ok(())
    }

    fn child(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), PackError> {
        let read = |error: rustix::io::Errno| PackError::Read {
            path: path.to_owned(),
            source: error.into(),
        };
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(read)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let meta = |kind| Meta { path, kind, size: 0, link: None, device: 0, xattrs: Vec::new() };
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned()
                && kind != FileType::CharacterDevice
            {
                let link = Some(first.as_os_str().as_bytes());
                return self.header(&stat, &Meta { link, ..meta(EntryType::Link) });
            }
            self.links.insert(key, path.to_owned());
        }
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = openat(parent, name, flags, Mode::empty()).map_err(read)?;
                let xattrs = open_xattrs(&folder, path)?;
                self.header(&stat, &Meta { xattrs, ..meta(EntryType::Directory) })?;
                self.folder(&folder, path)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(parent, name, flags, Mode::empty()).map_err(read)?;
                let xattrs = open_xattrs(&file, path)?;
                let size = stat.st_size.unsigned_abs();
                self.header(&stat, &Meta { size, xattrs, ..meta(EntryType::Regular) })?;
                self.data(&mut std::fs::File::from(file), size, path)
            }
            FileType::Symlink => {
                let text = readlinkat(parent, name, Vec::new()).map_err(read)?;
                let xattrs = closed_xattrs(parent, name, path)?;
                let link = Some(text.as_bytes());
                self.header(&stat, &Meta { link, xattrs, ..meta(EntryType::Symlink) })
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                let mut mark = WHITEOUT.to_vec();
                mark.extend_from_slice(name.as_bytes());
                self.mark(&path.with_file_name(OsString::from_vec(mark)))
            }
            FileType::CharacterDevice => {
                self.header(&stat, &Meta { device: stat.st_rdev, ..meta(EntryType::Char) })
            }
            FileType::BlockDevice => {
                self.header(&stat, &Meta { device: stat.st_rdev, ..meta(EntryType::Block) })
            }
            FileType::Fifo => self.header(&stat, &meta(EntryType::Fifo)),
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    /// An empty file that stands for a deletion. Its own time says nothing, so it has none.
    fn mark(&mut self, path: &Path) -> Result<(), PackError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(0);
        self.named(header, path.as_os_str().as_bytes(), Vec::new(), None)
    }

    fn header(&mut self, stat: &Stat, meta: &Meta<'_>) -> Result<(), PackError> {
        let mut header = Header::new_ustar();
        let mut records = Vec::new();
        header.set_entry_type(meta.kind);
        header.set_mode(stat.st_mode & 0o7777);
        let mut number = |key, value: u64, most, set: &mut dyn FnMut(u64)| {
            let fits = value <= most;
            set(if fits { value } else { 0 });
            if !fits {
                encode_record(key, value.to_string().as_bytes(), &mut records);
            }
        };
        number("uid", stat.st_uid.into(), OCTAL_7, &mut |value| header.set_uid(value));
        number("gid", stat.st_gid.into(), OCTAL_7, &mut |value| header.set_gid(value));
        number("size", meta.size, OCTAL_11, &mut |value| header.set_size(value));
        let mtime = stat.st_mtime.min(self.latest);
        if mtime < 0 {
            encode_record("mtime", mtime.to_string().as_bytes(), &mut records);
        }
        header.set_mtime(mtime.max(0).unsigned_abs());
        if matches!(meta.kind, EntryType::Char | EntryType::Block) {
            let set = header.set_device_major(major(meta.device));
            set.and_then(|()| header.set_device_minor(minor(meta.device)))
                .map_err(PackError::Write)?;
        }
        for (name, value) in &meta.xattrs {
            encode_record(&format!("SCHILY.xattr.{name}"), value, &mut records);
        }
        let mut path = meta.path.as_os_str().as_bytes().to_vec();
        if meta.kind == EntryType::Directory {
            path.push(b'/');
        }
        self.named(header, &path, records, meta.link)
    }

    /// Adds the names, in extended records where they do not fit, and writes everything.
    fn named(
        &mut self,
        mut header: Header,
        path: &[u8],
        mut records: Vec<u8>,
        link: Option<&[u8]>,
    ) -> Result<(), PackError> {
        self.entries += 1;
        let plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if !plain(path) {
            encode_record("path", path, &mut records);
        }
        copy_name(path, &mut header.as_old_mut().name);
        if let Some(link) = link {
            if !plain(link) {
                encode_record("linkpath", link, &mut records);
            }
            copy_name(link, &mut header.as_old_mut().linkname);
        }
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            copy_name(b"extended", &mut extended.as_old_mut().name);
            extended.set_mode(0o644);
            extended.set_size(records.len() as u64);
            extended.set_cksum();
            self.write(extended.as_bytes())?;
            let length = records.len() as u64;
            self.write(&records)?;
            self.pad(length)?;
        }
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, length: u64) -> Result<(), PackError> {
        let rest = usize::try_from(length.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.write(&[0; BLOCK][..rest])
    }

    fn data(&mut self, file: &mut impl Read, size: u64, path: &Path) -> Result<(), PackError> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = file
                .read(&mut self.buffer[..most])
                .map_err(|source| PackError::Read { path: path.to_owned(), source })?;
            if count == 0 {
                return Err(PackError::Changed(path.to_owned()));
            }
            self.to.write_all(&self.buffer[..count]).map_err(PackError::Write)?;
            left -= count as u64;
        }
        self.pad(size)
    }
}

fn copy_name(text: &[u8], field: &mut [u8; 100]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

fn sorted_names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for child in Dir::read_from(folder)? {
        let child = child?;
        let name = child.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Attributes worth keeping, sorted; the ones that mean "elsewhere" are refused.
fn keep_xattr(name: &str, path: &Path) -> Result<bool, PackError> {
    if is_overlay_xattr(name) && (name.ends_with(".redirect") || name.ends_with(".metacopy")) {
        let (path, attribute) = (path.to_owned(), name.to_owned());
        return Err(PackError::Redirected { path, attribute });
    }
    Ok(!is_overlay_xattr(name) && name != "security.selinux")
}

fn open_xattrs(file: &OwnedFd, path: &Path) -> Result<Vec<(String, Vec<u8>)>, PackError> {
    let read = |source| PackError::Read { path: path.to_owned(), source };
    let mut kept = Vec::new();
    for name in xattr_names(file.as_fd()).map_err(read)? {
        if keep_xattr(&name, path)? {
            let value = xattr_value(file.as_fd(), &name).map_err(read)?;
            kept.push((name, value));
        }
    }
    kept.sort();
    Ok(kept)
}

/// Attributes of a link, which cannot be opened.
fn closed_xattrs(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
) -> Result<Vec<(String, Vec<u8>)>, PackError> {
    let read =
        |error: rustix::io::Errno| PackError::Read { path: path.to_owned(), source: error.into() };
    let through = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
    let mut names = vec![0; 4096];
    let length = match llistxattr(&through, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(read(error)),
    };
    let mut kept = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        if keep_xattr(&name, path)? {
            let mut value = vec![0; 64 * 1024];
            let length = lgetxattr(&through, name.as_str(), &mut value).map_err(read)?;
            value.truncate(length);
            kept.push((name, value));
        }
    }
    kept.sort();
    Ok(kept)
}
