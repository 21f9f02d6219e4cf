//! Nothing acknowledged is lost and no half commit shows, wherever the process is killed.
//!
//! The test binary runs itself as the victim: it commits pairs of keys and prints each acknowledgement; the parent kills
//! it, either after some acknowledgements or while the writer is held between two steps.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_store::{Disk, DiskOptions, Event, Expect, Range, Revision, Step, Store};
use bytes::Bytes;
use futures::StreamExt;

use crate::contract::put;

const PATH: &str = "BERTH_STORE_CRASH_PATH";
const STOP: &str = "BERTH_STORE_CRASH_STOP";
const START: &str = "BERTH_STORE_CRASH_START";

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{line}").unwrap();
    output.flush().unwrap();
}

#[test]
#[ignore = "the victim of the crash tests, which run it by name"]
fn victim() {
    let path = PathBuf::from(std::env::var(PATH).expect("started by a crash test"));
    let stop = std::env::var(STOP).unwrap_or_default();
    let start: u64 = std::env::var(START).unwrap().parse().unwrap();
    let reached = AtomicUsize::new(0);
    let probe = move |step: Step| {
        if format!("{step:?}") == stop && reached.fetch_add(1, Ordering::SeqCst) == 5 {
            say("held");
            loop {
                std::thread::park();
            }
        }
    };
    let options = DiskOptions { probe: Some(Arc::new(probe)), ..DiskOptions::default() };
    let store = Arc::new(Disk::open(&path, options).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let workers = (0..8_u64).map(|worker| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0.. {
                    let name = start + worker + round * 8;
                    let left = put(&format!("left/{name}"), &name.to_string(), Expect::Absent);
                    let right = put(&format!("right/{name}"), &name.to_string(), Expect::Absent);
                    let revision = store.commit(vec![left, right]).await.unwrap();
                    say(&format!("ack {revision} {name}"));
                }
            })
        });
        futures::future::join_all(workers).await;
    });
}

/// Runs the victim until it is held, or has acknowledged so many, and kills it. Returns what it acknowledged.
fn kill(path: &Path, start: u64, stop: Option<Step>, acknowledgements: usize) -> Vec<(u64, u64)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::victim", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(PATH, path).env(START, start.to_string());
    command.env(STOP, stop.map(|step| format!("{step:?}")).unwrap_or_default());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let mut read = |line: &str| {
        let mut words = line.split(' ');
        if words.next() == Some("ack") {
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            seen.push((number(), number()));
        }
        (seen.len(), line == "held")
    };
    loop {
        let line = lines.next().expect("the victim runs until it is killed").unwrap();
        let (count, held) = read(&line);
        if held || (stop.is_none() && count >= acknowledgements) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines.map_while(Result::ok) {
        // The last line may be torn by the kill.
        if line.split(' ').count() == 3 && !line.ends_with(' ') {
            read(&line);
        }
    }
    seen
}

async fn verify(path: &Path, acknowledged: &[(u64, u64)]) -> u64 {
    let store = Disk::open(path, DiskOptions::default()).unwrap();
    for (revision, name) in acknowledged {
        for side in ["left", "right"] {
            let key = Bytes::from(format!("{side}/{name}"));
            let record = store.get(key, None).await.unwrap().record;
            let record = record.unwrap_or_else(|| panic!("{side}/{name} was acknowledged"));
            assert_eq!(record.revision, Revision(*revision));
        }
    }
    let list = async |prefix: &'static str| {
        let range = Range { prefix: prefix.into(), ..Range::default() };
        let records = store.range(range).await.unwrap().records;
        records.into_iter().map(|record| (record.value, record.revision)).collect::<Vec<_>>()
    };
    let left = list("left/").await;
    assert_eq!(left, list("right/").await, "no half commit");
    let mut events = store.watch(Bytes::new(), Revision(0)).await.unwrap();
    let mut count = 0;
    while !matches!(events.next().await.unwrap(), Event::Progress(_)) {
        count += 1;
    }
    assert_eq!(count, 2 * left.len(), "the watch sees the whole past");
    store.current().0
}

#[tokio::test]
async fn survives_a_kill_at_each_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut all = Vec::new();
    for (round, step) in (1..).zip([Step::Staged, Step::Written, Step::Durable, Step::Applied]) {
        all.extend(kill(&path, round * 1_000_000, Some(step), 0));
        verify(&path, &all).await;
    }
    assert!(!all.is_empty());
}

#[tokio::test]
async fn survives_kills_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut all = Vec::new();
    let mut last = 0;
    for round in 1..=6 {
        let acknowledgements = rand::random_range(1..150);
        all.extend(kill(&path, round * 1_000_000, None, acknowledgements));
        let current = verify(&path, &all).await;
        assert!(current > last, "each round adds");
        last = current;
    }
}

/// Large values written over and over, and the history forgotten: each round the file becomes small again.
#[test]
#[ignore = "the victim of the crash test of the shrinking file, which runs it by name"]
fn shrinking_victim() {
    let path = PathBuf::from(std::env::var(PATH).expect("started by a crash test"));
    let start: u64 = std::env::var(START).unwrap().parse().unwrap();
    let probe = |step: Step| {
        if step == Step::Shrinking {
            say("shrinking");
        }
    };
    let options = DiskOptions { probe: Some(Arc::new(probe)), ..DiskOptions::default() };
    let store = Disk::open(&path, options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for round in start.. {
            let large = format!("{round} ").repeat(32 << 10);
            let keys: Vec<_> = (0..100).map(|key| format!("large/{key}")).collect();
            for key in &keys {
                store.commit(vec![put(key, &large, Expect::Any)]).await.unwrap();
            }
            for key in &keys {
                store.commit(vec![put(key, &round.to_string(), Expect::Any)]).await.unwrap();
            }
            let name = format!("round/{round}");
            let done = put(&name, &round.to_string(), Expect::Absent);
            let revision = store.commit(vec![done]).await.unwrap();
            say(&format!("ack {revision} {round}"));
            store.compact(store.current()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn survives_kills_while_the_file_becomes_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut all: Vec<(u64, u64)> = Vec::new();
    for start in (1..=6).map(|round| round * 1000) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let victim = "crash::shrinking_victim";
        command.args(["--exact", victim, "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(PATH, &path).env(START, start.to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = lines.next().expect("the victim runs until it is killed").unwrap();
            let words: Vec<_> = line.split(' ').collect();
            if let ["ack", revision, round] = words[..] {
                all.push((revision.parse().unwrap(), round.parse().unwrap()));
            }
            if line == "shrinking" {
                break;
            }
        }
        #[expect(clippy::disallowed_methods, reason = "where the kill falls is left to chance")]
        std::thread::sleep(std::time::Duration::from_micros(rand::random_range(0..20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Disk::open(&path, DiskOptions::default()).unwrap();
        for (revision, round) in &all {
            let key = Bytes::from(format!("round/{round}"));
            let record = store.get(key, None).await.unwrap().record;
            let record = record.unwrap_or_else(|| panic!("round {round} was acknowledged"));
            assert_eq!(
                (record.revision, record.value),
                (Revision(*revision), round.to_string().into())
            );
        }
        let (_, last) = all[all.len() - 1];
        let range = Range { prefix: "large/".into(), ..Range::default() };
        let large = store.range(range).await.unwrap().records;
        assert_eq!(large.len(), 100);
        for record in large {
            let text = String::from_utf8(record.value.to_vec()).unwrap();
            let round: u64 = text.split(' ').next().unwrap().parse().unwrap();
            assert!(round >= last, "{round} was written before {last}");
        }
    }
    assert!(all.len() >= 6);
}
