//! A tar stream as a sequence of checked entries.
//!
//! The `tar` crate decodes the 512-byte headers and nothing else. What lies above them (extended
//! headers, GNU long names, sparse maps) is parsed here, once, into types that cannot hold a path outside
//! the root or an unreasonable size. Header-only kinds never carry data, as in Go's reader, so that
//! we and the tools that scanned the image see the same entries.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use crate::pax::{Pax, number};

const BLOCK: usize = 512;
/// Linux's PATH_MAX without the terminating zero.
const PATH_LIMIT: usize = 4095;

/// How much a layer may ask for before it is refused.
#[derive(Debug, Clone, Copy)]
pub struct TarLimits {
    /// Entries in one layer.
    pub entries: u64,
    /// Sum of the logical sizes of all files, in bytes.
    pub bytes: u64,
    /// Size of one extended header or long name, in bytes.
    pub header: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 128 << 30, header: 1 << 20 }
    }
}

/// A path inside the root: relative, normal, without `..`. Empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryPath(PathBuf);

/// A path that no entry may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// More `..` than folders.
    #[error("path `{}` leads outside the root filesystem", .0.display())]
    Escape(PathBuf),
    /// Longer than any system call takes.
    #[error("path of {0} bytes is too long")]
    Long(usize),
    /// A zero byte in the middle.
    #[error("path `{}` contains a zero byte", .0.display())]
    Zero(PathBuf),
}

impl EntryPath {
    /// Normalises `bytes` as extraction sees them: leading slashes and `.` fall away, `a/../b` is `b`.
    ///
    /// # Errors
    ///
    /// When the path leads outside, is too long, or contains a zero byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        let shown = || PathBuf::from(OsStr::from_bytes(bytes));
        if bytes.len() > PATH_LIMIT {
            return Err(PathError::Long(bytes.len()));
        }
        if bytes.contains(&0) {
            return Err(PathError::Zero(shown()));
        }
        let mut path = PathBuf::new();
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if !path.pop() {
                        return Err(PathError::Escape(shown()));
                    }
                }
                name => path.push(OsStr::from_bytes(name)),
            }
        }
        Ok(Self(path))
    }

    /// The path relative to the root.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The folder and the last name; `None` for the root itself.
    pub fn split(&self) -> Option<(&Path, &OsStr)> {
        Some((self.0.parent()?, self.0.file_name()?))
    }
}

