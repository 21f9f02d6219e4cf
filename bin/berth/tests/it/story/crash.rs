//! `kill -9` in the middle of a storm of writes, as clients of the API see it: what was acknowledged is there, and who watched goes
//! on where they were.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use tokio::task::JoinHandle;

use crate::support::{Berth, until};

const ROUNDS: usize = 3;
const WRITERS: usize = 8;
/// So many writes are acknowledged before the server is killed.
const STORM: usize = 250;
const PATIENCE: Duration = Duration::from_secs(30);

/// What an object may be: its text, or none where it is gone.
type State = Option<String>;

/// What clients were told.
#[derive(Default)]
struct Told {
    /// By name, what it is; a write without an answer may have happened or not.
    objects: HashMap<String, (State, Option<State>)>,
    /// Acknowledged writes: name and revision. The answer to a deletion says none.
    writes: Vec<(String, u64)>,
    acknowledged: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    revision: u64,
    name: String,
    gone: bool,
}

async fn maps(data: &Path) -> Api<ConfigMap> {
    let client = berth_client::open(&data.join("kubeconfig")).await.unwrap();
    Api::namespaced(client, "default")
}

fn revision(object: &ConfigMap) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

fn map(name: &str, text: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some([("text".to_owned(), text.to_owned())].into());
    map
}

/// Creates, changes and deletes objects of its own until the server is gone.
async fn write(api: Api<ConfigMap>, writer: usize, round: usize, told: Arc<Mutex<Told>>) {
    for number in 0.. {
        let name = format!("w{writer}-r{round}-{}", number / 4);
        let text = format!("{round}/{number}");
        let next = if number % 4 == 3 && number % 8 == 3 { None } else { Some(text.clone()) };
        {
            let mut told = told.lock().unwrap();
            let before = told.objects.get(&name).and_then(|(state, _)| state.clone());
            told.objects.insert(name.clone(), (before, Some(next.clone())));
        }
        let outcome = match (number % 4, &next) {
            (0, _) => api
                .create(&PostParams::default(), &map(&name, &text))
                .await
                .map(|made| Some(revision(&made))),
            (_, None) => api.delete(&name, &DeleteParams::default()).await.map(|_| None),
            (_, Some(_)) => api
                .replace(&name, &PostParams::default(), &map(&name, &text))
                .await
                .map(|made| Some(revision(&made))),
        };
        let mut told = told.lock().unwrap();
        match outcome {
            Ok(revision) => {
                told.objects.insert(name.clone(), (next, None));
                told.writes.extend(revision.map(|revision| (name, revision)));
                told.acknowledged += 1;
            }
            Err(kube::Error::Api(status)) => panic!("{status:?}"),
            // The server is gone.
            Err(_) => return,
        }
    }
}

/// Follows all objects from a revision on, until the server is gone or the object `end` is seen.
async fn watch(api: Api<ConfigMap>, from: u64, end: Option<&str>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut last = from;
    loop {
        let Ok(events) = api.watch(&WatchParams::default(), &last.to_string()).await else {
            return seen;
        };
        let mut events = events.boxed();
        while let Some(event) = events.next().await {
            let (object, gone) = match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => (object, false),
                Ok(WatchEvent::Deleted(object)) => (object, true),
                Ok(WatchEvent::Bookmark(_)) => continue,
                Ok(WatchEvent::Error(status)) => panic!("{status:?}"),
                Err(_) if end.is_none() => return seen,
                Err(error) => panic!("{error}"),
            };
            last = revision(&object);
            let name = object.name_any();
            seen.push(Seen { revision: last, name: name.clone(), gone });
            if end == Some(&name) {
                return seen;
            }
        }
        if end.is_none() {
            return seen;
        }
    }
}

#[test]
fn acknowledged_writes_outlive_kill_9_and_watchers_miss_nothing() {
    let mut berth = Berth::new("crash", 188);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let told = Arc::new(Mutex::new(Told::default()));
    let begin = runtime.block_on(async {
        let api = maps(&berth.data).await;
        let list = api.list(&ListParams::default()).await.unwrap();
        list.metadata.resource_version.unwrap().parse::<u64>().unwrap()
    });
    let mut histories = vec![Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let goal = told.lock().unwrap().acknowledged + STORM;
        let (writers, watchers) =
            runtime.block_on(storm(&berth.data, round, &told, &histories, begin));
        until("the storm is at its height", PATIENCE, || told.lock().unwrap().acknowledged >= goal);
        berth.kill_server();
        runtime.block_on(async {
            for writer in writers {
                writer.await.unwrap();
            }
            for (watcher, history) in watchers.into_iter().zip(&mut histories) {
                history.extend(watcher.await.unwrap());
            }
        });
        berth.start();
        runtime.block_on(verify(&berth.data, round, &told, &mut histories, begin));
    }
    drop(berth);
}

type Tasks<T> = Vec<JoinHandle<T>>;

/// Starts writers, and watchers who go on after what they have seen.
async fn storm(
    data: &Path,
    round: usize,
    told: &Arc<Mutex<Told>>,
    histories: &[Vec<Seen>],
    begin: u64,
) -> (Tasks<()>, Tasks<Vec<Seen>>) {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        writers.push(tokio::spawn(write(maps(data).await, writer, round, Arc::clone(told))));
    }
    let mut watchers = Vec::new();
    for history in histories {
        let from = history.last().map_or(begin, |seen| seen.revision);
        let api = maps(data).await;
        watchers.push(tokio::spawn(async move { watch(api, from, None).await }));
    }
    (writers, watchers)
}

async fn verify(
    data: &Path,
    round: usize,
    told: &Mutex<Told>,
    histories: &mut [Vec<Seen>],
    begin: u64,
) {
    let api = maps(data).await;
    let end = format!("end-{round}");
    api.create(&PostParams::default(), &map(&end, "")).await.unwrap();
    for history in histories.iter_mut() {
        let from = history.last().map_or(begin, |seen| seen.revision);
        let rest = tokio::time::timeout(PATIENCE, watch(api.clone(), from, Some(&end))).await;
        history.extend(rest.expect("the rest is told"));
        assert!(history.is_sorted_by(|one, two| one.revision < two.revision), "in order, and once");
    }
    assert_eq!(histories[0], histories[1], "all watchers are told the same");

    let list = api.list(&ListParams::default()).await.unwrap();
    let present: BTreeMap<String, String> = list
        .into_iter()
        .map(|map| {
            (map.name_any(), map.data.unwrap_or_default().remove("text").unwrap_or_default())
        })
        .collect();
    let mut told = told.lock().unwrap();
    for (name, (state, maybe)) in &mut told.objects {
        let found = present.get(name).cloned();
        assert!(
            found == *state || Some(&found) == maybe.as_ref(),
            "{name} is {found:?}, was acknowledged as {state:?}, and {maybe:?} was under way"
        );
        // Now it is known.
        (*state, *maybe) = (found, None);
    }
    let seen: HashMap<u64, &str> =
        histories[0].iter().map(|seen| (seen.revision, seen.name.as_str())).collect();
    for (name, revision) in &told.writes {
        assert_eq!(seen.get(revision), Some(&name.as_str()), "the write at {revision} was told");
    }
    // What the watchers saw last is what there is.
    let mut last = HashMap::new();
    for seen in &histories[0] {
        last.insert(&seen.name, seen.gone);
    }
    for (name, gone) in last {
        assert_eq!(present.contains_key(name), !gone, "{name}");
    }
}
