//! A node that runs short of memory or disk: who goes, who stays, and what people see of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Berth, Said, until};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(40);

/// A configuration of the node in a file of its own.
fn configuration(name: &str, fields: &Value) -> PathBuf {
    let mut file = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    });
    file.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.node.json"));
    fs::write(&path, file.to_string()).unwrap();
    path
}

/// Applies objects given as JSON.
fn apply(berth: &Berth, objects: &[Value]) -> Said {
    let path = berth.data.with_extension("apply.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fs::write(&path, list.to_string()).unwrap();
    berth.kubectl(&["apply", "-f", path.to_str().unwrap()])
}

/// A pod of one container in the namespace `need`.
fn pod(name: &str, line: &str, extra: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "need"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", line],
            }],
        },
    });
    merge(&mut pod["spec"], extra);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if into.len() == from.len() => {
            into.iter_mut().zip(from).for_each(|(into, from)| merge(into, from));
        }
        (into, from) => *into = from,
    }
}

fn resources(requests: &Value, limits: &Value) -> Value {
    json!({"containers": [{"resources": {"requests": requests, "limits": limits}}]})
}

fn get(berth: &Berth, name: &str) -> Value {
    berth.get(&["pod", name, "-n", "need"])
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or(Value::Null)
}

fn runs(berth: &Berth, name: &str) {
    let began = std::time::Instant::now();
    let mut pod = get(berth, name);
    while condition(&pod, "Ready")["status"] != "True" {
        assert!(began.elapsed() < PATIENCE, "{name} does not run: {}", pod["status"]);
        until("it changes or a moment has passed", PATIENCE, || {
            let before = std::mem::replace(&mut pod, get(berth, name));
            before != pod || began.elapsed() >= PATIENCE
        });
    }
}

/// A file of a pod's cgroup in either version.
fn cgroup(berth: &Berth, level: &str, old: (&str, &str), new: &str) -> String {
    let legacy = Path::new("/sys/fs/cgroup").join(old.0).join(&berth.instance).join(level);
    let unified = Path::new("/sys/fs/cgroup").join(&berth.instance).join(level);
    let text = fs::read_to_string(legacy.join(old.1));
    text.or_else(|_| fs::read_to_string(unified.join(new))).unwrap().trim().to_owned()
}

fn memory_total() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Memory that is touched, and kept.
fn hold(mebibytes: u32) -> String {
    format!("head -c {mebibytes}m /dev/zero > /dev/shm/x; exec sleep 600")
}

