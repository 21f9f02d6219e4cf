//! How long one request takes when nothing else is asked.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_store::Memory;
use serde_json::Value;

use crate::setting::{Client, MAPS, folder, map, milliseconds, percentile, pod, runtime};
use crate::{Limit, Measured};

/// Creation of one object at a time, with a plain append and sync of the same size beside each, so that both meet the same disk.
pub fn single() -> Vec<Measured> {
    const COUNT: usize = 1500;
    let folder = folder();
    let runtime = runtime();
    let (mut creations, mut syncs) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let client = Client::on_disk(folder.path()).await;
        let mut plain = File::create(folder.path().join("plain")).unwrap();
        for number in 0..COUNT {
            let begun = Instant::now();
            client.good("POST", MAPS, &map(&format!("single-{number}"))).await;
            creations.push(begun.elapsed());
            let begun = Instant::now();
            plain.write_all(&[b'x'; 1200]).unwrap();
            plain.sync_data().unwrap();
            syncs.push(begun.elapsed());
        }
    });
    let show = |values: &mut Vec<Duration>, percent| milliseconds(percentile(values, percent));
    let (create, sync) = (show(&mut creations, 99), show(&mut syncs, 99));
    vec![Measured {
        what: "create one object, p99, beyond what the disk takes to sync".into(),
        unit: "ms",
        value: create - sync,
        limit: Limit::Below(5.0),
        note: format!(
            "p50 {:.2} and {:.2} ms, p99 {create:.2} and {sync:.2} ms",
            show(&mut creations, 50),
            show(&mut syncs, 50)
        ),
    }]
}

/// A list of ten thousand pods, as JSON, all of it received.
pub fn list() -> Vec<Measured> {
    const PODS: usize = 10_000;
    const ROUNDS: usize = 15;
    let mut times = Vec::new();
    let mut size = 0;
    runtime().block_on(async {
        let client = Client::on(Arc::new(Memory::default())).await;
        for number in 0..PODS {
            let path = "/api/v1/namespaces/default/pods";
            client.good("POST", path, &pod(&format!("pod-{number}"))).await;
        }
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            size = client.good("GET", "/api/v1/pods", &Value::Null).await.len();
            times.push(begun.elapsed());
        }
    });
    vec![Measured {
        what: "list 10,000 pods, median".into(),
        unit: "ms",
        value: milliseconds(percentile(&mut times, 50)),
        limit: Limit::Below(100.0),
        note: format!("{:.1} MB of JSON", size as f64 / 1e6),
    }]
}
