//! What an object costs in memory beyond its own bytes.

use std::sync::Arc;

use berth_store::{Disk, DiskOptions, History, Range, Store};
use futures::StreamExt;

use crate::setting::{Client, MAPS, folder, map, runtime};
use crate::{Limit, Measured};

const OBJECTS: usize = 50_000;

fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as f64
}

/// Objects created through the API on a file; the history of their creation is kept as usual.
pub fn overhead() -> Vec<Measured> {
    let folder = folder();
    let runtime = runtime();
    let (overhead, bytes) = runtime.block_on(async {
        let options = DiskOptions { history: History::default(), ..DiskOptions::default() };
        let store = Arc::new(Disk::open(&folder.path().join("store"), options).unwrap());
        let client = Client::on(store.clone()).await;
        let before = resident();
        let many = futures::stream::iter(0..OBJECTS).map(|number| {
            let client = client.clone();
            async move { drop(client.good("POST", MAPS, &map(&format!("memory-{number}"))).await) }
        });
        many.buffer_unordered(64).for_each(|()| async {}).await;
        let range = Range { prefix: "/registry/core/configmaps/".into(), ..Range::default() };
        let page = store.range(range).await.unwrap();
        let bytes: usize =
            page.records.iter().map(|record| record.key.len() + record.value.len()).sum();
        assert!(page.records.len() >= OBJECTS);
        drop(page);
        ((resident() - before - bytes as f64) / OBJECTS as f64, bytes)
    });
    vec![Measured {
        what: "memory of a stored object beyond its bytes, history and all".into(),
        unit: "bytes",
        value: overhead,
        limit: Limit::Below(2048.0),
        note: format!("{OBJECTS} objects of {} bytes", bytes / OBJECTS),
    }]
}
