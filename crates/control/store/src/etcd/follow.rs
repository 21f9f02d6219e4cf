//! The copy in memory, kept up by etcd's watch.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse};
use tokio::time::Instant;
use tracing::{info, warn};

use super::wire::{self, failed, pairs};
use super::within;
use crate::feed::Shared;
use crate::mvcc::{Change, Core, History, Row};
use crate::{Revision, StoreError};

/// How much of the past is read at the start, so that watches survive a restart of the server.
const PAST: u64 = 10_000;
/// How many keys are read in one go.
const PAGE: i64 = 5_000;
/// How long to wait before etcd is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the past is looked at, to be forgotten.
const TIDY: Duration = Duration::from_secs(60);

/// The newest revision of all.
pub async fn newest(client: &mut Client, prefix: &Bytes) -> Result<Revision, StoreError> {
    let options = GetOptions::new().with_count_only();
    let answer = within(client.get(prefix.to_vec(), Some(options))).await?;
    wire::revision(answer.header())
}

/// All there is: as of some time ago if etcd still knows that, so that the watch brings what happened since.
pub async fn load(client: &mut Client, prefix: &Bytes) -> Result<Core, StoreError> {
    let current = newest(client, prefix).await?;
    // The first revision of an empty etcd is 1.
    let past = Revision(current.0.saturating_sub(PAST).max(1));
    match load_at(client, prefix, past).await {
        Err(StoreError::Compacted { .. }) => load_at(client, prefix, current).await,
        other => other,
    }
}

async fn load_at(client: &mut Client, prefix: &Bytes, at: Revision) -> Result<Core, StoreError> {
    let mut core = Core::begin(at);
    let (mut start, end) = (prefix.to_vec(), wire::end(prefix));
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE)
            .with_revision(wire::signed(at)?);
        let answer = within(client.get(start.clone(), Some(options))).await?;
        let records = pairs(prefix, answer.kvs()).collect::<Result<Vec<_>, _>>()?;
        let last = answer.kvs().last().map(|pair| [pair.key(), &[0]].concat());
        let changes = records.into_iter().map(|record| Change {
            row: Row { revision: record.revision, index: 0 },
            created: record.created,
            key: record.key,
            value: Some(record.value),
        });
        core.apply(changes.collect(), Instant::now());
        match last {
            Some(last) if answer.more() => start = last,
            _ => return Ok(core),
        }
    }
}

/// Follows etcd until the store is dropped.
pub async fn follow(mut client: Client, prefix: Bytes, shared: Weak<Shared>, history: History) {
    loop {
        let ended = watch(&mut client, &prefix, &shared, &history).await;
        let Some(living) = shared.upgrade() else { return };
        match ended {
            Ok(()) => info!("etcd ended the watch; watching again"),
            Err(StoreError::Compacted { .. }) => {
                warn!("etcd has forgotten what happened meanwhile; reading everything again");
                match load(&mut client, &prefix).await {
                    Ok(core) => {
                        living.replace(core);
                        continue;
                    }
                    Err(error) => report(&error),
                }
            }
            Err(error) => report(&error),
        }
        drop(living);
        tokio::time::sleep(PAUSE).await;
    }
}

fn report(error: &StoreError) {
    warn!(error = error as &dyn std::error::Error, "etcd cannot be followed; trying again");
}

async fn watch(
    client: &mut Client,
    prefix: &Bytes,
    shared: &Weak<Shared>,
    history: &History,
) -> Result<(), StoreError> {
    let Some(current) = shared.upgrade().map(|shared| shared.read().current()) else {
        return Ok(());
    };
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(wire::signed(Revision(current.0 + 1))?);
    let mut stream = within(client.watch(prefix.to_vec(), Some(options))).await?;
    let mut marks = Marks::default();
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        let answer = tokio::select! {
            answer = stream.message() => answer.map_err(failed)?,
            _ = tidy.tick() => {
                let Some(shared) = shared.upgrade() else { return Ok(()) };
                let current = shared.read().current();
                if let Some(old) = marks.note(current, history.age) {
                    compact(client, old).await?;
                }
                continue;
            }
        };
        let (Some(answer), Some(shared)) = (answer, shared.upgrade()) else { return Ok(()) };
        if answer.compact_revision() > 0 {
            let compacted = wire::unsigned(answer.compact_revision())?;
            return Err(StoreError::Compacted { requested: current, compacted });
        }
        if answer.canceled() {
            let why = std::io::Error::other(answer.cancel_reason().to_owned());
            return Err(StoreError::Io { source: Arc::new(why) });
        }
        take_in(&shared, prefix, &answer, history)?;
    }
}

fn take_in(
    shared: &Shared,
    prefix: &Bytes,
    answer: &WatchResponse,
    history: &History,
) -> Result<(), StoreError> {
    let mut changes = Vec::new();
    for (event, index) in answer.events().iter().zip(0..) {
        let Some(pair) = event.kv() else { continue };
        let key = wire::key(prefix, pair.key())?;
        let revision = wire::unsigned(pair.mod_revision())?;
        let (created, value) = match event.event_type() {
            EventType::Put => {
                let record = wire::record(prefix, pair)?;
                (record.created, Some(record.value))
            }
            EventType::Delete => (revision, None),
        };
        changes.push(Change { row: Row { revision, index }, created, key, value });
    }
    if changes.is_empty() {
        return Ok(());
    }
    let (now, added) = (Instant::now(), changes.len());
    let mut core = shared.write();
    core.apply(changes, now);
    if let Some(forget) = core.expired(history, now, added) {
        core.compact(&forget);
    }
    drop(core);
    shared.announce();
    Ok(())
}

/// Which revision was the newest at which time.
#[derive(Default)]
struct Marks(VecDeque<(Instant, Revision)>);

impl Marks {
    /// Notes the newest revision; returns the newest that is older than `age`.
    fn note(&mut self, current: Revision, age: Duration) -> Option<Revision> {
        let now = Instant::now();
        self.0.push_back((now, current));
        let mut old = None;
        while let Some((_, revision)) = self.0.pop_front_if(|(at, _)| now.duration_since(*at) > age)
        {
            old = Some(revision);
        }
        old
    }
}

/// Lets etcd forget. Another server may have done it already.
pub async fn compact(client: &mut Client, revision: Revision) -> Result<(), StoreError> {
    match within(client.compact(wire::signed(revision)?, None)).await {
        Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
