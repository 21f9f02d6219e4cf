//! How much of the store a list reads.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use berth_apiserver::Options;
use berth_store::{Event, Lookup, Memory, Operation, Page, Range, Revision, Store, StoreError};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::json;

use crate::support::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A store that notes how many records each list of config maps asked for.
#[derive(Default)]
struct Noting {
    store: Memory,
    limits: Mutex<Vec<usize>>,
    read: AtomicUsize,
}

impl Store for Noting {
    fn get(&self, key: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<Lookup, StoreError>> {
        self.store.get(key, at)
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            let ours = range.prefix.starts_with(b"/registry/core/configmaps/");
            let limit = range.limit;
            let page = self.store.range(range).await?;
            if ours {
                self.limits.lock().unwrap().push(limit);
                self.read.fetch_add(page.records.len(), Ordering::Relaxed);
            }
            Ok(page)
        })
    }

    fn commit(&self, operations: Vec<Operation>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.store.commit(operations)
    }

    fn watch(
        &self,
        prefix: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Event>, StoreError>> {
        self.store.watch(prefix, from)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.compact(revision)
    }

    fn current(&self) -> Revision {
        self.store.current()
    }

    fn compacted(&self) -> Revision {
        self.store.compacted()
    }

    fn snapshot(&self, writer: &mut dyn Write) -> io::Result<Revision> {
        self.store.snapshot(writer)
    }
}

#[tokio::test]
async fn a_selection_of_few_among_many_reads_few_pages() {
    let store = Arc::new(Noting::default());
    let client = Client::on(store.clone(), Options::default()).await;
    for number in 0..300 {
        let tier = if number % 100 == 99 { "rare" } else { "usual" };
        let map = json!({"metadata": {"name": format!("m{number:03}"), "labels": {"tier": tier}}});
        client.post(MAPS, &map).await.expect(201);
    }
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|it| it["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    store.limits.lock().unwrap().clear();
    let rare = format!("{MAPS}?labelSelector=tier%3Drare&limit=1");
    let mut list = client.get(&rare).await.expect(200);
    assert_eq!(*store.limits.lock().unwrap(), [1, 2, 4, 8, 16, 32, 64]);
    let mut found = names(&list);
    while let Some(next) = list["metadata"]["continue"].as_str() {
        assert_eq!(list["metadata"].get("remainingItemCount"), None);
        list = client.get(&format!("{rare}&continue={next}")).await.expect(200);
        assert!(list["items"].as_array().unwrap().len() <= 1, "{list}");
        found.extend(names(&list));
    }
    // A page may hold more than there is room for; what was not taken comes with the next list, and nothing twice.
    assert_eq!(found, ["m099", "m199", "m299"]);
    let usual = format!("{MAPS}?labelSelector=tier%3Dusual&limit=40");
    let (mut all, mut next) = (Vec::new(), String::new());
    loop {
        let list = client.get(&format!("{usual}&continue={next}")).await.expect(200);
        all.extend(names(&list));
        match list["metadata"]["continue"].as_str() {
            Some(more) => more.clone_into(&mut next),
            None => break,
        }
        assert_eq!(list["items"].as_array().unwrap().len(), 40);
    }
    assert_eq!(all.len(), 297);
    assert!(all.is_sorted() && !all.contains(&"m099".to_owned()));
    // Without a selector no more is read than is given.
    store.limits.lock().unwrap().clear();
    store.read.store(0, Ordering::Relaxed);
    client.get(&format!("{MAPS}?limit=7")).await.expect(200);
    assert_eq!(*store.limits.lock().unwrap(), [7]);
    assert_eq!(store.read.load(Ordering::Relaxed), 7);
}
