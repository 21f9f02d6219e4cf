//! What every backend promises.

use std::sync::Arc;
use std::time::Duration;

use berth_store::{
    Disk, DiskOptions, Event, Expect, History, Memory, Operation, Range, Revision, Store,
    StoreError,
};
use bytes::Bytes;
use futures::StreamExt;

pub fn put(key: &str, value: &str, expect: Expect) -> Operation {
    Operation::Put { key: key.to_owned().into(), value: value.to_owned().into(), expect }
}

pub fn delete(key: &str, expect: Expect) -> Operation {
    Operation::Delete { key: key.to_owned().into(), expect }
}

async fn keys(store: &dyn Store, prefix: &'static str, at: Option<Revision>) -> Vec<String> {
    let range = Range { prefix: prefix.into(), at, ..Range::default() };
    let page = store.range(range).await.unwrap();
    page.records.iter().map(|r| String::from_utf8(r.key.to_vec()).unwrap()).collect()
}

/// Runs one contract on every backend.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $name() {
                super::$name(super::Arc::new(super::Memory::default())).await;
            })*
        }
        #[cfg(feature = "etcd")]
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                let member = crate::etcd::Member::start();
                super::$name(super::Arc::new(member.store().await)).await;
            })*
        }
        mod disk {
            $(#[tokio::test] async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("store");
                let store = super::Disk::open(&path, super::DiskOptions::default()).unwrap();
                super::$name(super::Arc::new(store)).await;
            })*
        }
    };
}

contract!(
    refuses_what_is_not_as_expected,
    commits_all_or_nothing,
    reads_the_past,
    pages_through_one_consistent_view,
    watches_miss_nothing,
    tells_a_watcher_that_fell_behind,
    deleting_nothing_changes_nothing,
    racing_creations_have_one_winner,
);

async fn refuses_what_is_not_as_expected(store: Arc<dyn Store>) {
    let begin = store.current();
    let first = store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    assert_eq!(first, Revision(begin.0 + 1));
    let again = store.commit(vec![put("a", "2", Expect::Absent)]).await.unwrap_err();
    assert!(
        matches!(again, StoreError::Conflict { actual, .. } if actual == Some(first)),
        "{again}"
    );
    let second = store.commit(vec![put("a", "2", Expect::Revision(first))]).await.unwrap();
    let stale = store.commit(vec![delete("a", Expect::Revision(first))]).await.unwrap_err();
    assert!(matches!(stale, StoreError::Conflict { .. }));
    let record = store.get("a".into(), None).await.unwrap().record.unwrap();
    assert_eq!((record.revision, record.created), (second, first));
    let gone = store.commit(vec![put("b", "", Expect::Revision(first))]).await.unwrap_err();
    assert!(matches!(gone, StoreError::Conflict { actual: None, .. }));
}

async fn commits_all_or_nothing(store: Arc<dyn Store>) {
    let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    let both = vec![put("b", "1", Expect::Absent), put("a", "2", Expect::Absent)];
    store.commit(both).await.unwrap_err();
    assert_eq!(keys(&*store, "", None).await, ["a"]);
    let twice = vec![put("c", "1", Expect::Any), delete("c", Expect::Any)];
    assert!(matches!(store.commit(twice).await.unwrap_err(), StoreError::Repeated { .. }));
    let both = vec![put("b", "1", Expect::Absent), delete("a", Expect::Any)];
    let revision = store.commit(both).await.unwrap();
    assert_eq!(revision, Revision(first.0 + 1));
    assert_eq!(keys(&*store, "", None).await, ["b"]);
}

async fn reads_the_past(store: Arc<dyn Store>) {
    let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    store.commit(vec![put("a", "2", Expect::Any), put("b", "1", Expect::Any)]).await.unwrap();
    let third = store.commit(vec![delete("a", Expect::Any)]).await.unwrap();
    let old = store.get("a".into(), Some(first)).await.unwrap().record.unwrap();
    assert_eq!(old.value, "1");
    assert_eq!(keys(&*store, "", Some(first)).await, ["a"]);
    assert_eq!(keys(&*store, "", None).await, ["b"]);
    store.compact(third).await.unwrap();
    assert_eq!(store.compacted(), third);
    let lost = store.get("a".into(), Some(first)).await.unwrap_err();
    assert!(matches!(lost, StoreError::Compacted { .. }));
    let early = store.get("a".into(), Some(Revision(99))).await.unwrap_err();
    assert!(matches!(early, StoreError::Future { .. }));
    assert_eq!(keys(&*store, "", Some(third)).await, ["b"]);
}

async fn pages_through_one_consistent_view(store: Arc<dyn Store>) {
    for name in ["a/1", "a/2", "a/3", "b/1"] {
        store.commit(vec![put(name, name, Expect::Any)]).await.unwrap();
    }
    let mut range = Range { prefix: "a/".into(), limit: 2, ..Range::default() };
    let first = store.range(range.clone()).await.unwrap();
    assert_eq!((first.records.len(), first.remaining), (2, 1));
    store.commit(vec![put("a/4", "", Expect::Any), delete("a/3", Expect::Any)]).await.unwrap();
    range.at = Some(first.revision);
    range.start_after = Some(first.records[1].key.clone());
    let second = store.range(range).await.unwrap();
    assert_eq!(second.remaining, 0);
    assert_eq!(second.records[0].key, "a/3");
    assert_eq!(second.records.len(), 1);
}

