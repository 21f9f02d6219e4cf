//! One layer from a stream into a directory, in overlayfs form.
//!
//! Two threads per layer: one reads, hashes and inflates, the other hashes the tar stream and writes files. Nothing
//! is synchronised to disk here; the content store decides when a layer counts as durable.
//! The caller unpacks into a directory nobody else can see, and moves it into place once both digests match.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat,
    symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite, write};

use crate::digest::{DiffId, Digest, Hashing};
use crate::inflate::Inflate;
use crate::overlay::{AUFS, OPAQUE, Privilege, WHITEOUT, is_overlay_xattr, set_opaque};
use crate::pipeline::{Delivered, pieces, pump};
use crate::root::{Found, Root, found};
use crate::tarball::{Entry, EntryKind, EntryPath, Segment, TarError, TarLimits, TarReader};

const BUFFER: usize = 256 * 1024;

/// How a layer is unpacked, and what it is expected to be.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// What this process may do.
    pub privilege: Privilege,
    /// When to give up.
    pub limits: TarLimits,
    /// The digest the manifest promises for the compressed bytes.
    pub digest: Option<Digest>,
    /// The digest the image configuration promises for the tar stream.
    pub diff_id: Option<DiffId>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            privilege: Privilege::detect(),
            limits: TarLimits::default(),
            digest: None,
            diff_id: None,
        }
    }
}

/// Something that could not be applied, and that unpacking went on without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The entry.
    pub path: PathBuf,
    /// What is missing: `owner`, `device`, or the name of an extended attribute.
    pub what: String,
}

/// What a layer turned out to be.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Their number.
    pub compressed: u64,
    /// Digest of the tar stream.
    pub diff_id: DiffId,
    /// Sum of the logical file sizes, in bytes.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Folders that entries used but the layer did not list; they got mode 0755 and owner 0.
    pub implicit: Vec<PathBuf>,
    /// What could not be applied (without privilege, or on this filesystem).
    pub dropped: Vec<Dropped>,
}

/// Why a layer was not unpacked. The directory then holds a part of it and must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The source failed or the bytes are not what their format says.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The tar stream is malformed, too large, or tries to leave the root.
    #[error("refusing the layer")]
    Tar(#[source] TarError),
    /// An entry that would replace or hide the root itself.
    #[error("layer entry `{}` stands for the root but is not a folder", .0.display())]
    NotRoot(PathBuf),
    /// A whiteout of no name, or of `.` or `..`.
    #[error("layer has the meaningless whiteout `{}`", .0.display())]
    Whiteout(PathBuf),
    /// The filesystem refused.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Path inside the layer.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory to unpack into, or the copy to be kept.
    #[error("cannot write to `{}`", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The compressed bytes are not the ones the manifest names.
    #[error("layer has digest {found} where {expected} was promised")]
    Digest {
        /// From the manifest.
        expected: Digest,
        /// From the bytes.
        found: Digest,
    },
    /// The tar stream is not the one the configuration names.
    #[error("layer has diff-id {found} where {expected} was promised")]
    DiffId {
        /// From the configuration.
        expected: DiffId,
        /// From the stream.
        found: DiffId,
    },
}

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => Self::Read(source),
            error => Self::Tar(error),
        }
    }
}

/// Unpacks one layer, compressed in any known way, into the empty directory `into`.
///
/// The compressed bytes are also copied to `keep`, if given. Blocks; memory is bounded by a few hundred
/// kilobytes whatever the layer.
///
/// # Errors
///
/// When the bytes, the limits, the digests or the filesystem say no; see [`UnpackError`].
pub fn unpack<R: Read + Send>(
    source: R,
    keep: Option<&mut (dyn Write + Send)>,
    into: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked, UnpackError> {
    let (sender, mut tar) = pieces();
    let (produced, consumed) = thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let mut source = Hashing::new(Tee { source, keep });
            let outcome = Inflate::new(&mut source)
                .and_then(|mut inflate| pump(&mut inflate, &sender))
                // What follows the compressed stream belongs to the blob all the same.
                .and_then(|delivered| match delivered {
                    Delivered::All => io::copy(&mut source, &mut io::sink()).map(drop),
                    Delivered::Refused => Ok(()),
                });
            if let Err(error) = outcome {
                sender.fail(error);
            }
            let (digest, count, _) = source.finish();
            (digest, count)
        });
        let consumed = extract(&mut tar, into, options);
        drop(tar);
        (producer.join(), consumed)
    });
    let (digest, compressed) = match produced {
        Ok(produced) => produced,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let mut unpacked = consumed?;
    (unpacked.digest, unpacked.compressed) = (digest, compressed);
    match options.digest {
        Some(expected) if expected != digest => {
            Err(UnpackError::Digest { expected, found: digest })
        }
        _ => Ok(unpacked),
    }
}

