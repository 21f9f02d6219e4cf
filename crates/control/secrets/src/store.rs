//! A store that seals what it hands on.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use berth_store::{
    Event, Expect, Lookup, Operation, Page, Range, Record, Revision, Store, StoreError,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::{Keyring, KeyringError, OpenError, seal};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// The keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store holds sealed values, and the keys are gone. Nothing was changed.
    #[error("the store holds {count} sealed values, but there is no key file `{}`; put the file back, nothing was changed", path.display())]
    Lost {
        /// Where the keys should be.
        path: std::path::PathBuf,
        /// How many values.
        count: usize,
    },
    /// The keys are others. Nothing was changed.
    #[error("the key file does not fit the store; nothing was changed")]
    Unfit(#[source] OpenError),
    /// The store.
    #[error("cannot read the store")]
    Store(#[from] StoreError),
}

/// A store that seals values under some prefixes. Clones are the same.
#[derive(Clone)]
pub struct SealedStore {
    inner: Arc<dyn Store>,
    opener: Opener,
}

/// What opens values, apart from the store: a watch must not keep the store open.
#[derive(Clone)]
struct Opener {
    keyring: Keyring,
    prefixes: Arc<[Bytes]>,
}

impl SealedStore {
    /// Stands before a store. The keys are read, or made where the store holds nothing sealed yet; every sealed value is
    /// opened once, so that a wrong key is noticed before anything is written. Values in the clear are sealed.
    ///
    /// # Errors
    /// When the keys do not fit the store. The store is unchanged then.
    pub async fn open(
        inner: Arc<dyn Store>,
        keys: &Path,
        prefixes: &[&str],
    ) -> Result<Self, UnsealError> {
        let prefixes: Arc<[Bytes]> =
            prefixes.iter().map(|prefix| Bytes::copy_from_slice(prefix.as_bytes())).collect();
        let mut records = Vec::new();
        for prefix in prefixes.iter() {
            let range = Range { prefix: prefix.clone(), ..Range::default() };
            records.extend(inner.range(range).await?.records);
        }
        let sealed = records.iter().filter(|record| seal::is_sealed(&record.value)).count();
        let keyring = match Keyring::open(keys) {
            Err(KeyringError::Missing(path)) if sealed > 0 => {
                return Err(UnsealError::Lost { path, count: sealed });
            }
            Err(KeyringError::Missing(path)) => Keyring::create(&path)?,
            other => other?,
        };
        for record in &records {
            seal::open(&keyring, &record.key, &record.value).map_err(UnsealError::Unfit)?;
        }
        let store = Self { inner, opener: Opener { keyring, prefixes } };
        store.reseal().await?;
        Ok(store)
    }

    /// The keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.opener.keyring
    }

    /// Makes a new key and seals everything with it, while requests go on. Returns how many values were sealed anew.
    ///
    /// # Errors
    /// When the key cannot be kept, or the store fails. What is not sealed anew yet still opens with the older key.
    pub async fn rotate(&self) -> Result<usize, UnsealError> {
        self.opener.keyring.rotate()?;
        self.reseal().await
    }

    /// Seals whatever is in the clear or sealed with an older key.
    async fn reseal(&self) -> Result<usize, UnsealError> {
        let mut count = 0;
        for prefix in self.opener.prefixes.iter() {
            let range = Range { prefix: prefix.clone(), ..Range::default() };
            for record in self.inner.range(range).await?.records {
                if seal::is_current(&self.opener.keyring, &record.value) {
                    continue;
                }
                let clear = seal::open(&self.opener.keyring, &record.key, &record.value)
                    .map_err(UnsealError::Unfit)?;
                let value = seal::seal(&self.opener.keyring, &record.key, &clear);
                let expect = Expect::Revision(record.revision);
                let operation = Operation::Put { key: record.key, value, expect };
                match self.inner.commit(vec![operation]).await {
                    Ok(_) => count += 1,
                    // Somebody wrote or removed it meanwhile, and writing seals with the newest key.
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(count)
    }
}

impl Opener {
    fn is_ours(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn record(&self, mut record: Record) -> Result<Record, StoreError> {
        if self.is_ours(&record.key) {
            record.value =
                seal::open(&self.keyring, &record.key, &record.value).map_err(|error| {
                    tracing::error!(%error, "a sealed value does not open");
                    StoreError::Io { source: Arc::new(error) }
                })?;
        }
        Ok(record)
    }

    fn event(&self, event: Event) -> Result<Event, StoreError> {
        Ok(match event {
            Event::Put { record, previous } => Event::Put {
                record: self.record(record)?,
                previous: previous.map(|previous| self.record(previous)).transpose()?,
            },
            Event::Delete { revision, previous } => {
                Event::Delete { revision, previous: self.record(previous)? }
            }
            other @ (Event::Progress(_) | Event::Compacted(_)) => other,
        })
    }
}

impl Store for SealedStore {
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>> {
        async move {
            let found = self.inner.get(key, at).await?;
            let record = found.record.map(|record| self.opener.record(record)).transpose()?;
            Ok(Lookup { record, revision: found.revision })
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        async move {
            let page = self.inner.range(range).await?;
            let records = page.records.into_iter().map(|record| self.opener.record(record));
            Ok(Page { records: records.collect::<Result<_, _>>()?, ..page })
        }
        .boxed()
    }

    fn commit(
        &self,
        mut operations: Vec<Operation>,
    ) -> BoxFuture<'_, Result<Revision, StoreError>> {
        for operation in &mut operations {
            if let Operation::Put { key, value, .. } = operation
                && self.opener.is_ours(key)
            {
                *value = seal::seal(&self.opener.keyring, key, value);
            }
        }
        self.inner.commit(operations)
    }

    fn watch(
        &self,
        prefix: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Event>, StoreError>> {
        async move {
            let events = self.inner.watch(prefix, from).await?;
            let opener = self.opener.clone();
            // A value that does not open ends the watch: leaving an event out would be a lie.
            let opened = events.map(move |event| opener.event(event)).take_while(|event| {
                let good = event.is_ok();
                async move { good }
            });
            Ok(opened.filter_map(|event| async { event.ok() }).boxed())
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(revision)
    }

    fn current(&self) -> Revision {
        self.inner.current()
    }

    fn compacted(&self) -> Revision {
        self.inner.compacted()
    }

    fn snapshot(&self, writer: &mut dyn Write) -> io::Result<Revision> {
        self.inner.snapshot(writer)
    }
}
