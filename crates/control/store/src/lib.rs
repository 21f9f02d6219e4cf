//! Revisioned key-value store: conditional commits, watches that miss nothing, bounded history.
//!
//! Every commit gets the next number of one global sequence, the [`Revision`]. Reads may ask for an older revision, and
//! a watch started at a revision sees each later change exactly once and in order, until compaction forgets it.
//!
//! The surprising choice: all live data is held in memory by every backend, and the disk is a log behind it. A cluster's
//! state is small, lists are frequent, and so no query's cost grows with history.

pub mod backup;
mod disk;
#[cfg(feature = "etcd")]
mod etcd;
mod feed;
mod format;
mod memory;
mod mvcc;
pub mod restore;
mod snapshot;

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub use disk::{Disk, DiskOptions, Probe, Step};
#[cfg(feature = "etcd")]
pub use etcd::{Certificate, Claim, ClaimError, Etcd, EtcdOptions, Identity, SERVERS, TlsOptions};
pub use format::{FormatError, Upgrade, upgrade};
pub use memory::Memory;
pub use mvcc::History;
pub use snapshot::SnapshotError;

/// A point in the store's one sequence of commits. Zero is the empty store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What must hold for a key at the moment of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and was last changed at this revision.
    Revision(Revision),
    /// Nothing is expected.
    Any,
}

/// One change inside a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Create or replace a key.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// The condition.
        expect: Expect,
    },
    /// Remove a key. Removing a key that is not there changes nothing, unless a revision was expected.
    Delete {
        /// The key.
        key: Bytes,
        /// The condition.
        expect: Expect,
    },
}

impl Operation {
    /// The key this operation touches.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    pub(crate) fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => *expect,
        }
    }
}

/// A key with its value as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The commit which wrote this value.
    pub revision: Revision,
    /// The commit which created the key, since it was last absent.
    pub created: Revision,
}

/// The answer to a read of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The record, unless the key is absent.
    pub record: Option<Record>,
    /// The revision at which the read happened.
    pub revision: Revision,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Only keys with this prefix.
    pub prefix: Bytes,
    /// Only keys greater than this one.
    pub start_after: Option<Bytes>,
    /// At most this many records; zero means all.
    pub limit: usize,
    /// As of this revision, or the current one.
    pub at: Option<Revision>,
}

/// The answer to a list, ordered by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// The revision at which the read happened.
    pub revision: Revision,
    /// How many further keys match beyond the limit.
    pub remaining: u64,
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was created or replaced.
    Put {
        /// The key with its new value.
        record: Record,
        /// What it was before, if it existed.
        previous: Option<Record>,
    },
    /// A key was removed.
    Delete {
        /// The commit which removed it.
        revision: Revision,
        /// What it was.
        previous: Record,
    },
    /// Everything up to this revision has been reported.
    Progress(Revision),
    /// The watcher fell behind what is kept; the watch ends. Carries the oldest revision a watch may start from.
    Compacted(Revision),
}

/// Why the store refused. Only [`StoreError::Full`] and [`StoreError::Io`] say something about the machine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An expectation did not hold. Read again and decide anew.
    #[error("key `{}` is not as expected", String::from_utf8_lossy(key))]
    Conflict {
        /// The first key whose expectation failed.
        key: Bytes,
        /// Its revision, or `None` when it is absent.
        actual: Option<Revision>,
    },
    /// The revision asked for is no longer kept. Start again from the current one.
    #[error("revision {requested} was compacted, the oldest kept is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {requested} is in the future, the current one is {current}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// One commit named a key twice.
    #[error("key `{}` appears twice in one commit", String::from_utf8_lossy(key))]
    Repeated {
        /// The key.
        key: Bytes,
    },
    /// The disk is full. This commit did not happen; later ones may succeed.
    #[error("no space is left for the store")]
    Full {
        /// The system's word on it.
        source: Arc<io::Error>,
    },
    /// The disk failed. This commit did not happen.
    #[error("cannot reach the store's file")]
    Io {
        /// The system's or the database's word on it.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A revisioned key-value store. Every method may be called from any task at any time.
pub trait Store: Send + Sync + 'static {
    /// Reads one key, now or as of a revision.
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>>;

    /// Lists keys in order. All pages of one list read with the same `at` are one consistent view.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>>;

    /// Applies all operations or none, and returns once they are durable. A commit that changes nothing returns the
    /// current revision. When the returned future is dropped the commit may or may not happen.
    fn commit(&self, operations: Vec<Operation>) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Reports every change under `prefix` after revision `from`. The first item is a [`Event::Progress`] once everything
    /// already known was reported, and another follows whenever the watcher has caught up again.
    fn watch(
        &self,
        prefix: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Event>, StoreError>>;

    /// Forgets what happened before `revision`, which itself stays readable.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The newest revision.
    fn current(&self) -> Revision;

    /// The oldest revision that can still be read and watched from.
    fn compacted(&self) -> Revision;

    /// Writes all live records of one revision, with a checksum, and returns that revision. Blocks on the writer.
    ///
    /// # Errors
    /// Only those of the writer.
    fn snapshot(&self, writer: &mut dyn Write) -> io::Result<Revision>;
}
