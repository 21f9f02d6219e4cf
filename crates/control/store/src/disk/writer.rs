//! The one thread that changes the store: it takes what queued up while the last sync ran and syncs it as one.
//!
//! It never waits for company. A lone commit goes to the disk at once, and under load the time of a sync is what gathers
//! the next batch.
//!
//! A file that has become too large for what is in it is made smaller by the same thread, between batches and when nobody waits: it
//! alone uses the file, and reads and watches need only memory. Who comes meanwhile waits for as long as it takes to move what
//! is live, and since the file has to have grown to three times that, the work is never more than that of the writes before it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::file::{self, File};
use super::{DiskOptions, Step};
use crate::feed::Shared;
use crate::mvcc::{Batch, Change, Forget};
use crate::{Operation, Revision, StoreError};

/// The most commits that share one sync.
const BATCH: usize = 64;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the writer.
pub(super) enum Order {
    Commit { operations: Vec<Operation>, answer: Answer<Revision> },
    Compact { revision: Revision, answer: Answer<()> },
}

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub path: PathBuf,
    /// Absent after a failure, until the file could be opened again.
    pub file: Option<File>,
    pub options: DiskOptions,
    /// The size below which there is nothing to be gained, as far as we know.
    pub floor: u64,
    /// When we last looked at the size.
    pub looked: Instant,
}

/// More than this takes too long to be moved while others wait.
const LARGEST: u64 = 64 << 20;

/// How often the size of the file is looked at, unless somebody asks for history to be forgotten.
const LOOK: Duration = Duration::from_secs(10);

impl Writer {
    pub fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        let mut orders = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut orders, BATCH) > 0 {
            let asked = self.batch(&mut orders);
            if asked || queue.is_empty() {
                self.tidy(asked);
            }
        }
    }

    /// Makes the file smaller, where that is worth it.
    fn tidy(&mut self, asked: bool) {
        if !asked && self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let size = file::size(&self.path);
        // A file that could not be made smaller is left alone until it has grown.
        if size < self.floor + file::SPARE {
            return;
        }
        let needed = self.shared.read().bytes();
        // Nobody writes meanwhile, so what would take long waits for the next start.
        if needed > LARGEST || !file::is_large(size, needed) {
            self.floor = size;
            return;
        }
        let Some(mut file) = self.file.take() else { return };
        self.reach(Step::Shrinking);
        match file.shrink(&self.path) {
            Ok(()) => self.file = Some(file),
            // As after a commit that failed, the next one opens the file anew.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "could not make the store's file smaller");
            }
        }
        self.floor = file::size(&self.path);
    }

    /// Works off orders. Says whether somebody asked for history to be forgotten.
    fn batch(&mut self, orders: &mut Vec<Order>) -> bool {
        let mut answers = Vec::new();
        let mut compactions = Vec::new();
        let mut upto = None;
        let (changes, current) = {
            let core = self.shared.read();
            let mut batch = Batch::new(&core);
            for order in orders.drain(..) {
                match order {
                    Order::Commit { operations, answer } => match batch.stage(operations) {
                        Ok(revision) => answers.push((answer, revision)),
                        Err(error) => reply(answer, Err(error)),
                    },
                    Order::Compact { revision, answer } => {
                        upto = upto.max(Some(revision));
                        compactions.push(answer);
                    }
                }
            }
            let current = batch.changes.last().map(|change| change.row.revision);
            (batch.changes, current.unwrap_or(core.current()))
        };
        self.reach(Step::Staged);
        let forget = {
            let core = self.shared.read();
            match upto {
                Some(revision) => Some(core.forget(revision)),
                None => core.expired(&self.options.history, Instant::now(), changes.len()),
            }
        };
        let outcome = if changes.is_empty() && forget.is_none() {
            Ok(())
        } else {
            self.write(changes, current, forget.as_ref())
        };
        for (answer, revision) in answers {
            reply(answer, outcome.clone().map(|()| revision));
        }
        let asked = !compactions.is_empty();
        for answer in compactions {
            reply(answer, outcome.clone());
        }
        asked
    }

    fn write(
        &mut self,
        changes: Vec<Change>,
        current: Revision,
        forget: Option<&Forget>,
    ) -> Result<(), StoreError> {
        let known = self.shared.read().current();
        let file = match self.file.take() {
            Some(file) => file,
            None => File::reopen(&self.path, known)?,
        };
        let outcome = file.write(&changes, current, forget, || self.reach(Step::Written));
        if let Err(error) = outcome {
            // The library refuses all work after a failed one; closing here lets the next commit try afresh.
            tracing::error!(error = &error as &dyn std::error::Error, "could not write the store");
            return Err(error);
        }
        self.file = Some(file);
        self.reach(Step::Durable);
        {
            let mut core = self.shared.write();
            // Compaction was computed on the core without these changes, so it comes first.
            if let Some(forget) = forget {
                core.compact(forget);
            }
            core.apply(changes, Instant::now());
        }
        self.shared.announce();
        self.reach(Step::Applied);
        Ok(())
    }

    fn reach(&self, step: Step) {
        if let Some(probe) = &self.options.probe {
            probe(step);
        }
    }
}

/// Answers, unless the caller went away: then the outcome is in the store for all to see.
fn reply<T>(answer: Answer<T>, outcome: Result<T, StoreError>) {
    if answer.send(outcome).is_err() {
        tracing::debug!("a caller left before its commit was answered");
    }
}