/// A stretch of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of this logical size. A sparse file lists its stretches of data; the stream
    /// carries only those.
    File {
        /// Logical size in bytes.
        size: u64,
        /// `None` when the stream carries the whole file.
        segments: Option<Vec<Segment>>,
    },
    /// Another name for an earlier entry.
    HardLink(EntryPath),
    /// A symbolic link with its text, which may point anywhere: it is only followed inside the root.
    Symlink(PathBuf),
    /// A folder.
    Directory,
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky bits, no file type.
    pub mode: u32,
    /// Numeric owner; names in the stream are ignored, as every engine does.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Extended attributes by full name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// A stream that is not a layer.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself failed or ended early; a new attempt may work.
    #[error("the layer's bytes cannot be read")]
    Read(#[source] io::Error),
    /// A header whose checksum is wrong.
    #[error("tar header {0} has a wrong checksum")]
    Checksum(u64),
    /// A field that is not a number, or out of range.
    #[error("tar header {entry} has a bad {field} field")]
    Field {
        /// Which entry, counted from 0.
        entry: u64,
        /// Which field.
        field: &'static str,
    },
    /// A broken extended header.
    #[error("malformed extended header")]
    Pax,
    /// A sparse map that is unordered, overlapping or larger than its file.
    #[error("malformed sparse map of `{}`", .0.display())]
    Sparse(PathBuf),
    /// A kind of entry that no layer should have.
    #[error("entry `{}` has the unknown type {kind:#x}", path.display())]
    Kind {
        /// Its path.
        path: PathBuf,
        /// The type byte.
        kind: u8,
    },
    /// A path that must not be used.
    #[error(transparent)]
    Path(#[from] PathError),
    /// More than the limits allow.
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

/// Reads entries one after the other.
pub struct TarReader<R> {
    source: R,
    limits: TarLimits,
    /// Data bytes of the current entry not yet read.
    remaining: u64,
    /// Zero bytes after them, up to the next block.
    padding: u64,
    entries: u64,
    bytes: u64,
}

impl<R: Read> TarReader<R> {
    /// Starts at the first header.
    pub fn new(source: R, limits: TarLimits) -> Self {
        Self { source, limits, remaining: 0, padding: 0, entries: 0, bytes: 0 }
    }

    /// The next entry, or `None` at the end-of-archive mark or the end of the stream. Data of the entry
    /// before that was not read is skipped.
    ///
    /// # Errors
    ///
    /// When the stream fails or is not a well-formed tar stream within the limits.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.count_entry()?;
            match header.entry_type() {
                EntryType::XHeader => pax = Pax::parse(&self.small_body(&header)?)?,
                EntryType::XGlobalHeader => drop(self.small_body(&header)?),
                EntryType::GNULongName => long_name = Some(self.long_text(&header)?),
                EntryType::GNULongLink => long_link = Some(self.long_text(&header)?),
                _ => {
                    pax.path = pax.path.or(long_name);
                    pax.link = pax.link.or(long_link);
                    return self.entry(&header, pax).map(Some);
                }
            }
        }
    }

    /// Reads everything that is left of the stream, including the padding after the end mark, so
    /// that a digest over the source covers all of it.
    ///
    /// # Errors
    ///
    /// When the source fails.
    pub fn drain(&mut self) -> Result<(), TarError> {
        io::copy(&mut self.source, &mut io::sink()).map(drop).map_err(TarError::Read)
    }

    fn count_entry(&mut self) -> Result<(), TarError> {
        self.entries += 1;
        let limit = self.limits.entries;
        if self.entries > limit { Err(TarError::Limit { what: "entries", limit }) } else { Ok(()) }
    }

    fn field(&self, field: &'static str) -> TarError {
        TarError::Field { entry: self.entries.saturating_sub(1), field }
    }

    /// One header block; `None` at the end mark.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() == Some(sum + 8 * u32::from(b' ')) {
            Ok(Some(header))
        } else {
            Err(TarError::Checksum(self.entries))
        }
    }

    fn expect_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let count = self.remaining.saturating_add(self.padding);
        let skipped = io::copy(&mut self.source.by_ref().take(count), &mut io::sink())
            .map_err(TarError::Read)?;
        (self.remaining, self.padding) = (0, 0);
        // Some writers leave out the padding of the very last entry.
        if skipped + BLOCK as u64 > count {
            Ok(())
        } else {
            Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    fn small_body(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.entry_size().map_err(|_| self.field("size"))?;
        let limit = self.limits.header;
        if size > limit {
            return Err(TarError::Limit { what: "bytes of extended header", limit });
        }
        self.expect_data(size);
        let mut body = Vec::new();
        self.read_to_end(&mut body).map_err(TarError::Read)?;
        Ok(body)
    }

    fn long_text(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let mut body = self.small_body(header)?;
        if let Some(end) = body.iter().position(|byte| *byte == 0) {
            body.truncate(end);
        }
        Ok(body)
    }

    fn entry(&mut self, header: &Header, mut pax: Pax) -> Result<Entry, TarError> {
        let name = pax.sparse.name.take().or(pax.path.take());
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        let path = EntryPath::parse(&name)?;
        let raw = header.as_old();
        let narrow = |value: Option<u64>, name| {
            value.and_then(|value| u32::try_from(value).ok()).ok_or_else(|| self.field(name))
        };
        let uid = narrow(pax.uid.or_else(|| numeric(&raw.uid, header.uid())), "uid")?;
        let gid = narrow(pax.gid.or_else(|| numeric(&raw.gid, header.gid())), "gid")?;
        let mode = narrow(numeric(&raw.mode, header.mode().map(u64::from)), "mode")? & 0o7777;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => {
                let seconds = numeric(&raw.mtime, header.mtime());
                let seconds = seconds.ok_or_else(|| self.field("mtime"))?;
                // Base-256 fields hold negative times as two's complement.
                (seconds.cast_signed(), 0)
            }
        };
        let xattrs = std::mem::take(&mut pax.xattrs);
        let kind = self.kind(header, pax, &path, name.ends_with(b"/"))?;
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs })
    }

    fn kind(
        &mut self,
        header: &Header,
        pax: Pax,
        path: &EntryPath,
        slash: bool,
    ) -> Result<EntryKind, TarError> {
        let link = || {
            let own = || header.link_name_bytes().map(|bytes| bytes.into_owned());
            pax.link.clone().or_else(own).unwrap_or_default()
        };
        let device = || -> Result<(u32, u32), TarError> {
            let major = header.device_major().ok().flatten();
            let minor = header.device_minor().ok().flatten();
            major.zip(minor).ok_or_else(|| self.field("device"))
        };
        Ok(match header.entry_type() {
            EntryType::Regular if slash => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(header, pax, path)?
            }
            EntryType::Link => EntryKind::HardLink(EntryPath::parse(&link())?),
            EntryType::Symlink => EntryKind::Symlink(OsStr::from_bytes(&link()).into()),
            EntryType::Directory => EntryKind::Directory,
            EntryType::Char => device().map(|(major, minor)| EntryKind::Char(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| EntryKind::Block(major, minor))?,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                let path = path.as_path().to_owned();
                return Err(TarError::Kind { path, kind: other.as_byte() });
            }
        })
    }

    fn file(&mut self, header: &Header, pax: Pax, path: &EntryPath) -> Result<EntryKind, TarError> {
        let stored = match pax.size {
            Some(size) => size,
            None => numeric(&header.as_old().size, header.entry_size())
                .ok_or_else(|| self.field("size"))?,
        };
        if stored > i64::MAX.unsigned_abs() - BLOCK as u64 {
            return Err(self.field("size"));
        }
        self.expect_data(stored);
        let sparse = pax.sparse;
        let (size, segments) = if header.entry_type() == EntryType::GNUSparse {
            let (size, map) = self.old_gnu_map(header)?;
            (size, Some(map))
        } else if sparse.major == Some(1) {
            let map = self.embedded_map()?;
            (sparse.real_size.ok_or(TarError::Pax)?, Some(map))
        } else if let (Some(size), false) = (sparse.real_size, sparse.map.is_empty()) {
            (size, Some(sparse.map))
        } else {
            (stored, None)
        };
        if let Some(segments) = &segments {
            self.check_map(segments, size, path)?;
        }
        self.bytes = self.bytes.saturating_add(size);
        let limit = self.limits.bytes;
        if self.bytes > limit {
            return Err(TarError::Limit { what: "bytes", limit });
        }
        Ok(EntryKind::File { size, segments })
    }

    fn check_map(&self, map: &[Segment], size: u64, path: &EntryPath) -> Result<(), TarError> {
        let bad = || TarError::Sparse(path.as_path().to_owned());
        let (mut end, mut stored) = (0, 0_u64);
        for segment in map {
            if segment.offset < end {
                return Err(bad());
            }
            end = segment.offset.checked_add(segment.length).ok_or_else(bad)?;
            stored += segment.length;
        }
        if end > size || stored != self.remaining { Err(bad()) } else { Ok(()) }
    }

    /// GNU's first sparse format: four segments in the header, 21 in each block that follows it.
    fn old_gnu_map(&mut self, header: &Header) -> Result<(u64, Vec<Segment>), TarError> {
        let gnu = header.as_gnu().ok_or_else(|| self.field("magic"))?;
        let mut map = Vec::new();
        let mut extended = gnu.is_extended();
        self.sparse_headers(&gnu.sparse, &mut map)?;
        while extended {
            let mut block = tar::GnuExtSparseHeader::new();
            self.source.read_exact(block.as_mut_bytes()).map_err(TarError::Read)?;
            self.count_entry()?;
            self.sparse_headers(block.sparse(), &mut map)?;
            extended = block.is_extended();
        }
        Ok((gnu.real_size().map_err(|_| self.field("real size"))?, map))
    }

    fn sparse_headers(
        &self,
        headers: &[tar::GnuSparseHeader],
        map: &mut Vec<Segment>,
    ) -> Result<(), TarError> {
        for header in headers.iter().take_while(|header| !header.is_empty()) {
            let offset = header.offset().map_err(|_| self.field("sparse"))?;
            let length = header.length().map_err(|_| self.field("sparse"))?;
            map.push(Segment { offset, length });
        }
        Ok(())
    }

    /// Version 1.0: the map stands in front of the data as decimal lines, padded to a block.
    fn embedded_map(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut text = Vec::new();
        let mut numbers: Option<u64> = None;
        let mut lines = 0;
        loop {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block).map_err(TarError::Read)?;
            if text.len() as u64 > self.limits.header {
                let limit = self.limits.header;
                return Err(TarError::Limit { what: "bytes of sparse map", limit });
            }
            text.extend_from_slice(&block);
            lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
            if numbers.is_none()
                && let Some(end) = text.iter().position(|byte| *byte == b'\n')
            {
                numbers = number(&text[..end])?.checked_mul(2);
            }
            if numbers.is_some_and(|numbers| lines > numbers) {
                break;
            }
        }
        let count = usize::try_from(numbers.unwrap_or(0)).map_err(|_| TarError::Pax)?;
        let values = text.split(|byte| *byte == b'\n').skip(1).take(count);
        let values = values.map(number).collect::<Result<Vec<_>, _>>()?;
        let pairs = values.chunks_exact(2);
        Ok(pairs.map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
    }
}

/// Reads the data of the current entry, and only that.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// A numeric header field; old writers leave some of them blank, which means 0.
fn numeric(raw: &[u8], parsed: io::Result<u64>) -> Option<u64> {
    let blank = raw.iter().all(|byte| matches!(byte, 0 | b' '));
    if blank { Some(0) } else { parsed.ok() }
}
