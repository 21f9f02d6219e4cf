//! The multi-version map and the ring of recent events, shared by every backend.
//!
//! Only a backend's single writer changes the map. It first stages a commit against what is there and what the same
//! batch already staged, then makes it durable, then applies it: a failed disk therefore leaves no trace in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{Event, Expect, Lookup, Operation, Page, Range, Record, Revision, StoreError};

/// How much of the past is kept. Events leave when both the time and the number are exceeded, or the bytes are.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Events younger than this stay.
    pub age: Duration,
    /// The newest events up to this number stay.
    pub events: usize,
    /// Events leave from the oldest on when they occupy more than this many bytes.
    pub bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { age: Duration::from_secs(300), events: 10_000, bytes: 24 << 20 }
    }
}

/// The place of a row in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub revision: Revision,
    pub index: u32,
}

/// One durable row: a key's new value, or its removal.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub row: Row,
    pub created: Revision,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

#[derive(Debug, Clone)]
struct Version {
    row: Row,
    created: Revision,
    value: Option<Bytes>,
}

struct Past {
    at: Instant,
    revision: Revision,
    event: Event,
}

impl Past {
    fn bytes(&self) -> usize {
        const OVERHEAD: usize = 256;
        OVERHEAD
            + match &self.event {
                Event::Put { record, .. } => record.key.len() + record.value.len(),
                Event::Delete { previous, .. } => previous.key.len() + previous.value.len(),
                Event::Progress(_) | Event::Compacted(_) => 0,
            }
    }

    fn key(&self) -> Option<&Bytes> {
        match &self.event {
            Event::Put { record, .. } => Some(&record.key),
            Event::Delete { previous, .. } => Some(&previous.key),
            Event::Progress(_) | Event::Compacted(_) => None,
        }
    }
}

/// What compaction will forget.
#[derive(Debug, Default)]
pub(crate) struct Forget {
    pub compacted: Revision,
    pub rows: Vec<Row>,
    pub events: usize,
}

/// The map, the ring, and the two revisions that bound them.
#[derive(Default)]
pub(crate) struct Core {
    keys: BTreeMap<Bytes, Vec<Version>>,
    ring: VecDeque<Past>,
    ring_bytes: usize,
    current: Revision,
    compacted: Revision,
}

impl Core {
    pub fn current(&self) -> Revision {
        self.current
    }

    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Sets where an empty core begins, before rows are replayed into it.
    pub fn begin(compacted: Revision) -> Self {
        Self { current: compacted, compacted, ..Self::default() }
    }

    /// Says up to where the sequence has been used, even if the last commits left no row.
    pub fn advance(&mut self, current: Revision) {
        self.current = self.current.max(current);
    }

    fn readable(&self, at: Option<Revision>) -> Result<Revision, StoreError> {
        match at {
            None => Ok(self.current),
            Some(requested) if requested < self.compacted => {
                Err(StoreError::Compacted { requested, compacted: self.compacted })
            }
            Some(requested) if requested > self.current => {
                Err(StoreError::Future { requested, current: self.current })
            }
            Some(requested) => Ok(requested),
        }
    }

    pub fn get(&self, key: &Bytes, at: Option<Revision>) -> Result<Lookup, StoreError> {
        let revision = self.readable(at)?;
        let record = self.keys.get_key_value(key).and_then(|(key, all)| record(key, all, revision));
        Ok(Lookup { record, revision })
    }

