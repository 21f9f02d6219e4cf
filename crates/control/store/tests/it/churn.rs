//! A week of a busy cluster: leases renewed, pods' status changed, Events that come and go. The file stays small, and one that
//! grew becomes small again while it is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_store::{Disk, DiskOptions, Event, Expect, Range, Store};
use futures::StreamExt;

use crate::contract::{delete, put};

/// A hundred nodes renew their leases every ten seconds: 6 million changes a week. What bounds the file is reached after a small
/// part of that, and then each change finds the place of an older one.
const CHANGES: u64 = 120_000;
const CLIENTS: u64 = 64;
/// Leases 500 bytes, pods 4 KiB, Events 1 KiB.
const LIVE: u64 = 100 * 500 + 500 * 4096;
/// The history that is kept (24 MiB), what is live, and room for the pages of commits under way.
const BOUND: u64 = 96 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_s_churn_leaves_a_small_file() {
    // In memory: how long a disk takes to sync is not what this is about.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("store");
    let store = Arc::new(Disk::open(&path, DiskOptions::default()).unwrap());
    let largest = Arc::new(AtomicU64::new(0));
    let size = || std::fs::metadata(folder.path().join("store")).unwrap().len();
    let clients = (0..CLIENTS).map(|client| {
        let (store, largest, path) = (store.clone(), largest.clone(), path.clone());
        tokio::spawn(async move {
            let (lease, pod, event) = ("l".repeat(500), "p".repeat(4096), "e".repeat(1024));
            for number in (client..CHANGES).step_by(usize::try_from(CLIENTS).unwrap()) {
                let operations = match number % 10 {
                    0..=5 => vec![put(&format!("leases/{}", number % 100), &lease, Expect::Any)],
                    6 | 7 => vec![put(&format!("pods/{}", number % 500), &pod, Expect::Any)],
                    _ => {
                        // Events are kept for an hour; an old one goes as a new one comes.
                        let old = format!("events/{}", number.saturating_sub(2000));
                        vec![
                            put(&format!("events/{number}"), &event, Expect::Any),
                            delete(&old, Expect::Any),
                        ]
                    }
                };
                store.commit(operations).await.unwrap();
                if number % 1000 == 0 {
                    let size = std::fs::metadata(&path).unwrap().len();
                    largest.fetch_max(size, Ordering::Relaxed);
                }
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
    let largest = largest.load(Ordering::Relaxed).max(size());
    assert!(largest < BOUND, "the file grew to {} MiB", largest >> 20);
    let current = store.current();
    let all = store.range(Range::default()).await.unwrap().records.len();
    store.compact(current).await.unwrap();
    drop(store);
    // Opened again without a history, it takes little more than what is in it.
    let store = Disk::open(&path, DiskOptions::default()).unwrap();
    assert_eq!(store.range(Range::default()).await.unwrap().records.len(), all);
    assert_eq!(store.current(), current);
    let live = LIVE + 500 * 1024;
    assert!(size() < 4 * live + (8 << 20), "{} MiB for {} MiB", size() >> 20, live >> 20);
}

#[tokio::test]
async fn a_file_that_grew_becomes_small_while_it_is_used() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("store");
    let store = Disk::open(&path, DiskOptions::default()).unwrap();
    let size = || std::fs::metadata(&path).unwrap().len();
    let large = "x".repeat(256 << 10);
    for number in 0..160 {
        let operation = put(&format!("large/{number:03}"), &large, Expect::Absent);
        store.commit(vec![operation]).await.unwrap();
    }
    let mut kept = Vec::new();
    for number in 0..160 {
        let name = format!("kept/{number:03}");
        let operations = vec![
            delete(&format!("large/{number:03}"), Expect::Any),
            put(&name, &name, Expect::Absent),
        ];
        kept.push((name, store.commit(operations).await.unwrap()));
    }
    let grown = size();
    assert!(grown > 40 << 20, "{grown}");
    store.compact(store.current()).await.unwrap();
    let mut watch = store.watch("kept/".into(), store.current()).await.unwrap();
    // The next commit waits until the file is small, and is there afterwards like all others.
    let name = "kept/last".to_owned();
    let last = store.commit(vec![put(&name, &name, Expect::Absent)]).await.unwrap();
    kept.push((name, last));
    assert!(size() < 8 << 20, "{} MiB of {} MiB", size() >> 20, grown >> 20);
    let check = async |store: &Disk| {
        let range = Range { prefix: "kept/".into(), ..Range::default() };
        let mut found = store.range(range).await.unwrap().records;
        found.sort_by_key(|record| record.revision);
        let found = found
            .into_iter()
            .map(|it| (String::from_utf8(it.value.to_vec()).unwrap(), it.revision));
        assert_eq!(found.collect::<Vec<_>>(), kept);
    };
    check(&store).await;
    let told = loop {
        if let Event::Put { record, .. } = watch.next().await.unwrap() {
            break record.revision;
        }
    };
    assert_eq!(told, last);
    drop(watch);
    drop(store);
    check(&Disk::open(&path, DiskOptions::default()).unwrap()).await;
}
