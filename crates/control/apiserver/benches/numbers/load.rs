//! Many clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_store::{History, Memory};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::rival::Etcd;
use crate::setting::{Client, MAPS, folder, map, milliseconds, percentile, runtime};
use crate::{Limit, Measured};

const CLIENTS: u64 = 64;
/// How long each side creates, in turns, so that both meet the same disk.
const TURN: Duration = Duration::from_secs(3);
const TURNS: usize = 3;

/// How many of what `work` does are done in one turn by all clients, a second.
async fn rate<W: Future<Output = ()> + Send + 'static>(
    work: impl Fn(u64, u64) -> W + Clone + Send + Sync + 'static,
) -> f64 {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let clients = (0..CLIENTS).map(|client| {
        let (work, done) = (work.clone(), done.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while begun.elapsed() < TURN {
                work(client, number).await;
                number += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// Objects created through the whole API on a file, against raw puts of the same size into etcd.
pub fn create() -> Vec<Measured> {
    let folder = folder();
    let runtime = runtime();
    let (ours, theirs) = runtime.block_on(async {
        let client = Client::on_disk(folder.path()).await;
        let etcd = Etcd::start(folder.path()).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(etcd_client::Client::connect([&etcd.url], None).await.unwrap());
        }
        let clients = Arc::new(clients);
        // As large as what we store.
        let value = Bytes::from(vec![b'x'; 1400]);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..TURNS {
            let client = client.clone();
            let created = rate(move |who, number| {
                let client = client.clone();
                async move {
                    let name = format!("create-{turn}-{who}-{number}");
                    client.good("POST", MAPS, &map(&name)).await;
                }
            });
            ours.push(created.await);
            let (clients, value) = (clients.clone(), value.clone());
            let put = rate(move |who, number| {
                let mut client = clients[usize::try_from(who).unwrap()].kv_client();
                let value = value.clone();
                async move {
                    let key = format!("/bench/{turn}-{who}-{number}");
                    client.put(key, value.to_vec(), None).await.unwrap();
                }
            });
            theirs.push(put.await);
        }
        (median(ours), median(theirs))
    });
    vec![Measured {
        what: "create at 64 clients, against raw puts into Debian's etcd on the same disk".into(),
        unit: "times",
        value: ours / theirs,
        limit: Limit::AtLeast(0.8),
        note: format!("{ours:.0} and {theirs:.0} a second"),
    }]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const WATCHERS: usize = 1000;
const EVENTS: u64 = 1000;
/// Each writes every few milliseconds.
const WRITERS: u64 = 4;
const SECONDS: u64 = 6;
/// The first second is for warming up.
const WARM: u64 = 1;

/// A thousand watchers who are told a thousand changes a second.
pub fn watch() -> Vec<Measured> {
    let runtime = runtime();
    let (mut delays, expected) = runtime.block_on(async {
        let store = Memory::new(History { events: 2000, ..History::default() });
        let client = Client::on(Arc::new(store)).await;
        for number in 0..100 {
            client.good("POST", MAPS, &map(&format!("watched-{number:02}"))).await;
        }
        let begun = Instant::now();
        let path = format!("{MAPS}?watch=true");
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            let body = client.send("GET", &path, "").await.into_body();
            watchers.push(tokio::spawn(receive(body, begun)));
        }
        let first = begun.elapsed();
        let writers = (0..WRITERS).map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(WRITERS));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                for number in 0..EVENTS * SECONDS / WRITERS {
                    ticks.tick().await;
                    let name = format!("watched-{:02}", (number * WRITERS + writer) % 100);
                    let mut object = map(&name);
                    let now = format!("{:012}", begun.elapsed().as_micros());
                    object["data"] = json!({"at": now, "text": "x".repeat(500)});
                    client.good("PUT", &format!("{MAPS}/{name}"), &object).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let wrote = begun.elapsed().saturating_sub(first);
        let mut delays = Vec::new();
        for watcher in watchers {
            delays.extend(watcher.await.unwrap());
        }
        client.server.close();
        (delays, (EVENTS as f64 * SECONDS as f64) / wrote.as_secs_f64())
    });
    let all = WATCHERS as u64 * EVENTS * (SECONDS - WARM);
    assert!(delays.len() as u64 >= all, "{} of {all} were received", delays.len());
    let p99 = percentile(&mut delays, 99);
    vec![
        Measured {
            what: "changes told to 1,000 watchers each".into(),
            unit: "a second",
            value: expected,
            limit: Limit::AtLeast(990.0),
            note: format!("{} deliveries", delays.len()),
        },
        Measured {
            what: "from a change's request to each of them, p99".into(),
            unit: "ms",
            value: milliseconds(p99),
            limit: Limit::Below(50.0),
            note: format!("p50 {:.2} ms", milliseconds(percentile(&mut delays, 50))),
        },
    ]
}

/// Where the time of a change stands in its line, and how long the line is. All lines are alike, and looking for it in a million
/// lines a second would cost more than what is measured.
#[derive(Clone, Copy, Default)]
struct Shape {
    place: usize,
    length: usize,
}

const MARK: &[u8] = b"\"at\":\"";

impl Shape {
    fn fits(self, text: &[u8]) -> bool {
        text.get(self.place..).is_some_and(|rest| rest.starts_with(MARK))
            && self.length > 0
            && text.get(self.length - 1) == Some(&b'\n')
            && text.get(self.length).is_none_or(|next| *next == b'{')
    }

    fn of(text: &[u8]) -> Option<Self> {
        let length = text.iter().position(|byte| *byte == b'\n')? + 1;
        let place = text[..length].windows(MARK.len()).position(|part| part == MARK);
        Some(Self { place: place.unwrap_or(length), length })
    }
}

/// The delays of all events after the first second, until the last event.
async fn receive(mut body: berth_apiserver::Body, begun: Instant) -> Vec<Duration> {
    let mut delays = Vec::with_capacity(8 * 1024);
    let mut shape = Shape::default();
    let mut count = 0;
    while count < EVENTS * SECONDS {
        let frame = body.frame().await.expect("the watch goes on").unwrap();
        let Ok(bytes) = frame.into_data() else { continue };
        let now = begun.elapsed();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if !shape.fits(rest) {
                shape = Shape::of(rest).expect("frames end with lines");
            }
            if shape.place < shape.length {
                count += 1;
                if count > EVENTS * WARM {
                    let digits = &rest[shape.place + MARK.len()..shape.place + MARK.len() + 12];
                    let sent: u64 = std::str::from_utf8(digits).unwrap().parse().unwrap();
                    delays.push(now.saturating_sub(Duration::from_micros(sent)));
                }
            }
            rest = &rest[shape.length..];
        }
    }
    delays
}