/// Extracts a plain tar stream into `into`; [`Unpacked::digest`] is then that of the stream itself.
///
/// # Errors
///
/// As [`unpack`].
pub fn extract(
    tar: impl Read,
    into: &Path,
    options: &UnpackOptions,
) -> Result<Unpacked, UnpackError> {
    let target = |source| UnpackError::Target { path: into.to_owned(), source };
    let root = Root::open(into, options.privilege.overlay_form()).map_err(target)?;
    let mut stream = Hashing::new(tar);
    let mut extraction = Extraction {
        root,
        privilege: options.privilege,
        folders: Vec::new(),
        dropped: Vec::new(),
        bytes: 0,
        entries: 0,
        buffer: vec![0; BUFFER],
    };
    let mut reader = TarReader::new(&mut stream, options.limits);
    while let Some(entry) = reader.next_entry()? {
        extraction.entry(&entry, &mut reader)?;
    }
    reader.drain()?;
    extraction.finish_folders()?;
    let (digest, compressed, _) = stream.finish();
    if let Some(expected) = options.diff_id
        && expected != DiffId(digest)
    {
        return Err(UnpackError::DiffId { expected, found: DiffId(digest) });
    }
    Ok(Unpacked {
        digest,
        compressed,
        diff_id: DiffId(digest),
        bytes: extraction.bytes,
        entries: extraction.entries,
        implicit: extraction.root.implicit,
        dropped: extraction.dropped,
    })
}

/// Folders get their mode and time last: entries inside would change the one and may be refused by the other.
struct Folder {
    path: EntryPath,
    mode: u32,
    mtime: (i64, u32),
}

struct Extraction {
    root: Root,
    privilege: Privilege,
    folders: Vec<Folder>,
    dropped: Vec<Dropped>,
    bytes: u64,
    entries: u64,
    buffer: Vec<u8>,
}