#[test]
fn memory_goes_to_those_who_asked_for_it() {
    // Pods together may have 400 MiB, and 100 of them are to stay free.
    let reserved = memory_total() - 400 * MIB;
    let file = configuration(
        "memory",
        &json!({
            "systemReserved": {"memory": reserved.to_string(), "cpu": "500m"},
            "evictionHard": {"memory.available": "100Mi"},
            "evictionPressureTransitionPeriod": "4s",
            "podPidsLimit": 1000, "maxPods": 20,
        }),
    );
    let berth = Berth::with("memory", 200, &["--node-config", file.to_str().unwrap()]);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", "need"]).good();

    let node = berth.get(&["node", "node"]);
    assert_eq!(node["status"]["allocatable"]["memory"], "300Mi");
    assert_eq!(node["status"]["allocatable"]["pods"], "20");
    let shm = |size: &str| {
        json!({"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}],
               "containers": [{"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}]})
    };
    let with = |name: &str, line: &str, parts: &[Value]| {
        let mut made = pod(name, line, json!({}));
        parts.iter().for_each(|part| merge(&mut made["spec"], part.clone()));
        made
    };
    let asked = json!({"memory": "200Mi", "cpu": "100m"});
    let guaranteed = with("guaranteed", &hold(150), &[resources(&asked, &asked), shm("180Mi")]);
    let share = resources(&json!({"cpu": "250m", "memory": "10Mi"}), &json!({}));
    let burstable = with("burstable", &hold(20), &[share, shm("100Mi")]);
    apply(&berth, &[guaranteed, burstable, with("small", "exec sleep 600", &[])]).good();
    for name in ["guaranteed", "burstable", "small"] {
        runs(&berth, name);
    }
    each_quality_has_its_level(&berth);
    apply(&berth, &[with("greedy", &hold(160), &[shm("200Mi")])]).good();
    the_greedy_goes(&berth);
    // It is over once it has been over for a while, and who waited comes in.
    runs(&berth, "patient");
    assert_eq!(condition(&berth.get(&["node", "node"]), "MemoryPressure")["status"], "False");
    for name in ["guaranteed", "burstable", "small"] {
        let pod = get(&berth, name);
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{name}");
        assert_eq!(condition(&pod, "Ready")["status"], "True", "{name}");
    }
}

fn each_quality_has_its_level(berth: &Berth) {
    // Each quality has its level, which weighs what its pods asked for.
    let uid = |name: &str| get(berth, name)["metadata"]["uid"].as_str().unwrap().to_owned();
    let shares = |level: &str| cgroup(berth, level, ("cpu", "cpu.shares"), "cpu.weight");
    let weight = |shares: u64| {
        let legacy = Path::new("/sys/fs/cgroup/cpu").exists();
        if legacy { shares } else { 1 + (shares - 2) * 9_999 / 262_142 }.to_string()
    };
    assert_eq!(shares("burstable"), weight(256));
    assert_eq!(shares("besteffort"), weight(2));
    assert_eq!(shares(&format!("pod{}", uid("guaranteed"))), weight(102));
    assert_eq!(shares(&format!("burstable/pod{}", uid("burstable"))), weight(256));
    let of_guaranteed = format!("pod{}", uid("guaranteed"));
    let held = cgroup(berth, &of_guaranteed, ("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(held, (200 * MIB).to_string());
    let pids = cgroup(berth, &of_guaranteed, ("pids", "pids.max"), "pids.max");
    assert_eq!(pids, "1000");
    let all = cgroup(berth, "", ("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(all.parse::<u64>().unwrap() / MIB, 400);
}

/// One takes what nobody gave it, and goes.
fn the_greedy_goes(berth: &Berth) {
    until("the greedy pod is evicted", PATIENCE, || {
        get(berth, "greedy")["status"]["reason"] == "Evicted"
    });
    until("the node says so", PATIENCE, || {
        let node = berth.get(&["node", "node"]);
        let taints = node["spec"]["taints"].to_string();
        condition(&node, "MemoryPressure")["status"] == "True"
            && taints.contains("node.kubernetes.io/memory-pressure")
    });
    // Who asked for nothing is not taken in now, however it comes here.
    let direct = pod("direct", "true", json!({"nodeName": "node"}));
    let patient = pod("patient", "exec sleep 600", json!({}));
    apply(berth, &[direct, patient]).good();
    until("the other is refused", PATIENCE, || {
        get(berth, "direct")["status"]["reason"] == "Evicted"
    });
    let refused = &get(berth, "direct")["status"];
    assert_eq!(refused["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    let evicted = get(berth, "greedy");
    assert_eq!(evicted["status"]["phase"], "Failed");
    let message = evicted["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: "
        ) && message.contains("Container main was using ")
            && message.ends_with(", request is 0, has larger consumption of memory. "),
        "{message}"
    );
    let disrupted = condition(&evicted, "DisruptionTarget");
    assert_eq!(
        (&disrupted["status"], &disrupted["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    let events = berth.kubectl(&["get", "events", "-n", "need"]).good();
    assert!(
        events.lines().any(|line| line.contains("Evicted") && line.contains("pod/greedy")),
        "{events}"
    );
    let described = berth.kubectl(&["describe", "node", "node"]).good();
    for word in ["EvictionThresholdMet", "NodeHasInsufficientMemory"] {
        assert!(described.contains(word), "no {word}\n{described}");
    }
}
