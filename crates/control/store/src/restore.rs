//! A backup back into a store that other programs run: record by record, through commits.
//!
//! A file is filled beside its place and then moved there (see [`crate::Disk::restore`]). A store that is no file, etcd, cannot be
//! swapped; so a mark says that a restore is under way, and a store with that mark is not opened.

use bytes::Bytes;

use crate::format::{self, FormatError};
use crate::{Expect, Operation, Range, Record, Store, StoreError};

/// There while a restore is under way.
const MARK: &[u8] = b"/berth/restoring";
/// Keys of servers that run now; they are no part of what is kept.
const SERVERS: &[u8] = b"servers/";
/// As many operations as etcd takes at once, with room to spare.
const STEP: usize = 64;
/// Objects may have 1 MiB and more; etcd takes so much at once.
const BYTES: usize = 1 << 20;

/// Why a store was not filled.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in it.
    #[error("the store is not empty")]
    NotEmpty,
    /// A server uses it.
    #[error("a server uses the store: `{0}`; stop it first")]
    Running(String),
    /// A newer program has written what is to be restored.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The store.
    #[error("cannot write to the store; what is there now is incomplete, so restore again")]
    Store(#[source] StoreError),
}

/// Whether a restore into this store began and did not end.
///
/// # Errors
/// Only those of the store.
pub async fn unfinished(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(store.get(Bytes::from_static(MARK), None).await?.record.is_some())
}

/// Refuses records that a newer program has written than one that knows `formats` formats.
///
/// # Errors
/// When it is so.
pub fn check(records: &[Record], formats: usize) -> Result<(), FormatError> {
    match records.iter().find(|record| record.key == format::KEY) {
        Some(record) => format::check(record, formats).map(drop),
        None => Ok(()),
    }
}

/// Those records that belong into a store, without what says which servers run.
#[must_use]
pub fn kept(records: Vec<Record>) -> Vec<Record> {
    let mut records = records;
    records.retain(|record| !record.key.starts_with(SERVERS) && record.key != MARK);
    records
}

/// Fills a store with these records, which is empty or may be emptied.
///
/// # Errors
/// When it is not empty, or fails; then it cannot be opened until it was filled.
pub async fn fill(
    store: &dyn Store,
    records: Vec<Record>,
    replace: bool,
) -> Result<(), RestoreError> {
    let failed = RestoreError::Store;
    let all = store.range(Range::default()).await.map_err(failed)?;
    // Their claims end soon after them, so whoever is named here runs.
    if let Some(server) = all.records.iter().find(|record| record.key.starts_with(SERVERS)) {
        return Err(RestoreError::Running(String::from_utf8_lossy(&server.key).into_owned()));
    }
    let present: Vec<_> = kept(all.records).into_iter().map(|record| record.key).collect();
    if !present.is_empty() && !replace {
        return Err(RestoreError::NotEmpty);
    }
    let any = Expect::Any;
    let mark = Operation::Put {
        key: Bytes::from_static(MARK),
        value: Bytes::from_static(b"1"),
        expect: any,
    };
    store.commit(vec![mark]).await.map_err(failed)?;
    let deletes = present.into_iter().map(|key| Operation::Delete { key, expect: any });
    let puts = kept(records).into_iter().map(|Record { key, value, .. }| Operation::Put {
        key,
        value,
        expect: any,
    });
    let mut step = Step::default();
    // What is gone and comes again must not be in one commit with its deletion.
    for operation in deletes {
        step.add(store, operation).await.map_err(failed)?;
    }
    step.flush(store).await.map_err(failed)?;
    for operation in puts {
        step.add(store, operation).await.map_err(failed)?;
    }
    step.flush(store).await.map_err(failed)?;
    let done = Operation::Delete { key: Bytes::from_static(MARK), expect: any };
    store.commit(vec![done]).await.map(drop).map_err(failed)
}

/// What goes into the next commit.
#[derive(Default)]
struct Step {
    operations: Vec<Operation>,
    bytes: usize,
}

impl Step {
    async fn add(&mut self, store: &dyn Store, operation: Operation) -> Result<(), StoreError> {
        let size = match &operation {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Delete { key, .. } => key.len(),
        };
        if self.operations.len() >= STEP || self.bytes + size > BYTES {
            self.flush(store).await?;
        }
        self.bytes += size;
        self.operations.push(operation);
        Ok(())
    }

    async fn flush(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        self.bytes = 0;
        let operations = std::mem::take(&mut self.operations);
        if !operations.is_empty() {
            store.commit(operations).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, Revision};

    fn records(count: usize) -> Vec<Record> {
        (0..count)
            .map(|number| Record {
                key: format!("key{number:04}").into(),
                value: number.to_string().into(),
                revision: Revision(1),
                created: Revision(1),
            })
            .collect()
    }

    #[tokio::test]
    async fn a_store_is_filled_once_or_when_told() {
        let store = Memory::default();
        let claim =
            Operation::Put { key: "servers/a".into(), value: "x".into(), expect: Expect::Any };
        store.commit(vec![claim]).await.unwrap();
        let used = fill(&store, records(200), true).await;
        assert!(matches!(used, Err(RestoreError::Running(who)) if who == "servers/a"));
        let gone = Operation::Delete { key: "servers/a".into(), expect: Expect::Any };
        store.commit(vec![gone]).await.unwrap();
        fill(&store, records(200), false).await.unwrap();
        assert!(!unfinished(&store).await.unwrap());
        let count = async || store.range(Range::default()).await.unwrap().records.len();
        assert_eq!(count().await, 200);
        let again = fill(&store, records(3), false).await;
        assert!(matches!(again, Err(RestoreError::NotEmpty)));
        fill(&store, records(3), true).await.unwrap();
        assert_eq!(count().await, 3);
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused() {
        let mut newer = records(1);
        newer[0].key = Bytes::from_static(format::KEY);
        newer[0].value = "7 9.9".into();
        assert!(matches!(check(&newer, 6), Err(FormatError::Newer { found: 7, .. })));
        check(&newer, 7).unwrap();
    }
}
