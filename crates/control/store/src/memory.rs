//! The store without a disk, for tests and throw-away clusters.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::BoxStream;
use tokio::time::Instant;

use crate::feed::Shared;
use crate::mvcc::{Batch, Core, History};
use crate::{Event, Lookup, Operation, Page, Range, Revision, Store, StoreError, snapshot};

/// A store that lives as long as the value.
pub struct Memory {
    shared: Arc<Shared>,
    history: History,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(history: History) -> Self {
        Self { shared: Shared::new(Core::default()), history }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(History::default())
    }
}

impl Store for Memory {
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>> {
        future::ready(self.shared.read().get(&key, at)).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        future::ready(self.shared.read().range(&range)).boxed()
    }

    fn commit(&self, operations: Vec<Operation>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        // Boxed lazily, so that a future nobody polls commits nothing.
        async move {
            let revision = {
                let mut core = self.shared.write();
                let mut batch = Batch::new(&core);
                let revision = batch.stage(operations)?;
                let changes = batch.changes;
                let added = changes.len();
                let now = Instant::now();
                core.apply(changes, now);
                if let Some(forget) = core.expired(&self.history, now, added) {
                    core.compact(&forget);
                }
                revision
            };
            self.shared.announce();
            Ok(revision)
        }
        .boxed()
    }

    fn watch(
        &self,
        prefix: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Event>, StoreError>> {
        future::ready(self.shared.watch(prefix, from)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut core = self.shared.write();
        let forget = core.forget(revision);
        core.compact(&forget);
        future::ready(Ok(())).boxed()
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
