//! Watches: a cursor into the shared ring, woken when the tip moves.
//!
//! A watcher owns no queue. One that is slow costs nothing until the ring forgets its place, and then it is told.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::mvcc::Core;
use crate::{Event, Revision, StoreError};

/// The core with the signal that it moved.
pub(crate) struct Shared {
    core: RwLock<Core>,
    tip: watch::Sender<Revision>,
}

impl Shared {
    pub fn new(core: Core) -> Arc<Self> {
        let tip = watch::Sender::new(core.current());
        Arc::new(Self { core: RwLock::new(core), tip })
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the watchers, after the core was changed and released.
    pub fn announce(&self) {
        let current = self.read().current();
        self.tip.send_replace(current);
    }

    /// Waits until this revision has arrived.
    #[cfg(feature = "etcd")]
    pub async fn reaches(&self, revision: Revision) {
        let mut tip = self.tip.subscribe();
        // The sender lives as long as this does.
        let _closed = tip.wait_for(|tip| *tip >= revision).await;
    }

    /// Begins anew with other content. Watchers who are behind it are told.
    #[cfg(feature = "etcd")]
    pub fn replace(&self, core: Core) {
        *self.write() = core;
        self.announce();
    }

    pub fn watch(
        self: &Arc<Self>,
        prefix: Bytes,
        from: Revision,
    ) -> Result<BoxStream<'static, Event>, StoreError> {
        let (compacted, current) = {
            let core = self.read();
            (core.compacted(), core.current())
        };
        if from < compacted {
            return Err(StoreError::Compacted { requested: from, compacted });
        }
        if from > current {
            return Err(StoreError::Future { requested: from, current });
        }
        self.watch_ahead(prefix, from)
    }

    /// The same from a revision that another has made and that has not arrived here yet.
    pub fn watch_ahead(
        self: &Arc<Self>,
        prefix: Bytes,
        from: Revision,
    ) -> Result<BoxStream<'static, Event>, StoreError> {
        let compacted = self.read().compacted();
        if from < compacted {
            return Err(StoreError::Compacted { requested: from, compacted });
        }
        let cursor = Cursor {
            tip: self.tip.subscribe(),
            // The watcher must not keep the store alive, or it would never end.
            shared: Arc::downgrade(self),
            prefix,
            seen: from,
            ready: VecDeque::new(),
            first: true,
            ended: false,
        };
        Ok(stream::unfold(cursor, |mut cursor| async move {
            let event = cursor.next().await?;
            Some((event, cursor))
        })
        .boxed())
    }
}

struct Cursor {
    shared: std::sync::Weak<Shared>,
    tip: watch::Receiver<Revision>,
    prefix: Bytes,
    seen: Revision,
    ready: VecDeque<Event>,
    first: bool,
    ended: bool,
}

impl Cursor {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if !self.first {
                let seen = self.seen;
                self.tip.wait_for(|tip| *tip > seen).await.ok()?;
            }
            self.first = false;
            let shared = self.shared.upgrade()?;
            let (found, current) = {
                let core = shared.read();
                // What is ahead of us has nothing to be reported yet.
                let current = core.current().max(self.seen);
                let ahead = current == self.seen && core.current() < self.seen;
                let found = if ahead {
                    Ok((Vec::new(), current))
                } else {
                    core.events(&self.prefix, self.seen)
                };
                (found, current)
            };
            match found {
                Ok((events, upto)) => {
                    self.ready.extend(events);
                    self.seen = upto;
                    if upto == current {
                        self.ready.push_back(Event::Progress(upto));
                    }
                }
                Err(_) => {
                    self.ended = true;
                    self.ready.push_back(Event::Compacted(shared.read().compacted()));
                }
            }
        }
    }
}