    pub fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let revision = self.readable(range.at)?;
        let start = match &range.start_after {
            Some(after) if *after >= range.prefix => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(range.prefix.clone()),
        };
        let mut found = self
            .keys
            .range((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range.prefix))
            .filter_map(|(key, versions)| record(key, versions, revision));
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let records: Vec<_> = found.by_ref().take(limit).collect();
        let remaining = if records.len() < limit { 0 } else { found.count() as u64 };
        Ok(Page { records, revision, remaining })
    }

    /// Events after `after` that concern `prefix`, and the revision up to which the answer is complete.
    pub fn events(
        &self,
        prefix: &Bytes,
        after: Revision,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        const BATCH: usize = 1024;
        if after < self.compacted {
            return Err(StoreError::Compacted { requested: after, compacted: self.compacted });
        }
        let start = self.ring.partition_point(|past| past.revision <= after);
        let mut events = Vec::new();
        let mut upto = self.current;
        for past in self.ring.range(start..) {
            // A commit is never split between two batches.
            if events.len() >= BATCH && past.revision > upto {
                break;
            }
            if past.key().is_some_and(|key| key.starts_with(prefix)) {
                events.push(past.event.clone());
                if events.len() >= BATCH {
                    upto = past.revision;
                }
            }
        }
        Ok((events, upto))
    }

    /// Applies staged changes, in order, as happened at `at`.
    pub fn apply(&mut self, changes: Vec<Change>, at: Instant) {
        for change in changes {
            let revision = change.row.revision;
            let versions = self.keys.entry(change.key.clone()).or_default();
            let previous = versions.last().and_then(|version| version.record(&change.key));
            versions.push(Version {
                row: change.row,
                created: change.created,
                value: change.value.clone(),
            });
            self.current = self.current.max(revision);
            if revision <= self.compacted {
                continue;
            }
            let event = match (change.value, previous) {
                (Some(value), previous) => Event::Put {
                    record: Record { key: change.key, value, revision, created: change.created },
                    previous,
                },
                (None, Some(previous)) => Event::Delete { revision, previous },
                (None, None) => continue,
            };
            let past = Past { at, revision, event };
            self.ring_bytes += past.bytes();
            self.ring.push_back(past);
        }
    }

    /// What may be forgotten by now, in a small step that is larger than what `added` events add.
    pub fn expired(&self, history: &History, now: Instant, added: usize) -> Option<Forget> {
        const STEP: usize = 256;
        let (mut count, mut bytes) = (0, self.ring_bytes);
        for past in self.ring.iter().take(STEP + added * 2) {
            let old = now.saturating_duration_since(past.at) > history.age;
            let many = self.ring.len() - count > history.events;
            if !(bytes > history.bytes || (old && many)) {
                break;
            }
            bytes -= past.bytes();
            count += 1;
        }
        let last = self.ring.get(count.checked_sub(1)?)?.revision;
        Some(self.forget(last))
    }

    /// What compaction to `upto` forgets: events, and the versions that nothing can read any more.
    pub fn forget(&self, upto: Revision) -> Forget {
        let upto = upto.min(self.current);
        let events = self.ring.partition_point(|past| past.revision <= upto);
        let mut rows = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for key in self.ring.range(..events).filter_map(Past::key) {
            if seen.insert(key)
                && let Some(versions) = self.keys.get(key)
            {
                rows.extend(versions[..unreadable(versions, upto)].iter().map(|old| old.row));
            }
        }
        Forget { compacted: upto.max(self.compacted), rows, events }
    }

    /// Carries out what [`Self::forget`] found, nothing having happened in between but further commits.
    pub fn compact(&mut self, forget: &Forget) {
        for _ in 0..forget.events {
            let Some(past) = self.ring.pop_front() else { break };
            self.ring_bytes -= past.bytes();
            let Some(key) = past.key() else { continue };
            if let Some(versions) = self.keys.get_mut(key) {
                versions.drain(..unreadable(versions, forget.compacted));
                versions.shrink_to_fit();
                if versions.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
        self.compacted = self.compacted.max(forget.compacted);
    }

    /// How many bytes all versions have that can be read.
    pub fn bytes(&self) -> u64 {
        let size = |key: &Bytes, version: &Version| {
            key.len() + version.value.as_ref().map_or(0, Bytes::len)
        };
        let all = self.keys.iter().flat_map(|(key, versions)| {
            versions.iter().map(move |version| size(key, version) as u64)
        });
        all.sum()
    }

    fn head(&self, key: &Bytes) -> Option<(Revision, Revision)> {
        let last = self.keys.get(key)?.last()?;
        last.value.is_some().then_some((last.row.revision, last.created))
    }
}

impl Version {
    fn record(&self, key: &Bytes) -> Option<Record> {
        let value = self.value.clone()?;
        Some(Record { key: key.clone(), value, revision: self.row.revision, created: self.created })
    }
}

/// How many of the oldest versions cannot be read at or after `upto`.
fn unreadable(versions: &[Version], upto: Revision) -> usize {
    let visible = versions.partition_point(|version| version.row.revision <= upto);
    match visible.checked_sub(1) {
        None => 0,
        // A removal that everyone can see is the same as nothing at all.
        Some(last) if versions[last].value.is_none() => visible,
        Some(last) => last,
    }
}

fn record(key: &Bytes, versions: &[Version], at: Revision) -> Option<Record> {
    let visible = versions.partition_point(|version| version.row.revision <= at);
    versions[..visible].last()?.record(key)
}

/// Commits checked against the core and against each other, not applied yet.
pub(crate) struct Batch<'core> {
    core: &'core Core,
    heads: HashMap<Bytes, Option<(Revision, Revision)>>,
    current: Revision,
    pub changes: Vec<Change>,
}

impl<'core> Batch<'core> {
    pub fn new(core: &'core Core) -> Self {
        Self { core, heads: HashMap::new(), current: core.current, changes: Vec::new() }
    }

    fn head(&self, key: &Bytes) -> Option<(Revision, Revision)> {
        match self.heads.get(key) {
            Some(head) => *head,
            None => self.core.head(key),
        }
    }

    /// Checks one commit and adds its changes.
    pub fn stage(&mut self, operations: Vec<Operation>) -> Result<Revision, StoreError> {
        for (position, operation) in operations.iter().enumerate() {
            let key = operation.key();
            if operations[..position].iter().any(|earlier| earlier.key() == key) {
                return Err(StoreError::Repeated { key: key.clone() });
            }
            let actual = self.head(key).map(|(revision, _)| revision);
            let holds = match operation.expect() {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::Revision(wanted) => actual == Some(wanted),
            };
            if !holds {
                return Err(StoreError::Conflict { key: key.clone(), actual });
            }
        }
        let revision = Revision(self.current.0 + 1);
        let before = self.changes.len();
        for (operation, index) in operations.into_iter().zip(0..) {
            let row = Row { revision, index };
            let head = self.head(operation.key());
            let (key, value, head) = match operation {
                Operation::Put { key, value, .. } => {
                    let created = head.map_or(revision, |(_, created)| created);
                    (key, Some(value), Some((revision, created)))
                }
                Operation::Delete { .. } if head.is_none() => continue,
                Operation::Delete { key, .. } => (key, None, None),
            };
            let created = head.map_or(revision, |(_, created)| created);
            self.heads.insert(key.clone(), head);
            self.changes.push(Change { row, created, key, value });
        }
        if self.changes.len() > before {
            self.current = revision;
        }
        Ok(self.current)
    }
}
