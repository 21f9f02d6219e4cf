//! The store in a real etcd, which is stopped, paused and emptied under it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_store::{
    ClaimError, Etcd, EtcdOptions, Event, Expect, Range, Revision, Store, StoreError,
};
use bytes::Bytes;
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::contract::{delete, put};

const PATIENCE: Duration = Duration::from_secs(20);

/// An etcd of its own.
pub struct Member {
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Member {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut member = Self { folder, client: free_port(), peer: free_port(), process: None };
        member.run();
        member
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    fn run(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", "m", "--initial-cluster", &format!("m={peer}")])
            .args(["--log-level", "error", "--unsafe-no-fsync"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.folder.path().join("log")).unwrap())
            .spawn()
            .expect("Debian's etcd-server is needed on the PATH");
        self.process = Some(child);
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.client)).is_err() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "etcd does not listen: {}", log());
            std::thread::yield_now();
        }
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// Stops it, and returns when none of its threads runs any more.
    fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.process.as_ref().unwrap().id());
        let stopped = |task: std::fs::DirEntry| {
            let state = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            state.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('T'))
        };
        let begun = Instant::now();
        while !std::fs::read_dir(&tasks).unwrap().flatten().all(stopped) {
            assert!(begun.elapsed() < PATIENCE, "etcd does not stop");
            std::thread::yield_now();
        }
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub async fn store(&self) -> Etcd {
        let begun = Instant::now();
        loop {
            // It listens before it has elected itself.
            match Etcd::open(EtcdOptions::new(vec![self.url()])).await {
                Ok(store) => return store,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

/// Tries until it succeeds, as those do whose server has lost its store for a moment.
async fn persist(store: &Etcd, key: &str, value: &str) -> Revision {
    let begun = Instant::now();
    loop {
        match store.commit(vec![put(key, value, Expect::Any)]).await {
            Ok(revision) => return revision,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
        }
    }
}

async fn next_put(events: &mut (impl StreamExt<Item = Event> + Unpin)) -> (Bytes, Bytes) {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time");
        match event.expect("the watch goes on") {
            Event::Put { record, .. } => return (record.key, record.value),
            Event::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_etcd_see_the_same() {
    let member = Member::start();
    let (one, two) = (member.store().await, member.store().await);
    let begin = one.current();
    let mut seen = two.watch(Bytes::new(), begin).await.unwrap();
    let made = one.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    assert_eq!(next_put(&mut seen).await.1, "1");
    // The present is never stale, wherever it is read.
    assert_eq!(two.get("a".into(), None).await.unwrap().record.unwrap().revision, made);
    let refused = two.commit(vec![put("a", "2", Expect::Absent)]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { actual, .. } if actual == Some(made)));
    let again = two.commit(vec![put("a", "2", Expect::Revision(made))]).await.unwrap();
    // A revision that came from one server may be watched from at the other.
    let mut ahead = one.watch(Bytes::new(), again).await.unwrap();
    let last = two.commit(vec![put("b", "3", Expect::Any)]).await.unwrap();
    assert_eq!(next_put(&mut ahead).await, ("b".into(), "3".into()));
    assert_eq!(one.get("a".into(), Some(made)).await.unwrap().record.unwrap().value, "1");
    let page = one.range(Range { at: Some(last), ..Range::default() }).await.unwrap();
    assert_eq!(page.records.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_killed_etcd() {
    let mut member = Member::start();
    let store = member.store().await;
    let begin = store.current();
    let mut seen = store.watch(Bytes::new(), begin).await.unwrap();
    store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    assert_eq!(next_put(&mut seen).await.1, "1");
    member.kill();
    let lost = store.commit(vec![put("a", "2", Expect::Any)]).await.unwrap_err();
    assert!(matches!(lost, StoreError::Io { .. }), "{lost:?}");
    assert!(store.get("a".into(), None).await.is_err(), "a stale answer is worse than none");
    member.run();
    persist(&store, "b", "3").await;
    // The same watch goes on.
    assert_eq!(next_put(&mut seen).await, ("b".into(), "3".into()));
    assert_eq!(store.get("a".into(), None).await.unwrap().record.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_etcd_is_an_error_in_time_and_nothing_is_missed() {
    let member = Member::start();
    let (store, other) = (member.store().await, member.store().await);
    let mut seen = store.watch(Bytes::new(), store.current()).await.unwrap();
    member.pause();
    let begun = Instant::now();
    store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    member.signal(Signal::CONT);
    persist(&other, "b", "2").await;
    // What was tried in vain may have happened; what was acknowledged has.
    let mut last = next_put(&mut seen).await;
    if last.0 == "a" {
        last = next_put(&mut seen).await;
    }
    assert_eq!(last, ("b".into(), "2".into()));
}

/// A wire to etcd that can be cut: connections stay open and carry nothing more.
struct Wire {
    port: u16,
    whole: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    async fn to(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (whole, seen) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let far = tokio::net::TcpStream::connect(("127.0.0.1", target)).await?;
                    let (near, far) = (near.into_split(), far.into_split());
                    let both = (carry(near.0, far.1, seen.clone()), carry(far.0, near.1, seen));
                    tokio::try_join!(both.0, both.1)
                });
            }
        });
        Self { port, whole }
    }
}

async fn carry(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut whole: tokio::sync::watch::Receiver<bool>,
) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes).await?;
        // The test that holds the other end is over.
        if count == 0 || whole.wait_for(|whole| *whole).await.is_err() {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_cut_off_from_etcd_fails_in_time_and_misses_nothing() {
    let member = Member::start();
    let other = member.store().await;
    let wire = Wire::to(member.client).await;
    let url = format!("http://127.0.0.1:{}", wire.port);
    let store = Etcd::open(EtcdOptions::new(vec![url])).await.unwrap();
    let mut seen = store.watch(Bytes::new(), store.current()).await.unwrap();
    let before = persist(&other, "a", "1").await;
    assert_eq!(next_put(&mut seen).await, ("a".into(), "1".into()));
    wire.whole.send(false).unwrap();
    let begun = Instant::now();
    store.commit(vec![put("a", "lost", Expect::Revision(before))]).await.unwrap_err();
    store.get("a".into(), None).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
    // The others go on meanwhile, also with what this one wanted to change.
    let after = persist(&other, "a", "2").await;
    for number in 0..50 {
        persist(&other, &format!("b{number}"), "3").await;
    }
    wire.whole.send(true).unwrap();
    assert_eq!(next_put(&mut seen).await, ("a".into(), "2".into()));
    for number in 0..50 {
        assert_eq!(next_put(&mut seen).await.0, format!("b{number}"));
    }
    // What was on the wire arrives late, and is refused: it was for an older state.
    persist(&store, "c", "4").await;
    let found = store.get("a".into(), None).await.unwrap().record.unwrap();
    assert_eq!((&found.value[..], found.revision), (&b"2"[..], after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_missed_too_much_begins_anew() {
    let mut member = Member::start();
    let (store, other) = (member.store().await, member.store().await);
    let begin = store.current();
    let mut slow = store.watch(Bytes::new(), begin).await.unwrap();
    // The server's own watch breaks, and while it does etcd forgets.
    member.kill();
    member.run();
    persist(&other, "a", "1").await;
    let last = persist(&other, "a", "2").await;
    other.compact(last).await.unwrap();
    persist(&store, "b", "3").await;
    let begun = Instant::now();
    loop {
        let event = tokio::time::timeout(PATIENCE, slow.next()).await.expect("in time");
        match event {
            Some(Event::Put { record, .. }) if record.key == "b" => break,
            // It is told, and lists again.
            Some(Event::Compacted(_)) => break,
            Some(_) => assert!(begun.elapsed() < PATIENCE),
            None => panic!("the watch ended without a word"),
        }
    }
    let page = store.range(Range::default()).await.unwrap();
    let found: Vec<_> = page.records.iter().map(|record| &record.value[..]).collect();
    assert_eq!(found, [b"2", b"3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_knows_what_happened_before() {
    let member = Member::start();
    let store = member.store().await;
    let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    store.commit(vec![put("a", "2", Expect::Any)]).await.unwrap();
    store.commit(vec![delete("a", Expect::Any)]).await.unwrap();
    drop(store);
    let store = member.store().await;
    let mut events = store.watch(Bytes::new(), first).await.unwrap();
    assert_eq!(next_put(&mut events).await.1, "2");
    assert!(
        matches!(events.next().await.unwrap(), Event::Delete { previous, .. } if previous.value == "2")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_not_there_is_an_error() {
    let options = EtcdOptions::new(vec![format!("http://127.0.0.1:{}", free_port())]);
    assert!(matches!(Etcd::open(options).await.err(), Some(StoreError::Io { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_has_a_node_s_claim_and_keeps_it_over_a_restart_and_an_outage() {
    let mut member = Member::start();
    let (one, two) = (member.store().await, member.store().await);
    let claim = one.claim("node", "first").await.unwrap();
    let refused = two.claim("node", "second").await.err().unwrap();
    assert!(matches!(&refused, ClaimError::Taken { holder, .. } if holder == "first"), "{refused}");
    two.claim("other", "second").await.unwrap();
    drop(claim);
    // The same server, started again before the claim has run out.
    let mut again = one.claim("node", "first").await.unwrap();
    // etcd forgets it, as after an outage longer than the claim lives: it is made anew.
    member.kill();
    std::fs::remove_dir_all(member.folder.path().join("data")).unwrap();
    member.run();
    let afresh = member.store().await;
    let begun = Instant::now();
    let holder = async || afresh.get("servers/node".into(), None).await.unwrap().record;
    while holder().await.is_none() {
        assert!(begun.elapsed() < PATIENCE, "the claim is not made anew");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And a third time, but another is faster.
    member.kill();
    std::fs::remove_dir_all(member.folder.path().join("data")).unwrap();
    member.run();
    let thief = put("servers/node", "thief", Expect::Any);
    member.store().await.commit(vec![thief]).await.unwrap();
    let lost = tokio::time::timeout(PATIENCE, again.lost()).await;
    assert_eq!(lost.expect("a server whose name another has must not go on"), "thief");
}
