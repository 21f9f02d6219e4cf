//! Pods that take all they can get: processes, memory, disk, log, descriptors, depth. The others on the node go on, and so does the
//! node itself; and when the takers are deleted, nothing is left of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Berth, configuration, create, http_at, memory_total, until};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the good neighbour is watched while all others take what they can.
const WATCH: Duration = Duration::from_secs(15);
/// The longest anybody may wait for the good neighbour meanwhile, on a machine whose processors are all taken.
const SLOWEST: Duration = Duration::from_secs(3);

fn takers() -> Vec<(&'static str, &'static str, Value)> {
    let limit = |name: &str, value: &str| json!({"resources": {"limits": {name: value}}});
    vec![
        ("processes", "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done", json!({})),
        ("memory", "tail /dev/zero", json!({})),
        ("memory-limited", "tail /dev/zero", limit("memory", "32Mi")),
        (
            "disk",
            "i=0; while [ $i -lt 300 ]; do head -c 1048576 /dev/zero >> /taken; i=$((i+1)); done; sleep 600",
            limit("ephemeral-storage", "20Mi"),
        ),
        (
            "log",
            "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done",
            json!({}),
        ),
        ("long-lines", "while :; do head -c 100000 /dev/zero | tr '\\0' x; done", json!({})),
        (
            "descriptors",
            "mkfifo /tmp/p 2>/dev/null; i=3; while eval \"exec $i<>/tmp/p\" 2>/dev/null; do i=$((i+1)); done; sleep 600",
            json!({}),
        ),
        (
            "depth",
            "i=0; while [ $i -lt 4000 ] && mkdir a && cd a; do i=$((i+1)); done; sleep 600",
            json!({}),
        ),
        (
            "sockets",
            "i=0; while [ $i -lt 400 ]; do nc -l -p $((2000+i)) & i=$((i+1)); done; wait",
            json!({}),
        ),
        ("busy", "while :; do :; done", json!({})),
    ]
}

fn pod(name: &str, line: &str, more: &Value) -> Value {
    let mut main = json!({"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", line]});
    main.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"who": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [main]}})
}

/// What pods may have together: little enough that the machine does not notice.
fn small() -> std::path::PathBuf {
    let reserved = json!({"memory": (memory_total() - 700 * MIB).to_string()});
    configuration("hostile", &json!({"systemReserved": reserved, "podPidsLimit": 300}))
}

#[test]
fn the_others_go_on_whatever_a_pod_takes() {
    let file = small();
    let words = ["--node-config", file.to_str().unwrap()];
    let berth = Berth::with("greed", 222, &words);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let mut good = pod(
        "good",
        "mkdir /www; echo well > /www/index.html; exec httpd -f -p 80 -h /www",
        &json!({
            "readinessProbe": {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1, "failureThreshold": 10},
            "resources": {"requests": {"cpu": "200m", "memory": "16Mi"}},
        }),
    );
    good["metadata"]["labels"] = json!({"who": "good"});
    create(&berth, &[good]).good();
    berth.kubectl(&["wait", "--for=condition=Ready", "pod/good", "--timeout=40s"]).good();
    let address = berth.get(&["pod", "good"])["status"]["podIP"].as_str().unwrap().to_owned();
    let address = SocketAddr::new(address.parse().unwrap(), 80);

    let takers = takers();
    let pods: Vec<Value> = takers.iter().map(|(name, line, more)| pod(name, line, more)).collect();
    create(&berth, &pods).good();
    watch(&berth, address);
    everybody_got_what_is_theirs(&berth);
    // Who comes now is served, too, if they say what they need: the node may be short of memory.
    let needs = json!({"resources": {"requests": {"memory": "16Mi"}}});
    create(&berth, &[pod("late", "echo here; sleep 600", &needs)]).good();
    let waited = berth.kubectl(&["wait", "--for=condition=Ready", "pod/late", "--timeout=40s"]);
    assert_eq!(waited.code, 0, "{}", berth.get(&["pod", "late"])["status"]);
    assert_eq!(berth.kubectl(&["logs", "late"]).good(), "here\n");

    let names: Vec<&str> = takers.iter().map(|(name, ..)| *name).collect();
    berth.kubectl(&[&["delete", "pod", "--timeout=60s"][..], &names].concat()).good();
    let left = berth.get(&["pods"])["items"].as_array().unwrap().len();
    assert_eq!(left, 2, "the good and the late one");
    // Without a time to end the object goes at once, and what it meant a moment later.
    until("nothing is left of the others", PATIENCE, || {
        std::fs::read_dir(berth.data.join("pods")).unwrap().count() == 2
    });
    let good = berth.get(&["pod", "good"]);
    assert_eq!(good["status"]["containerStatuses"][0]["restartCount"], 0, "{}", good["status"]);
}

/// How long the good neighbour takes to answer.
fn answers(address: SocketAddr) -> Option<Duration> {
    let began = Instant::now();
    let answer = http_at(address, "GET", "/", "").ok()?;
    answer.ends_with("well\n").then(|| began.elapsed())
}

fn watch(berth: &Berth, address: SocketAddr) {
    let began = Instant::now();
    let (mut slowest, mut asked) = (Duration::ZERO, 0);
    while began.elapsed() < WATCH {
        let took = answers(address).expect("the good neighbour answers");
        slowest = slowest.max(took);
        asked += 1;
        let node = berth.get(&["node", "node"]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "True", "{ready}");
    }
    assert!(slowest < SLOWEST, "the slowest of {asked} answers took {slowest:?}");
}

fn everybody_got_what_is_theirs(berth: &Berth) {
    let status = |pod: &str| berth.get(&["pod", pod])["status"].clone();
    let ended = |pod: &str| {
        let state = &status(pod)["containerStatuses"][0];
        [&state["state"], &state["lastState"]]
            .into_iter()
            .find_map(|it| it["terminated"]["reason"].as_str().map(str::to_owned))
    };
    let limited = || ended("memory-limited").as_deref() == Some("OOMKilled");
    until("it was ended at its limit", PATIENCE, limited);
    // Without a limit of its own either the node or the kernel is first.
    let last = std::cell::RefCell::default();
    let unlimited = || {
        *last.borrow_mut() = status("memory");
        last.borrow()["reason"] == "Evicted" || ended("memory").as_deref() == Some("OOMKilled")
    };
    let began = Instant::now();
    while !unlimited() {
        assert!(began.elapsed() < PATIENCE, "it takes all memory: {}", last.borrow());
    }
    until("it was sent away for its disk", PATIENCE, || status("disk")["reason"] == "Evicted");
    // The log is read at its end, and takes no more than its files may.
    for pod in ["log", "long-lines"] {
        let last = berth.kubectl(&["logs", pod, "--tail=1"]).good();
        assert!(!last.is_empty(), "{pod} has a last line");
        let uid = berth.get(&["pod", pod])["metadata"]["uid"].as_str().unwrap().to_owned();
        let folder = berth.data.join("pods").join(uid).join("logs");
        let size: u64 = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().metadata().ok())
            .map(|found| found.len())
            .sum();
        assert!(size < 56 * MIB, "the log of {pod} takes {size} bytes");
    }
    let processes =
        berth.get(&["pod", "processes"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let count = berth.processes(&processes).len();
    assert!(count <= 300, "{count} processes of the pod that multiplies");
}
