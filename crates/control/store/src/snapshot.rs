//! Snapshots: all live records of one revision as one stream, and back.
//!
//! Layout, numbers little-endian: `berthsn1`, revision, count, then per record its two revisions, the two lengths, key
//! and value; last a 64-bit checksum (FNV-1a) of all before. A torn copy is thus noticed before anything is restored.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::feed::Shared;
use crate::{Range, Record, Revision};

const MAGIC: &[u8; 8] = b"berthsn1";
const LARGEST: u32 = 64 << 20;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The reader failed or ended early.
    #[error("cannot read the snapshot")]
    Read(#[from] io::Error),
    /// The content is not what was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
}

struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

pub(crate) fn write(shared: &Shared, writer: &mut dyn Write) -> io::Result<Revision> {
    let all = Range::default();
    let page = shared.read().range(&all).map_err(io::Error::other)?;
    let mut sum = Checksum::new();
    let mut put = |bytes: &[u8]| {
        sum.update(bytes);
        writer.write_all(bytes)
    };
    put(MAGIC)?;
    put(&page.revision.0.to_le_bytes())?;
    put(&(page.records.len() as u64).to_le_bytes())?;
    for record in &page.records {
        put(&record.revision.0.to_le_bytes())?;
        put(&record.created.0.to_le_bytes())?;
        for part in [&record.key, &record.value] {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            put(&length.to_le_bytes())?;
            put(part)?;
        }
    }
    writer.write_all(&sum.0.to_le_bytes())?;
    writer.flush()?;
    Ok(page.revision)
}

/// Reads a whole snapshot back.
pub(crate) fn read(reader: &mut dyn Read) -> Result<(Revision, Vec<Record>), SnapshotError> {
    let mut input = Input { reader, sum: Checksum::new() };
    if input.bytes(8)? != MAGIC[..] {
        return Err(SnapshotError::Damaged("it does not begin as one"));
    }
    let revision = Revision(input.number()?);
    let count = input.number()?;
    let mut records = Vec::new();
    for _ in 0..count {
        let (changed, created) = (Revision(input.number()?), Revision(input.number()?));
        let (key, value) = (input.part()?, input.part()?);
        records.push(Record { key, value, revision: changed, created });
    }
    let wanted = input.sum.0;
    if input.number()? != wanted {
        return Err(SnapshotError::Damaged("the checksum differs"));
    }
    Ok((revision, records))
}

struct Input<'reader> {
    reader: &'reader mut dyn Read,
    sum: Checksum,
}

impl Input<'_> {
    fn bytes(&mut self, length: u32) -> Result<Bytes, SnapshotError> {
        let mut bytes = Vec::new();
        let wanted = u64::from(length);
        if (&mut *self.reader).take(wanted).read_to_end(&mut bytes)? as u64 != wanted {
            return Err(SnapshotError::Damaged("it ends early"));
        }
        self.sum.update(&bytes);
        Ok(bytes.into())
    }

    fn number(&mut self) -> Result<u64, SnapshotError> {
        let bytes = self.bytes(8)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn part(&mut self) -> Result<Bytes, SnapshotError> {
        let bytes = self.bytes(4)?;
        let length = bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        if length > LARGEST {
            return Err(SnapshotError::Damaged("a record is larger than any can be"));
        }
        self.bytes(length)
    }
}
