//! A week of a busy cluster: leases renewed, pods' status changed, Events that come and go. The file stays small.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_store::{Disk, DiskOptions, Expect, Range, Store};

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
