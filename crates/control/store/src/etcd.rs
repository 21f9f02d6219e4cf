//! The store in etcd, for several servers.
//!
//! etcd decides: every commit is one of its transactions, its revisions are ours, and reads of the present ask it, so that they
//! are never stale. Beside it a copy in memory follows etcd's watch; watches and reads of the past are served from there, so
//! that ten thousand watchers cost etcd one.

mod claim;
mod follow;
mod wire;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, GetOptions, SortOrder, SortTarget};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use tokio::task::JoinHandle;

use crate::feed::Shared;
use crate::mvcc::History;
pub use claim::{Claim, ClaimError, SERVERS};
pub use etcd_client::{Certificate, Identity, TlsOptions};

use crate::{Event, Lookup, Operation, Page, Range, Revision, Store, StoreError, snapshot};
use wire::{failed, pairs};

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the copy may take to see our own commit.
const FOLLOWS: Duration = Duration::from_secs(2);

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// What all our keys begin with. Nobody else may write there.
    pub prefix: String,
    /// Certificates, when the members want any.
    pub tls: Option<TlsOptions>,
    /// How much of the past is kept.
    pub history: History,
}

impl EtcdOptions {
    /// Members without certificates, and the usual prefix.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, prefix: "/berth/".to_owned(), tls: None, history: History::default() }
    }
}

/// A store in etcd. Dropping it ends its connection.
pub struct Etcd {
    client: Client,
    prefix: Bytes,
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

impl Etcd {
    /// Connects, and reads all there is into memory.
    ///
    /// # Errors
    /// When no member answers, or what it says cannot be understood.
    pub async fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        let mut settings = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(Duration::from_secs(3), Duration::from_secs(3))
            .with_keep_alive_while_idle(true);
        if let Some(tls) = options.tls {
            settings = settings.with_tls(tls);
        }
        let client = within(Client::connect(&options.endpoints, Some(settings))).await?;
        let prefix = Bytes::from(options.prefix);
        let shared = Shared::new(follow::load(&mut client.clone(), &prefix).await?);
        let follower = tokio::spawn(follow::follow(
            client.clone(),
            prefix.clone(),
            Arc::downgrade(&shared),
            options.history,
        ));
        let store = Self { client, prefix, shared, follower };
        store.caught_up().await?;
        Ok(store)
    }

    /// Waits until the copy has all that etcd has.
    async fn caught_up(&self) -> Result<(), StoreError> {
        let newest = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_sort(SortTarget::Mod, SortOrder::Descend)
            .with_limit(1);
        let mut client = self.client.clone();
        let answer = within(client.get(self.prefix.to_vec(), Some(newest))).await?;
        if let Some(pair) = answer.kvs().first() {
            let newest = wire::unsigned(pair.mod_revision())?;
            let reached = self.shared.reaches(newest).map(Ok);
            within(reached).await?;
        }
        Ok(())
    }

    /// Whether the copy in memory knows this revision.
    fn remembers(&self, revision: Revision) -> bool {
        let core = self.shared.read();
        core.compacted() <= revision && revision <= core.current()
    }

    async fn lookup(&self, key: &Bytes, at: Option<Revision>) -> Result<Lookup, StoreError> {
        let mut options = GetOptions::new();
        if let Some(at) = at {
            options = options.with_revision(wire::signed(at)?);
        }
        let mut client = self.client.clone();
        let answer = within(client.get(wire::full(&self.prefix, key), Some(options))).await;
        let answer = self.understood(answer, at).await?;
        let revision = wire::revision(answer.header())?;
        let record = pairs(&self.prefix, answer.kvs()).next().transpose()?;
        Ok(Lookup { record, revision: at.unwrap_or(revision) })
    }

