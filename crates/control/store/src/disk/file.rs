//! The redb file: a log table and two numbers.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::time::Instant;

use crate::mvcc::{Change, Core, Forget, Row};
use crate::{Record, Revision, StoreError};

/// (revision, index in the commit) → created revision, 1 or 0 for a value or a removal, key length, key, value.
const LOG: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("log");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const CURRENT: &str = "current";
const COMPACTED: &str = "compacted";
/// How the rows are laid out. What they say has a format of its own.
const LAYOUT: &str = "layout";
const OUR_LAYOUT: u64 = 1;
const HEAD: usize = 13;

/// Everything lives in memory already, so redb's own cache stays small.
const CACHE: usize = 2 << 20;

/// Room that a file of any content may have.
pub(super) const SPARE: u64 = 8 << 20;

pub(super) struct File {
    database: Database,
}

impl File {
    /// Opens or creates the file and replays it.
    pub fn open(path: &Path) -> Result<(Self, Core), StoreError> {
        let mut file = Self::connect(path)?;
        file.check()?;
        let core = file.replay().map_err(classify)?;
        if is_large(size(path), core.bytes()) {
            file.shrink(path)?;
        }
        Ok((file, core))
    }

    /// Opens the file again after a failure, undoing whatever it holds beyond `current`: those commits were refused.
    pub fn reopen(path: &Path, current: Revision) -> Result<Self, StoreError> {
        let file = Self::connect(path)?;
        file.undo(current).map_err(classify)?;
        Ok(file)
    }

    fn connect(path: &Path) -> Result<Self, StoreError> {
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(|error| classify(error.into()))?;
        Ok(Self { database })
    }

    /// Writes a new file that holds these records and no history.
    pub fn fill(path: &Path, revision: Revision, records: &[Record]) -> Result<(), StoreError> {
        let mut places = std::collections::HashMap::new();
        let changes: Vec<_> = records
            .iter()
            .map(|record| {
                let place = places.entry(record.revision).or_insert(0_u32);
                let row = Row { revision: record.revision, index: *place };
                *place += 1;
                Change {
                    row,
                    created: record.created,
                    key: record.key.clone(),
                    value: Some(record.value.clone()),
                }
            })
            .collect();
        let forget = Forget { compacted: revision, ..Forget::default() };
        Self::connect(path)?.write(&changes, revision, Some(&forget), || {})
    }

    /// Makes changes durable, all or none. `written` is called just before the commit.
    pub fn write(
        &self,
        changes: &[Change],
        current: Revision,
        forget: Option<&Forget>,
        written: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let run = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut log = transaction.open_table(LOG)?;
                for change in changes {
                    let row = (change.row.revision.0, change.row.index);
                    log.insert(row, encode(change).as_slice())?;
                }
                let mut numbers = transaction.open_table(NUMBERS)?;
                numbers.insert(CURRENT, current.0)?;
                numbers.insert(LAYOUT, OUR_LAYOUT)?;
                if let Some(forget) = forget {
                    for row in &forget.rows {
                        log.remove((row.revision.0, row.index))?;
                    }
                    numbers.insert(COMPACTED, forget.compacted.0)?;
                }
            }
            written();
            transaction.commit()?;
            Ok(())
        };
        run().map_err(classify)
    }

    fn undo(&self, current: Revision) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            log.retain(|(revision, _), _| revision <= current.0)?;
            transaction.open_table(NUMBERS)?.insert(CURRENT, current.0)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Gives back to the file system what the file no longer needs, in commits of its own: whatever is interrupted, the file
    /// holds what it held. Nobody else may have a transaction.
    pub fn shrink(&mut self, path: &Path) -> Result<(), StoreError> {
        let (before, began) = (size(path), Instant::now());
        self.database.compact().map_err(|error| classify(error.into()))?;
        let (now, took) = (size(path), began.elapsed());
        tracing::info!(before, now, ?took, "the store's file was made smaller");
        Ok(())
    }

    /// Refuses what a newer program has laid out otherwise.
    fn check(&self) -> Result<(), StoreError> {
        let read = || -> Result<u64, redb::Error> {
            let numbers = match self.database.begin_read()?.open_table(NUMBERS) {
                Ok(numbers) => numbers,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(OUR_LAYOUT),
                Err(error) => return Err(error.into()),
            };
            Ok(numbers.get(LAYOUT)?.map_or(OUR_LAYOUT, |layout| layout.value()))
        };
        match read().map_err(classify)? {
            layout if layout <= OUR_LAYOUT => Ok(()),
            layout => {
                let why = format!("the file has layout {layout}; a newer berth has written it");
                Err(StoreError::Io { source: Arc::new(io::Error::other(why)) })
            }
        }
    }

    fn replay(&self) -> Result<Core, redb::Error> {
        let transaction = self.database.begin_read()?;
        let numbers = match transaction.open_table(NUMBERS) {
            Ok(numbers) => numbers,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Core::default()),
            Err(error) => return Err(error.into()),
        };
        let number = |name| -> Result<Revision, redb::Error> {
            Ok(Revision(numbers.get(name)?.map_or(0, |number| number.value())))
        };
        let mut core = Core::begin(number(COMPACTED)?);
        let now = Instant::now();
        for row in transaction.open_table(LOG)?.iter()? {
            let (place, bytes) = row?;
            let (revision, index) = place.value();
            let row = Row { revision: Revision(revision), index };
            let change = decode(row, bytes.value())
                .ok_or_else(|| redb::Error::Corrupted(format!("log row {revision}/{index}")))?;
            core.apply(vec![change], now);
        }
        core.advance(number(CURRENT)?);
        Ok(core)
    }
}

/// How much of the disk the file takes; nothing if nobody knows.
pub(super) fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |known| known.len())
}

/// Whether making a file of this size smaller is worth the time it takes, for what is needed of it.
pub(super) fn is_large(size: u64, needed: u64) -> bool {
    size >= SPARE + needed * 3
}

fn encode(change: &Change) -> Vec<u8> {
    let value = change.value.as_deref().unwrap_or_default();
    let length = u32::try_from(change.key.len()).expect("keys are far shorter than 4 GiB");
    let mut bytes = Vec::with_capacity(HEAD + change.key.len() + value.len());
    bytes.extend_from_slice(&change.created.0.to_le_bytes());
    bytes.push(u8::from(change.value.is_some()));
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&change.key);
    bytes.extend_from_slice(value);
    bytes
}

fn decode(row: Row, bytes: &[u8]) -> Option<Change> {
    let (created, rest) = bytes.split_first_chunk::<8>()?;
    let (present, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(Change {
        row,
        created: Revision(u64::from_le_bytes(*created)),
        key: Bytes::copy_from_slice(key),
        value: (*present == 1).then(|| Bytes::copy_from_slice(value)),
    })
}

/// Finds the full disk among everything a database may complain about.
fn classify(error: redb::Error) -> StoreError {
    let kind = match &error {
        redb::Error::Io(cause) => Some(cause.kind()),
        other => other.source().and_then(|cause| cause.downcast_ref()).map(io::Error::kind),
    };
    match (kind, error) {
        (
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            redb::Error::Io(source),
        ) => StoreError::Full { source: Arc::new(source) },
        (_, error) => StoreError::Io { source: Arc::new(error) },
    }
}