async fn watches_miss_nothing(store: Arc<dyn Store>) {
    let first = store.commit(vec![put("a/1", "1", Expect::Any)]).await.unwrap();
    let both = vec![put("a/1", "2", Expect::Any), put("b/1", "x", Expect::Any)];
    let second = store.commit(both).await.unwrap();
    let mut events = store.watch("a/".into(), first).await.unwrap();
    let Event::Put { record, previous } = events.next().await.unwrap() else { panic!("a put") };
    assert_eq!((record.value, previous.unwrap().value), (Bytes::from("2"), Bytes::from("1")));
    assert_eq!(events.next().await.unwrap(), Event::Progress(second));
    let removed = store.commit(vec![delete("a/1", Expect::Any)]).await.unwrap();
    let Event::Delete { revision, previous } = events.next().await.unwrap() else { panic!() };
    assert_eq!((revision, previous.value), (removed, Bytes::from("2")));
    assert_eq!(events.next().await.unwrap(), Event::Progress(removed));
    let elsewhere = store.commit(vec![put("c", "", Expect::Any)]).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Event::Progress(elsewhere));
}

async fn tells_a_watcher_that_fell_behind(store: Arc<dyn Store>) {
    let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    let mut slow = store.watch(Bytes::new(), first).await.unwrap();
    let mut last = first;
    for _ in 0..3 {
        last = store.commit(vec![put("a", "2", Expect::Any)]).await.unwrap();
    }
    store.compact(last).await.unwrap();
    assert_eq!(slow.next().await.unwrap(), Event::Compacted(last));
    assert!(slow.next().await.is_none());
    assert!(matches!(
        store.watch(Bytes::new(), first).await.err(),
        Some(StoreError::Compacted { .. })
    ));
    assert!(store.watch(Bytes::new(), last).await.is_ok());
}

async fn deleting_nothing_changes_nothing(store: Arc<dyn Store>) {
    let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    let same = store.commit(vec![delete("b", Expect::Any)]).await.unwrap();
    assert_eq!((same, store.current()), (first, first));
}

async fn racing_creations_have_one_winner(store: Arc<dyn Store>) {
    let racers = (0..50).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(vec![put("a", "", Expect::Absent)]).await.is_ok() })
    });
    let won = futures::future::join_all(racers).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn history_is_bounded_by_time_number_and_bytes() {
    let history = History { age: Duration::from_secs(300), events: 3, bytes: 1 << 20 };
    let store = Memory::new(history);
    for _ in 0..10 {
        store.commit(vec![put("a", "v", Expect::Any)]).await.unwrap();
    }
    assert_eq!(store.compacted(), Revision(0), "young events stay, however many");
    tokio::time::advance(Duration::from_secs(301)).await;
    store.commit(vec![put("a", "v", Expect::Any)]).await.unwrap();
    assert_eq!(store.compacted(), Revision(8), "of old events the newest three stay");
    let large = "x".repeat(600 << 10);
    store.commit(vec![put("a", &large, Expect::Any)]).await.unwrap();
    store.commit(vec![put("a", &large, Expect::Any)]).await.unwrap();
    assert_eq!(store.compacted(), Revision(12), "bytes win over both");
}

#[tokio::test]
async fn a_restart_expires_no_watch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Disk::open(&path, DiskOptions::default()).unwrap();
    for value in ["1", "2", "3"] {
        store.commit(vec![put("a", value, Expect::Any)]).await.unwrap();
    }
    store.compact(Revision(1)).await.unwrap();
    store.commit(vec![delete("a", Expect::Any)]).await.unwrap();
    drop(store);
    let store = Disk::open(&path, DiskOptions::default()).unwrap();
    assert_eq!((store.compacted(), store.current()), (Revision(1), Revision(4)));
    let events: Vec<_> =
        store.watch(Bytes::new(), Revision(1)).await.unwrap().take(4).collect().await;
    assert!(matches!(&events[0], Event::Put { record, previous: Some(previous) }
        if record.value == "2" && previous.value == "1"));
    assert!(matches!(&events[2], Event::Delete { previous, .. } if previous.value == "3"));
    assert_eq!(events[3], Event::Progress(Revision(4)));
}

#[tokio::test]
async fn a_snapshot_restores_and_notices_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = Memory::default();
    store.commit(vec![put("a", "1", Expect::Any), put("b", "2", Expect::Any)]).await.unwrap();
    let last = store.commit(vec![put("a", "3", Expect::Any)]).await.unwrap();
    let mut bytes = Vec::new();
    assert_eq!(store.snapshot(&mut bytes).unwrap(), last);
    let path = folder.path().join("store");
    Disk::restore(&path, &mut bytes.as_slice()).unwrap();
    let restored = Disk::open(&path, DiskOptions::default()).unwrap();
    assert_eq!(restored.current(), last);
    let range = Range::default();
    assert_eq!(restored.range(range.clone()).await.unwrap(), store.range(range).await.unwrap());
    for position in [3, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1;
        let path = folder.path().join(format!("damaged-{position}"));
        Disk::restore(&path, &mut damaged.as_slice()).unwrap_err();
    }
}
