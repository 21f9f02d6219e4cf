//! The store on a disk: memory in front, a redb file as durable log behind, one thread that writes.
//!
//! The log holds one row per change and no index, because everything is indexed in memory; rows leave when compaction
//! passes them. Opening replays the rows, and so watches survive a restart.

mod file;
mod writer;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::feed::Shared;
use crate::mvcc::History;
use crate::{
    Event, Lookup, Operation, Page, Range, Record, Revision, SnapshotError, Store, StoreError,
    snapshot,
};
use file::File;
use writer::{Order, Writer};

/// A place between two steps of the writer, where a crash test may stop the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Commits were checked; nothing is on the disk.
    Staged,
    /// Rows are in the transaction; it is not committed.
    Written,
    /// The transaction is durable; memory does not show it yet.
    Durable,
    /// Memory shows it; nobody was answered yet.
    Applied,
    /// Everybody was answered; the file is about to be made smaller.
    Shrinking,
}

/// Called at each [`Step`], from the writer's thread.
pub type Probe = Arc<dyn Fn(Step) + Send + Sync>;

/// How to open a store.
#[derive(Clone, Default)]
pub struct DiskOptions {
    /// How much of the past is kept.
    pub history: History,
    /// Called between the writer's steps, for crash tests.
    pub probe: Option<Probe>,
}

/// A durable store in one file. Dropping it finishes the commits under way and closes the file.
pub struct Disk {
    shared: Arc<Shared>,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Disk {
    /// Opens the file, creating it if needed, and replays its log.
    ///
    /// # Errors
    /// When the file cannot be read, is not ours, or is open in another process.
    pub fn open(path: &Path, options: DiskOptions) -> Result<Self, StoreError> {
        let (file, core) = File::open(path)?;
        let shared = Shared::new(core);
        // As many as two batches may queue before callers wait.
        let (orders, queue) = mpsc::channel(128);
        let writer = Writer {
            shared: Arc::clone(&shared),
            path: PathBuf::from(path),
            file: Some(file),
            options,
            floor: 0,
            looked: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(|source| StoreError::Io { source: Arc::new(source) })?;
        Ok(Self { shared, orders: Some(orders), thread: Some(thread) })
    }

    /// Fills a new file at `path` from a snapshot.
    ///
    /// # Errors
    /// When the snapshot is damaged, or the file exists or cannot be written.
    pub fn restore(path: &Path, reader: &mut dyn Read) -> Result<(), SnapshotError> {
        let (revision, records) = snapshot::read(reader)?;
        Ok(Self::fill(path, revision, &records)?)
    }

    /// Fills a new file at `path` with records and no history, as of a revision not before theirs: whoever watched from an
    /// earlier one has to list again.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn fill(path: &Path, revision: Revision, records: &[Record]) -> io::Result<()> {
        std::fs::File::create_new(path)?;
        File::fill(path, revision, records).map_err(io::Error::other)
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Order,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or(StoreError::Closed)?;
        orders.send(order(answer)).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic");
        }
    }
}

impl Store for Disk {
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>> {
        future::ready(self.shared.read().get(&key, at)).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        future::ready(self.shared.read().range(&range)).boxed()
    }

    fn commit(&self, operations: Vec<Operation>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.order(|answer| Order::Commit { operations, answer }).boxed()
    }

    fn watch(
        &self,
        prefix: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Event>, StoreError>> {
        future::ready(self.shared.watch(prefix, from)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.order(move |answer| Order::Compact { revision, answer }).boxed()
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
