//! A backup: a snapshot with what one must know about it, in one file that is either whole or refused.
//!
//! Layout, numbers little-endian: `berthbk1`; a length and as many bytes of lines `name: value`; a length and as many bytes of
//! keys, encrypted by whoever put them there, or none; the snapshot; last the SHA-256 of all before. Nothing is restored before
//! all of it has been read.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use crate::{Record, Revision, SnapshotError, snapshot};

const MAGIC: &[u8; 8] = b"berthbk1";
/// The first letters of any backup there will be.
const FAMILY: &[u8] = b"berthbk";
/// More than any header or key file has.
const LARGEST: u32 = 1 << 20;
const SUM: usize = 32;

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read or written.
    #[error("cannot read or write the backup")]
    File(#[from] io::Error),
    /// It is something else.
    #[error("this is no backup of berth")]
    Foreign,
    /// A newer berth has made it.
    #[error("a newer berth has made this backup; restore it with that version")]
    Newer,
    /// It is not as it was written.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// The snapshot in it.
    #[error("the backup is damaged")]
    Snapshot(#[source] SnapshotError),
}

/// What a backup says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The program and its version.
    pub created_by: String,
    /// When, as RFC 3339 has it.
    pub created_at: String,
    /// The key file that opens its Secrets, encrypted; empty if it is kept elsewhere.
    pub keys: Vec<u8>,
}

/// A backup that has been read and found whole.
#[derive(Debug)]
pub struct Backup {
    /// What it says of itself.
    pub header: Header,
    /// The store's revision it shows.
    pub revision: Revision,
    /// All there was.
    pub records: Vec<Record>,
}

impl Header {
    fn text(&self) -> String {
        let line = |text: &str| text.replace(['\n', '\r'], " ");
        format!("created-by: {}\ncreated-at: {}\n", line(&self.created_by), line(&self.created_at))
    }

    fn parse(text: &str, keys: Vec<u8>) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        Self { created_by: field("created-by"), created_at: field("created-at"), keys }
    }
}

/// Writes a backup around a snapshot, which comes from [`crate::Store::snapshot`].
///
/// # Errors
/// When one of the two cannot be read or written. Whether the snapshot is whole shows when it is read back.
pub fn pack(
    header: &Header,
    snapshot: &mut dyn Read,
    writer: &mut dyn Write,
) -> Result<(), BackupError> {
    let mut out = Summing { inner: writer, sum: Sha256::new() };
    out.write_all(MAGIC)?;
    for part in [header.text().as_bytes(), &header.keys] {
        let length = u32::try_from(part.len()).ok().filter(|length| *length <= LARGEST);
        let length = length.ok_or_else(|| io::Error::other("the header is too long"))?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(part)?;
    }
    io::copy(snapshot, &mut out)?;
    let sum = out.sum.finalize();
    writer.write_all(&sum)?;
    writer.flush()?;
    Ok(())
}

/// Reads a whole backup.
///
/// # Errors
/// When it is none, or not as it was written.
pub fn unpack(reader: &mut dyn Read) -> Result<Backup, BackupError> {
    let mut input = Summing { inner: reader, sum: Sha256::new() };
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(|_| BackupError::Foreign)?;
    if magic != *MAGIC {
        return Err(if magic.starts_with(FAMILY) {
            BackupError::Newer
        } else {
            BackupError::Foreign
        });
    }
    let text = part(&mut input)?;
    let keys = part(&mut input)?;
    let (revision, records) = snapshot::read(&mut input).map_err(BackupError::Snapshot)?;
    let wanted = input.sum.clone().finalize();
    let mut found = [0; SUM];
    input.read_exact(&mut found).map_err(|_| BackupError::Damaged("it ends early"))?;
    if found[..] != wanted[..] {
        return Err(BackupError::Damaged("the checksum differs"));
    }
    if input.read(&mut [0])? > 0 {
        return Err(BackupError::Damaged("something follows its end"));
    }
    let header = Header::parse(&String::from_utf8_lossy(&text), keys);
    Ok(Backup { header, revision, records })
}

fn part(input: &mut dyn Read) -> Result<Vec<u8>, BackupError> {
    let early = |_| BackupError::Damaged("it ends early");
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(early)?;
    let length = u32::from_le_bytes(length);
    if length > LARGEST {
        return Err(BackupError::Damaged("its header is too long"));
    }
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes).map_err(early)?;
    Ok(bytes)
}

/// Sums up what passes.
struct Summing<'io, T: ?Sized> {
    inner: &'io mut T,
    sum: Sha256,
}

impl<T: Read + ?Sized> Read for Summing<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.sum.update(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write + ?Sized> Write for Summing<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expect, Memory, Operation, Store};

    async fn backup() -> Vec<u8> {
        let store = Memory::default();
        for number in 0..3 {
            let key = format!("key{number}").into();
            let put = Operation::Put { key, value: "value".into(), expect: Expect::Any };
            store.commit(vec![put]).await.unwrap();
        }
        let mut snapshot = Vec::new();
        store.snapshot(&mut snapshot).unwrap();
        let header = Header {
            created_by: "berth 1\nkeys: x".into(),
            created_at: "now".into(),
            keys: vec![1, 2, 3],
        };
        let mut bytes = Vec::new();
        pack(&header, &mut &snapshot[..], &mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_backup_says_what_was_put_in() {
        let bytes = backup().await;
        let found = unpack(&mut &bytes[..]).unwrap();
        assert_eq!(found.header.created_by, "berth 1 keys: x");
        assert_eq!((found.header.created_at.as_str(), found.header.keys.len()), ("now", 3));
        assert_eq!((found.revision, found.records.len()), (Revision(3), 3));
    }

    #[tokio::test]
    async fn every_changed_or_missing_byte_is_noticed() {
        let bytes = backup().await;
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x20;
            assert!(unpack(&mut &changed[..]).is_err(), "byte {place}");
            assert!(unpack(&mut &bytes[..place]).is_err(), "cut at {place}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(unpack(&mut &longer[..]), Err(BackupError::Damaged(_))));
        let newer = [b"berthbk2", &bytes[8..]].concat();
        assert!(matches!(unpack(&mut &newer[..]), Err(BackupError::Newer)));
        assert!(matches!(unpack(&mut &b"something else"[..]), Err(BackupError::Foreign)));
    }
}
