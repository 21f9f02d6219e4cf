//! A node that runs short of memory or disk: who goes, who stays, and what people see of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Berth, Said, apply, condition, configuration, memory_total, merge, until};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(40);

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

fn resources(requests: &Value, limits: &Value) -> Value {
    json!({"containers": [{"resources": {"requests": requests, "limits": limits}}]})
}

/// What the node counts.
fn counted(berth: &Berth, line: &str) {
    let text = berth.kubectl(&["get", "--raw", "/api/v1/nodes/node/proxy/metrics"]).good();
    assert!(text.lines().any(|known| known == line), "no {line} in\n{text}");
}

fn get(berth: &Berth, name: &str) -> Value {
    berth.get(&["pod", name, "-n", "need"])
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
    counted(berth, "kubelet_admission_rejections_total{reason=\"Evicted\"} 1");
    counted(berth, "kubelet_evictions{eviction_signal=\"allocatableMemory.available\"} 1");
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

/// A disk in memory, for the data directory of this name. Unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(name: &str, mebibytes: u32) -> Self {
        let disk = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(&disk.0).unwrap();
        disk.unmount();
        let size = format!("size={mebibytes}m,mode=755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk.0);
        assert!(mount.status().unwrap().success());
        disk
    }

    /// Ends mounts an earlier run may have left, too.
    fn unmount(&self) {
        while Command::new("mountpoint").arg("-q").arg(&self.0).status().unwrap().success() {
            assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
        }
    }

    fn available(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Writes to a file, and stays.
fn write(mebibytes: u32, path: &str) -> String {
    format!("dd if=/dev/zero of={path} bs=1M count={mebibytes} 2>/dev/null; exec sleep 600")
}

#[test]
fn disk_goes_to_those_who_keep_to_their_limits() {
    let disk = Disk::mount("disk", 256);
    let file = configuration(
        "disk",
        &json!({"evictionHard": {"nodefs.available": "60Mi"}, "imageMinimumGCAge": "0s",
                "evictionPressureTransitionPeriod": "1s"}),
    );
    let berth = Berth::with("disk", 202, &["--node-config", file.to_str().unwrap()]);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", "need"]).good();
    let limited = |limit: &str| resources(&json!({}), &json!({"ephemeral-storage": limit}));
    let volume = json!({
        "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "4Mi"}}],
        "containers": [{"volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
    });
    let mut two = pod("two", &write(6, "/x"), limited("4Mi"));
    let mut second = two["spec"]["containers"][0].clone();
    merge(
        &mut second,
        json!({"name": "second", "command": ["sleep", "600"],
                              "resources": {"limits": {"ephemeral-storage": "100Mi"}}}),
    );
    two["spec"]["containers"].as_array_mut().unwrap().push(second);
    apply(
        &berth,
        &[
            pod("modest", &write(2, "/x"), limited("16Mi")),
            pod("volume", &write(8, "/cache/x"), volume),
            pod("layer", &write(8, "/x"), limited("4Mi")),
            two,
        ],
    )
    .good();
    for (name, message) in [
        ("volume", "Usage of EmptyDir volume \"cache\" exceeds the limit \"4Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
        ("two", "Container main exceeded its local ephemeral storage limit \"4Mi\". "),
    ] {
        until(&format!("{name} is evicted"), PATIENCE, || {
            get(&berth, name)["status"]["reason"] == "Evicted"
        });
        let status = &get(&berth, name)["status"];
        assert_eq!((&status["phase"], &status["message"]), (&json!("Failed"), &json!(message)));
    }
    runs(&berth, "modest");
    for (signal, count) in
        [("emptydirfs.limit", 1), ("ephemeralpodfs.limit", 1), ("ephemeralcontainerfs.limit", 1)]
    {
        counted(&berth, &format!("kubelet_evictions{{eviction_signal=\"{signal}\"}} {count}"));
    }

    // One takes what is left of the disk, and gives it back with its end.
    let before = disk.available();
    assert!(before > 100 * MIB, "the disk is too full for this test: {before}");
    apply(&berth, &[pod("greedy", &write(250, "/x"), json!({}))]).good();
    until("the greedy pod is evicted", PATIENCE, || {
        get(&berth, "greedy")["status"]["reason"] == "Evicted"
    });
    let message = get(&berth, "greedy")["status"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with(
            "The node was low on resource: ephemeral-storage. Threshold quantity: 60Mi, available: "
        ) && message.contains("request is 0, has larger consumption of ephemeral-storage. "),
        "{message}"
    );
    until("its room is back", PATIENCE, || disk.available() + 8 * MIB > before);
    until("the node is well again", PATIENCE, || {
        let node = berth.get(&["node", "node"]);
        condition(&node, "DiskPressure")["status"] == "False" && node["spec"]["taints"].is_null()
    });
    runs(&berth, "modest");
    assert_eq!(get(&berth, "modest")["status"]["containerStatuses"][0]["restartCount"], 0);
    images_go_first(&berth, &disk);
    // What was decided stays so for a server that comes after.
    let mut berth = berth;
    berth.kill_server();
    berth.start();
    for name in ["volume", "layer", "two", "greedy"] {
        assert_eq!(get(&berth, name)["status"]["reason"], "Evicted", "{name}");
    }
    berth.kubectl(&["delete", "pod", "greedy", "volume", "-n", "need"]).good();
    drop(berth);
    drop(disk);
}

/// Asks for another size of a pod's container.
fn resize(berth: &Berth, name: &str, requests: &Value, limits: &Value) {
    let wanted = json!({"name": "main", "resources": {"requests": requests, "limits": limits}});
    let patch = json!({"spec": {"containers": [wanted]}}).to_string();
    let words = ["patch", "pod", name, "-n", "need", "--subresource", "resize", "-p", &patch];
    Said::of(&berth.kubectl_of("1.33", &words).output().unwrap()).good();
}

/// Waits until a condition of a pod has a status and a reason, and returns it.
fn comes_to(berth: &Berth, name: &str, kind: &str, reason: &str) -> Value {
    until(&format!("{name} has {kind} {reason}"), PATIENCE, || {
        condition(&get(berth, name), kind)["reason"] == reason
    });
    condition(&get(berth, name), kind)
}

/// Waits until a pod's container is held to these limits.
fn is_held_to(berth: &Berth, name: &str, limits: &Value) -> Value {
    until(&format!("{name} is held to {limits}"), PATIENCE, || {
        let pod = get(berth, name);
        let quiet = ["PodResizePending", "PodResizeInProgress"]
            .iter()
            .all(|kind| condition(&pod, kind).is_null());
        quiet && pod["status"]["containerStatuses"][0]["resources"]["limits"] == *limits
    });
    get(berth, name)
}

#[test]
fn pods_change_their_size_while_they_run() {
    let berth = Berth::new("resize", 204);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", "need"]).good();
    let small = resources(
        &json!({"cpu": "100m", "memory": "64Mi"}),
        &json!({"cpu": "200m", "memory": "128Mi"}),
    );
    let mut anew = pod("anew", "exec sleep 600", small.clone());
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    anew["spec"]["containers"][0]["resizePolicy"] = policy;
    let whole = json!({"cpu": "300m", "memory": "96Mi"});
    let mut together = pod("together", "exec sleep 600", json!({}));
    together["spec"]["resources"] = json!({"limits": whole});
    apply(&berth, &[pod("grows", &hold(40), small), anew, together]).good();
    for name in ["grows", "anew", "together"] {
        runs(&berth, name);
    }
    let uid = |name: &str| get(&berth, name)["metadata"]["uid"].as_str().unwrap().to_owned();
    let level = format!("burstable/pod{}", uid("grows"));
    let held = |path: &str| {
        let memory = cgroup(&berth, path, ("memory", "memory.limit_in_bytes"), "memory.max");
        memory.parse::<u64>().unwrap() / MIB
    };
    // The pod as a whole, of which its containers say nothing.
    assert_eq!(get(&berth, "together")["status"]["qosClass"], "Guaranteed");
    assert_eq!(held(&format!("pod{}", uid("together"))), 96);

    let (requests, limits) =
        (json!({"cpu": "150m", "memory": "96Mi"}), json!({"cpu": "300m", "memory": "256Mi"}));
    resize(&berth, "grows", &requests, &limits);
    let pod = is_held_to(&berth, "grows", &limits);
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!((&status["restartCount"], &status["allocatedResources"]), (&json!(0), &requests));
    assert_eq!((held(&level), held(&format!("{level}/main.1"))), (256, 256));
    let quota = |path: &str| cgroup(&berth, path, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    for path in [level.clone(), format!("{level}/main.1")] {
        assert!(quota(&path).starts_with("30000"), "{path}: {}", quota(&path));
    }
    let events = berth.kubectl(&["get", "events", "-n", "need"]).good();
    assert!(events.contains("ResizeCompleted"), "{events}");

    // Nobody is held to less than he uses; with a little more it is done.
    let less = json!({"cpu": "300m", "memory": "24Mi"});
    let least = json!({"cpu": "150m", "memory": "16Mi"});
    resize(&berth, "grows", &least, &less);
    let waits = comes_to(&berth, "grows", "PodResizeInProgress", "Error");
    let message = waits["message"].as_str().unwrap();
    assert!(message.contains("memory limit (25165824) below current usage ("), "{message}");
    assert_eq!(waits["observedGeneration"], get(&berth, "grows")["metadata"]["generation"]);
    // Nor is the pod, whose share is what is promised, and nobody was ended for it.
    assert_eq!((held(&level), held(&format!("{level}/main.1"))), (256, 256));
    let shares = cgroup(&berth, &level, ("cpu", "cpu.shares"), "cpu.weight");
    assert!(["153", "6"].contains(&shares.trim()), "{shares}");
    assert_eq!(get(&berth, "grows")["status"]["containerStatuses"][0]["restartCount"], 0);
    let enough = json!({"cpu": "300m", "memory": "100Mi"});
    resize(&berth, "grows", &least, &enough);
    let pod = is_held_to(&berth, "grows", &enough);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!((held(&level), held(&format!("{level}/main.1"))), (100, 100));

    // Started anew, where it says so, and only for that.
    let limits = json!({"cpu": "200m", "memory": "130Mi"});
    resize(&berth, "anew", &json!({"cpu": "100m", "memory": "64Mi"}), &limits);
    let pod = is_held_to(&berth, "anew", &limits);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let limits = json!({"cpu": "250m", "memory": "130Mi"});
    resize(&berth, "anew", &json!({"cpu": "100m", "memory": "64Mi"}), &limits);
    until("it has been started anew", PATIENCE, || {
        let pod = get(&berth, "anew");
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
            && condition(&pod, "Ready")["status"] == "True"
    });
    is_held_to(&berth, "anew", &limits);
    let of_anew = format!("burstable/pod{}/main.2", uid("anew"));
    assert!(quota(&of_anew).starts_with("25000"), "{}", quota(&of_anew));
    what_does_not_fit_waits(&berth);
}

/// More than there is will never be; more than there is just now comes when others leave.
fn what_does_not_fit_waits(berth: &Berth) {
    let node = berth.get(&["node", "node"]);
    let all = node["status"]["allocatable"]["cpu"].as_str().unwrap().to_owned();
    let all = all
        .strip_suffix('m')
        .map_or_else(|| all.parse::<i64>().unwrap() * 1000, |milli| milli.parse().unwrap());
    let size = |milli: i64| json!({"cpu": format!("{milli}m"), "memory": "64Mi"});
    let limits = |milli: i64| json!({"cpu": format!("{milli}m"), "memory": "130Mi"});
    // What the other pods of this story have taken is 100, 150 and 300 thousandths.
    let rest = all - 550;
    let asks = json!({"cpu": format!("{}m", rest - 50)});
    apply(berth, &[pod("other", "exec sleep 600", resources(&asks, &json!({})))]).good();
    runs(berth, "other");
    resize(berth, "grows", &size(all + 1), &limits(all + 1));
    let never = comes_to(berth, "grows", "PodResizePending", "Infeasible");
    let message = never["message"].as_str().unwrap();
    assert!(message.starts_with("Node didn't have enough capacity: cpu, requested: "), "{message}");
    resize(berth, "grows", &size(250), &limits(300));
    let later = comes_to(berth, "grows", "PodResizePending", "Deferred");
    let message = later["message"].as_str().unwrap();
    assert!(
        message.starts_with("Node didn't have enough resource: cpu, requested: 250, used: "),
        "{message}"
    );
    // Nor does the node take in what comes past the scheduler.
    let asks = json!({"cpu": "100m"});
    let mut past = pod("past", "true", resources(&asks, &json!({})));
    past["spec"]["nodeName"] = json!("node");
    apply(berth, &[past]).good();
    until("it is refused", PATIENCE, || get(berth, "past")["status"]["reason"] == "OutOfcpu");
    let message = get(berth, "past")["status"]["message"].as_str().unwrap().to_owned();
    let wanted = "Pod was rejected: Node didn't have enough resource: cpu, requested: 100, used: ";
    assert!(message.starts_with(wanted), "{message}");
    // The scheduler charges what is asked for, too.
    let patient = resources(&json!({"cpu": "20m"}), &json!({}));
    apply(berth, &[pod("patient", "exec sleep 600", patient)]).good();
    until("it waits", PATIENCE, || {
        let scheduled = condition(&get(berth, "patient"), "PodScheduled");
        scheduled["message"].as_str().is_some_and(|text| text.contains("Insufficient cpu"))
    });
    berth.kubectl(&["delete", "pod", "other", "-n", "need"]).good();
    let pod = is_held_to(berth, "grows", &limits(300));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    runs(berth, "patient");
}

/// What can be had again goes before anybody is ended, and what cannot stays.
fn images_go_first(berth: &Berth, disk: &Disk) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Dockerfile"), "FROM busybox\nCOPY data /data\n").unwrap();
    for (name, mebibytes) in [("pulled", 40), ("built", 4)] {
        let data: Vec<u8> = name.bytes().cycle().take(mebibytes << 20).collect();
        fs::write(folder.path().join("data"), data).unwrap();
        berth.berth(&["build", "-t", name, folder.path().to_str().unwrap()]).good();
    }
    // As if it had come from a registry, and nobody built anything here.
    fs::remove_dir_all(berth.data.join("images/cache")).unwrap();
    fs::create_dir(berth.data.join("images/cache")).unwrap();
    let note = |kind: &str| berth.data.join("images").join(kind).join("docker.io/library/pulled");
    crate::support::copy_tree(&note("tags"), &note("pulled"));
    let room = disk.available();
    let filler = fs::File::create(disk.0.join("filler")).unwrap();
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, room - 50 * MIB)
        .unwrap();
    until("there is room again", PATIENCE, || disk.available() > 80 * MIB);
    let images = berth.berth(&["image", "ls"]).good();
    assert!(images.contains("built") && !images.contains("pulled"), "{images}");
    assert_eq!(get(berth, "modest")["status"]["phase"], "Running");
    fs::remove_file(disk.0.join("filler")).unwrap();
}

/// Huge pages of the machine for a test, and as many as before afterwards.
struct Pages(String);

impl Pages {
    const PLACE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn set_apart(count: u32) -> Self {
        let before = fs::read_to_string(Self::PLACE).expect("the kernel has huge pages");
        fs::write(Self::PLACE, count.to_string()).unwrap();
        Self(before)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        fs::write(Self::PLACE, self.0.trim()).expect("they were written before");
    }
}

#[test]
fn huge_pages_go_to_those_who_asked_for_them() {
    let pages = Pages::set_apart(8);
    let berth = Berth::new("pages", 206);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", "need"]).good();
    let allocatable = &berth.get(&["node", "node"])["status"]["allocatable"];
    assert_eq!(allocatable["hugepages-2Mi"], "16Mi");
    // The third page is one more than it may have.
    let line = "fallocate -l 4194304 /huge/two && echo two; fallocate -l 2097152 /huge/more 2>/dev/null || echo no; exec sleep 600";
    let held = json!({"hugepages-2Mi": "4Mi", "memory": "32Mi", "cpu": "100m"});
    let mut asks = pod("asks", line, resources(&held, &held));
    merge(
        &mut asks["spec"],
        json!({
            "volumes": [{"name": "huge", "emptyDir": {"medium": "HugePages"}}],
            "containers": [{"volumeMounts": [{"name": "huge", "mountPath": "/huge"}]}],
        }),
    );
    let much = json!({"hugepages-2Mi": "32Mi", "memory": "32Mi", "cpu": "100m"});
    let direct = json!({"nodeName": "node"});
    let mut unlucky = pod("unlucky", "true", resources(&much, &much));
    merge(&mut unlucky["spec"], direct);
    apply(&berth, &[asks, pod("waits", "true", resources(&much, &much)), unlucky]).good();
    runs(&berth, "asks");
    until("it has tried", PATIENCE, || {
        berth.kubectl(&["logs", "asks", "-n", "need"]).good().ends_with("no\n")
    });
    let said = berth.kubectl(&["logs", "asks", "-n", "need"]).good();
    assert!(said.starts_with("two\n"), "{said}");
    until("the scheduler says why", PATIENCE, || {
        let scheduled = condition(&get(&berth, "waits"), "PodScheduled");
        scheduled["message"].as_str().is_some_and(|it| it.contains("Insufficient hugepages-2Mi"))
    });
    until("the node says why", PATIENCE, || {
        get(&berth, "unlucky")["status"]["reason"] == "OutOfhugepages-2Mi"
    });
    drop(berth);
    drop(pages);
}

#[test]
fn a_node_short_of_process_numbers_takes_nobody_in() {
    // More than any kernel has numbers for.
    let file = configuration("pids", &json!({"evictionHard": {"pid.available": "10M"}}));
    let berth = Berth::with("pids", 208, &["--node-config", file.to_str().unwrap()]);
    berth.kubectl(&["create", "namespace", "need"]).good();
    until("the node says so", PATIENCE, || {
        let node = berth.get(&["node", "node"]);
        condition(&node, "PIDPressure")["status"] == "True"
            && node["spec"]["taints"].to_string().contains("node.kubernetes.io/pid-pressure")
    });
    let mut bearing = pod("bearing", "true", json!({}));
    bearing["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let asks = resources(&json!({"cpu": "1m"}), &json!({}));
    apply(&berth, &[bearing, pod("waits", "true", asks)]).good();
    until("one is refused", PATIENCE, || {
        get(&berth, "bearing")["status"]["message"]
            == "Pod was rejected: The node had condition: [PIDPressure]. "
    });
    until("the other waits", PATIENCE, || {
        let scheduled = condition(&get(&berth, "waits"), "PodScheduled");
        let message = scheduled["message"].as_str().unwrap_or_default();
        message.contains("untolerated taint {node.kubernetes.io/pid-pressure: }")
    });
    whoever_is_refused_comes_back_slowly(&berth);
    // A mistake in the file ends the start, with its name.
    let wrong = configuration("wrong", &json!({"evictionHard": {"memory": "1Gi"}}));
    let words = ["serve", "--listen", "127.0.0.1:0", "--node-config", wrong.to_str().unwrap()];
    let said = berth.berth(&words).bad(1);
    assert!(said.contains("`evictionHard.memory`: can be one of memory.available"), "{said}");
}

fn whoever_is_refused_comes_back_slowly(berth: &Berth) {
    let template = pod("stubborn", "true", json!({"tolerations": [{"operator": "Exists"}]}));
    let labels = json!({"app": "stubborn"});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "stubborn", "namespace": "need"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]}},
    });
    let began = std::time::Instant::now();
    apply(berth, &[set]).good();
    let made = || {
        let all = berth.get(&["pods", "-n", "need", "-l", "app=stubborn"]);
        all["items"].as_array().unwrap().len()
    };
    until("it was refused twice and tried again", PATIENCE, || made() >= 3);
    // After one second and after two, each from a time that is known to the second.
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(made(), 3);
}
