//! A store that seals what it hands on.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Weak};

use berth_store::{
    Event, Expect, Lookup, Operation, Page, Range, Record, Revision, Store, StoreError,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::keyring::Key;
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

/// Where a new key is told to the other servers of a store, sealed with the one before it.
const KEYS: &str = "/berth/keys/";

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
    /// Where other servers say which keys they have made.
    inner: Weak<dyn Store>,
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
        let opener = Opener { keyring, prefixes, inner: Arc::downgrade(&inner) };
        for record in records {
            opener.open(record).await.map_err(UnsealError::Unfit)?;
        }
        let store = Self { inner, opener };
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

    /// The same where other servers use the store: they are told the new key, sealed with the one before it, before anything is
    /// sealed with it. Whoever has the older key and the store can therefore have the new one, too.
    ///
    /// # Errors
    /// As with [`SealedStore::rotate`].
    pub async fn rotate_with_others(&self) -> Result<usize, UnsealError> {
        let key = Key::generate();
        let place = Bytes::from(format!("{KEYS}{}", key.id));
        let value = seal::seal(&self.opener.keyring, &place, key.line().as_bytes());
        let told = Operation::Put { key: place, value, expect: Expect::Absent };
        self.inner.commit(vec![told]).await?;
        self.opener.keyring.add(key)?;
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

    /// Opens a value. One whose key is not known may be sealed with a key that another server has made meanwhile.
    async fn open(&self, mut record: Record) -> Result<Record, OpenError> {
        let opened = match seal::open(&self.keyring, &record.key, &record.value) {
            Err(OpenError::UnknownKey { .. }) => {
                self.learn().await;
                seal::open(&self.keyring, &record.key, &record.value)
            }
            other => other,
        };
        record.value = opened?;
        Ok(record)
    }

    /// Learns the keys that other servers have made, the oldest first: each is sealed with the one before it.
    async fn learn(&self) {
        let Some(store) = self.inner.upgrade() else { return };
        let range = Range { prefix: KEYS.into(), ..Range::default() };
        let mut told = match store.range(range).await {
            Ok(page) => page.records,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot look for new keys"
                );
                return;
            }
        };
        told.sort_by_key(|record| record.revision);
        for record in told {
            if !seal::is_sealed(&record.value) {
                // Whoever may write to the store alone must not choose the keys.
                tracing::error!("a key in the store is not sealed, and not believed");
                continue;
            }
            let line = seal::open(&self.keyring, &record.key, &record.value);
            let key = line.ok().and_then(|line| Key::parse(std::str::from_utf8(&line).ok()?));
            let Some(key) = key.filter(|key| self.keyring.find(&key.id).is_none()) else {
                continue;
            };
            let id = key.id.clone();
            match self.keyring.add(key) {
                Ok(()) => tracing::info!(key = id, "a key of another server is known"),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot keep a key");
                }
            }
        }
    }

    async fn record(&self, record: Record) -> Result<Record, StoreError> {
        if !self.is_ours(&record.key) {
            return Ok(record);
        }
        self.open(record).await.map_err(|error| {
            tracing::error!(%error, "a sealed value does not open");
            StoreError::Io { source: Arc::new(error) }
        })
    }

    async fn event(&self, event: Event) -> Result<Event, StoreError> {
        Ok(match event {
            Event::Put { record, previous } => Event::Put {
                record: self.record(record).await?,
                previous: match previous {
                    Some(previous) => Some(self.record(previous).await?),
                    None => None,
                },
            },
            Event::Delete { revision, previous } => {
                Event::Delete { revision, previous: self.record(previous).await? }
            }
            other @ (Event::Progress(_) | Event::Compacted(_)) => other,
        })
    }
}

impl Store for SealedStore {
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>> {
        async move {
            let found = self.inner.get(key, at).await?;
            let record = match found.record {
                Some(record) => Some(self.opener.record(record).await?),
                None => None,
            };
            Ok(Lookup { record, revision: found.revision })
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        async move {
            let mut page = self.inner.range(range).await?;
            let mut records = Vec::with_capacity(page.records.len());
            for record in std::mem::take(&mut page.records) {
                records.push(self.opener.record(record).await?);
            }
            Ok(Page { records, ..page })
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
            let opened = events.then(move |event| {
                let opener = opener.clone();
                async move { opener.event(event).await }
            });
            let opened = opened.take_while(|event| {
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