    async fn page(&self, range: &Range) -> Result<Page, StoreError> {
        let first = range.start_after.as_ref().map(|key| [&key[..], &[0]].concat());
        let first = first.filter(|first| first[..] > range.prefix[..]);
        let start = wire::full(&self.prefix, first.as_deref().unwrap_or(&range.prefix));
        let end = wire::end(&wire::full(&self.prefix, &range.prefix));
        if start >= end {
            // Nothing lies behind the last key; etcd would take this for a single key.
            let revision = match range.at {
                Some(at) => at,
                None => self.lookup_current().await?,
            };
            return Ok(Page { records: Vec::new(), revision, remaining: 0 });
        }
        let limit = i64::try_from(range.limit).map_err(wire::broken)?;
        let mut options = GetOptions::new().with_range(end).with_limit(limit);
        if let Some(at) = range.at {
            options = options.with_revision(wire::signed(at)?);
        }
        let mut client = self.client.clone();
        let answer = within(client.get(start, Some(options))).await;
        let answer = self.understood(answer, range.at).await?;
        let records = pairs(&self.prefix, answer.kvs()).collect::<Result<Vec<_>, _>>()?;
        let count = u64::try_from(answer.count()).map_err(wire::broken)?;
        let revision = range.at.unwrap_or(wire::revision(answer.header())?);
        Ok(Page { revision, remaining: count.saturating_sub(records.len() as u64), records })
    }

    /// Says which revision was asked for, where that was the trouble.
    async fn understood<T>(
        &self,
        answer: Result<T, StoreError>,
        at: Option<Revision>,
    ) -> Result<T, StoreError> {
        let (Err(StoreError::Compacted { .. } | StoreError::Future { .. }), Some(requested)) =
            (&answer, at)
        else {
            return answer;
        };
        let current = self.lookup_current().await?;
        if requested > current {
            return Err(StoreError::Future { requested, current });
        }
        Err(StoreError::Compacted { requested, compacted: self.compacted().max(requested) })
    }

    async fn lookup_current(&self) -> Result<Revision, StoreError> {
        follow::newest(&mut self.client.clone(), &self.prefix).await
    }

    async fn put(&self, operations: Vec<Operation>) -> Result<Revision, StoreError> {
        for (position, operation) in operations.iter().enumerate() {
            if operations[..position].iter().any(|earlier| earlier.key() == operation.key()) {
                return Err(StoreError::Repeated { key: operation.key().clone() });
            }
        }
        let mut client = self.client.clone();
        let answer = within(client.txn(wire::transaction(&self.prefix, &operations)?)).await?;
        if !answer.succeeded() {
            return Err(wire::conflict(&self.prefix, &operations, &answer)?);
        }
        let revision = wire::revision(answer.header())?;
        // Whoever commits and then watches must not see less than what they did. A copy that is late is no error: the
        // commit has happened.
        if tokio::time::timeout(FOLLOWS, self.shared.reaches(revision)).await.is_err() {
            tracing::warn!(%revision, "etcd's watch is late");
        }
        Ok(revision)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Waits for etcd, but not for ever.
async fn within<T>(
    answer: impl Future<Output = Result<T, etcd_client::Error>> + Send,
) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => {
            let late = format!("etcd did not answer within {} s", PATIENCE.as_secs());
            Err(StoreError::Io { source: Arc::new(io::Error::new(io::ErrorKind::TimedOut, late)) })
        }
    }
}

impl Store for Etcd {
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>> {
        async move {
            match at {
                Some(at) if self.remembers(at) => self.shared.read().get(&key, Some(at)),
                _ => self.lookup(&key, at).await,
            }
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        async move {
            match range.at {
                Some(at) if self.remembers(at) => self.shared.read().range(&range),
                _ => self.page(&range).await,
            }
        }
        .boxed()
    }

    fn commit(&self, operations: Vec<Operation>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.put(operations).boxed()
    }

    fn watch(
        &self,
        prefix: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Event>, StoreError>> {
        async move {
            // A revision that the copy has not reached may be one that another server has made.
            if from > self.current() {
                let current = self.lookup_current().await?;
                if from > current {
                    return Err(StoreError::Future { requested: from, current });
                }
            }
            self.shared.watch_ahead(prefix, from)
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            follow::compact(&mut self.client.clone(), revision).await?;
            let mut core = self.shared.write();
            let forget = core.forget(revision);
            core.compact(&forget);
            Ok(())
        }
        .boxed()
    }

    fn current(&self) -> Revision {
        self.shared.read().current()
    }

    fn compacted(&self) -> Revision {
        self.shared.read().compacted()
    }

    fn snapshot(&self, writer: &mut dyn Write) -> io::Result<Revision> {
        snapshot::write(&self.shared, writer)
    }
}