impl Extraction {
    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        let Some((above, name)) = entry.path.split() else {
            if entry.kind != EntryKind::Directory {
                return Err(UnpackError::NotRoot(entry.path.as_path().to_owned()));
            }
            let root = self.root.directory(Path::new(""));
            let root = root.map_err(|source| failed(entry, source))?;
            return self.folder_metadata(&root, entry).map_err(|error| error.named(entry));
        };
        let outcome = self.root.ensure(above).map_err(Failure::from).and_then(|parent| {
            if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
                return self.whiteout(&parent, name.as_bytes(), OsStr::from_bytes(hidden));
            }
            self.place(&parent, name, entry, data)
        });
        outcome.map_err(|error| error.named(entry))
    }

    fn whiteout(&mut self, parent: &OwnedFd, whole: &[u8], name: &OsStr) -> Result<(), Failure> {
        if whole == OPAQUE {
            return Ok(set_opaque(parent.as_fd(), self.privilege.overlay_form())?);
        }
        if whole.starts_with(AUFS) {
            return Ok(());
        }
        if matches!(name.as_bytes(), b"" | b"." | b"..") {
            return Err(Failure::Whiteout);
        }
        match found(parent.as_fd(), name)? {
            Found::Nothing => Ok(self.deletion_mark(parent, name)?),
            // The layer brings a folder of that name and deletes the one below: it hides that one.
            Found::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = openat(parent, name, flags, Mode::empty()).map_err(io::Error::from)?;
                Ok(set_opaque(folder.as_fd(), self.privilege.overlay_form())?)
            }
            // Anything else that the layer brings hides what is below anyway.
            Found::Whiteout | Found::Other => Ok(()),
        }
    }

    fn deletion_mark(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        Ok(mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    fn place<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), Failure> {
        match &entry.kind {
            EntryKind::Directory => self.folder(parent, name, entry),
            EntryKind::File { size, segments } => {
                self.file(parent, name, entry, data, *size, segments.as_deref())
            }
            EntryKind::HardLink(target) => Ok(self.hard_link(parent, name, target)?),
            EntryKind::Symlink(text) => {
                self.create(parent, name, |parent| symlinkat(text, parent, name))?;
                Ok(self.node_metadata(parent, name, entry)?)
            }
            EntryKind::Fifo => {
                self.create(parent, name, |parent| {
                    mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(entry.mode), 0)
                })?;
                Ok(self.node_metadata(parent, name, entry)?)
            }
            // A deletion mark in overlayfs's own form, from tools that archive an upper directory as it is.
            EntryKind::Char(0, 0) => {
                self.root.clear(parent.as_fd(), name)?;
                Ok(self.deletion_mark(parent, name)?)
            }
            EntryKind::Char(major, minor) => {
                self.device(parent, name, entry, FileType::CharacterDevice, (*major, *minor))
            }
            EntryKind::Block(major, minor) => {
                self.device(parent, name, entry, FileType::BlockDevice, (*major, *minor))
            }
        }
    }

    /// Tries to create; if something is in the way, removes that and tries once more.
    fn create<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match make(parent.as_fd()) {
            Err(Errno::EXIST) => {
                self.root.clear(parent.as_fd(), name)?;
                Ok(make(parent.as_fd())?)
            }
            outcome => Ok(outcome?),
        }
    }

    fn folder(&mut self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), Failure> {
        let mut hidden = false;
        let here = found(parent.as_fd(), name)?;
        if here != Found::Directory {
            hidden = self.root.clear(parent.as_fd(), name)? == Found::Whiteout;
            mkdirat(parent, name, Mode::RWXU).map_err(io::Error::from)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(parent, name, flags, Mode::empty()).map_err(io::Error::from)?;
        if hidden {
            set_opaque(folder.as_fd(), self.privilege.overlay_form())?;
        }
        self.root.implicit.retain(|path| path != entry.path.as_path());
        self.folder_metadata(&folder, entry)
    }

    fn folder_metadata(&mut self, folder: &OwnedFd, entry: &Entry) -> Result<(), Failure> {
        self.owner(folder, entry)?;
        self.xattrs(entry, |name, value| fsetxattr(folder, name, value, XattrFlags::empty()))?;
        self.folders.push(Folder {
            path: entry.path.clone(),
            mode: entry.mode,
            mtime: entry.mtime,
        });
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        data: &mut TarReader<R>,
        size: u64,
        segments: Option<&[Segment]>,
    ) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = self.create(parent, name, |parent| {
            openat(parent, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
        })?;
        if let Some(segments) = segments {
            ftruncate(&file, size).map_err(io::Error::from)?;
            for segment in segments {
                self.copy_segment(&file, *segment, data)?;
            }
        } else {
            self.copy(&file, data)?;
        }
        self.bytes += size;
        self.owner(&file, entry)?;
        fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(io::Error::from)?;
        self.xattrs(entry, |name, value| fsetxattr(&file, name, value, XattrFlags::empty()))?;
        futimens(&file, &timestamps(entry.mtime)).map_err(io::Error::from)?;
        Ok(())
    }

    fn copy<R: Read>(&mut self, file: &OwnedFd, data: &mut TarReader<R>) -> Result<(), Failure> {
        loop {
            let count = fill(data, &mut self.buffer).map_err(Failure::Read)?;
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                let written = write(file, rest).map_err(io::Error::from)?;
                rest = &rest[written..];
            }
            if count < self.buffer.len() {
                return Ok(());
            }
        }
    }

    fn copy_segment<R: Read>(
        &mut self,
        file: &OwnedFd,
        segment: Segment,
        data: &mut TarReader<R>,
    ) -> Result<(), Failure> {
        let (mut offset, end) = (segment.offset, segment.offset + segment.length);
        while offset < end {
            let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = data.read(&mut self.buffer[..most]).map_err(Failure::Read)?;
            if count == 0 {
                return Err(Failure::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                let written = pwrite(file, rest, offset).map_err(io::Error::from)?;
                rest = &rest[written..];
                offset += written as u64;
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &OsStr, target: &EntryPath) -> io::Result<()> {
        let Some((above, target)) = target.split() else { return Err(Errno::PERM.into()) };
        let from = self.root.directory(above)?;
        let link = || linkat(&*from, target, parent, name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {
                if same_file(&from, target, parent.as_fd(), name)? {
                    return Ok(());
                }
                self.root.clear(parent.as_fd(), name)?;
                Ok(link()?)
            }
            outcome => Ok(outcome?),
        }
    }

    fn device(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<(), Failure> {
        if self.privilege == Privilege::Rootless {
            self.drop_feature(entry, "device");
            return Ok(());
        }
        self.create(parent, name, |parent| {
            mknodat(parent, name, kind, Mode::from_raw_mode(entry.mode), makedev(major, minor))
        })?;
        Ok(self.node_metadata(parent, name, entry)?)
    }

    fn drop_feature(&mut self, entry: &Entry, what: &str) {
        self.dropped.push(Dropped { path: entry.path.as_path().to_owned(), what: what.to_owned() });
    }

    /// Owner of an open file. Comes before the mode, because it clears set-id bits.
    fn owner(&mut self, file: &OwnedFd, entry: &Entry) -> Result<(), Failure> {
        match self.privilege {
            Privilege::Root => fchown(file, uid(entry), gid(entry)).map_err(io::Error::from)?,
            Privilege::Rootless => self.owner_is_lost(entry),
        }
        Ok(())
    }

    fn owner_is_lost(&mut self, entry: &Entry) {
        if (entry.uid, entry.gid) != (0, 0) {
            self.drop_feature(entry, "owner");
        }
    }

    fn xattrs(
        &mut self,
        entry: &Entry,
        set: impl Fn(&str, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), Failure> {
        for (name, value) in &entry.xattrs {
            // Overlayfs's own marks come from whiteouts alone; a layer must not smuggle in a redirect.
            if is_overlay_xattr(name) {
                self.drop_feature(entry, name);
                continue;
            }
            match set(name, value) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => self.drop_feature(entry, name),
                Err(Errno::PERM | Errno::ACCESS) if self.privilege == Privilege::Rootless => {
                    self.drop_feature(entry, name);
                }
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Owner, mode, attributes and time of something that must not be opened.
    fn node_metadata(&mut self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
        match self.privilege {
            Privilege::Root => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                chownat(parent, name, uid(entry), gid(entry), flags)?;
            }
            Privilege::Rootless => self.owner_is_lost(entry),
        }
        if !matches!(entry.kind, EntryKind::Symlink(_)) {
            // Just created as a pipe or device in a folder only we can see, so it cannot be a link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        if !entry.xattrs.is_empty() {
            let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
            self.xattrs(entry, |name, value| lsetxattr(&path, name, value, XattrFlags::empty()))
                .map_err(Failure::into_io)?;
        }
        Ok(utimensat(parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn finish_folders(&mut self) -> Result<(), UnpackError> {
        for folder in std::mem::take(&mut self.folders).into_iter().rev() {
            let path = folder.path.as_path();
            let mut finish = || -> io::Result<()> {
                let open = self.root.directory(path)?;
                fchmod(&*open, Mode::from_raw_mode(folder.mode))?;
                Ok(futimens(&*open, &timestamps(folder.mtime))?)
            };
            match finish() {
                // A later entry of the same layer replaced it.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                outcome => outcome
                    .map_err(|source| UnpackError::Write { path: path.to_owned(), source })?,
            }
        }
        Ok(())
    }
}

/// A failure before the entry's name is added to it.
enum Failure {
    Write(io::Error),
    Read(io::Error),
    Whiteout,
}

impl Failure {
    fn named(self, entry: &Entry) -> UnpackError {
        match self {
            Self::Write(source) => failed(entry, source),
            Self::Read(source) => UnpackError::Read(source),
            Self::Whiteout => UnpackError::Whiteout(entry.path.as_path().to_owned()),
        }
    }

    fn into_io(self) -> io::Error {
        match self {
            Self::Write(error) | Self::Read(error) => error,
            Self::Whiteout => io::ErrorKind::InvalidData.into(),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

fn failed(entry: &Entry, source: io::Error) -> UnpackError {
    UnpackError::Write { path: entry.path.as_path().to_owned(), source }
}

fn uid(entry: &Entry) -> Option<Uid> {
    Some(Uid::from_raw(entry.uid))
}

fn gid(entry: &Entry) -> Option<Gid> {
    Some(Gid::from_raw(entry.gid))
}

fn timestamps((tv_sec, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn same_file(
    from: &OwnedFd,
    target: &OsStr,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> io::Result<bool> {
    let one = rustix::fs::statat(from, target, AtFlags::SYMLINK_NOFOLLOW)?;
    let other = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Reads until the buffer is full or the data ends.
fn fill(data: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match data.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

struct Tee<'a, R> {
    source: R,
    keep: Option<&'a mut (dyn Write + Send)>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(keep) = &mut self.keep {
            keep.write_all(&buffer[..count])?;
        }
        Ok(count)
    }
}
