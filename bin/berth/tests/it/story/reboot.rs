//! The machine goes down in the middle of everything, and comes up again: pods come back with their volumes. And a new version of the
//! program takes over what the old one runs, without a container noticing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Berth, Said, until};

const PATIENCE: Duration = Duration::from_secs(60);

const OBJECTS: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: first
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "echo begun >> /data/log"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "echo $RANDOM$RANDOM > /memory/mark; echo up >> /data/log; echo up >> /scratch/log; exec sleep 6000"]
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, imagePullPolicy: Never, command: [sleep, "6000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: busybox, imagePullPolicy: Never, command: [echo, said]}
"#;

fn prepare(name: &str, network: u8) -> Berth {
    let berth = Berth::new(name, network);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let file = berth.data.join("objects.yaml");
    fs::write(&file, OBJECTS).unwrap();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();
    for pod in ["keeper", "once"] {
        let pod = format!("pod/{pod}");
        berth.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=40s"]).good();
    }
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    berth.kubectl(&["wait", ended, "pod/done", "--timeout=40s"]).good();
    berth
}

fn state(berth: &Berth, pod: &str) -> Value {
    berth.get(&["pod", pod])["status"].clone()
}

fn read(berth: &Berth, path: &str) -> String {
    berth.kubectl(&["exec", "keeper", "-c", "main", "--", "cat", path]).good()
}

#[test]
fn pods_come_back_after_the_machine_went_down() {
    let mut berth = prepare("reboot", 224);
    let mark = read(&berth, "/memory/mark");
    let node = berth.get(&["node", "node"])["metadata"]["uid"].clone();
    power_off(&mut berth);
    assert_eq!(berth.traces(), "", "nothing outlives a machine but its disk");

    berth.start();
    until("the pod is back", PATIENCE, || {
        let state = state(&berth, "keeper");
        state["containerStatuses"][0]["restartCount"] == 1
            && state["containerStatuses"][0]["ready"] == true
    });
    let found = state(&berth, "keeper");
    let last = &found["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["reason"], "ContainerStatusUnknown", "{found}");
    // Its init containers ran again, on the same volumes; what was in memory is gone.
    assert_eq!(read(&berth, "/data/log"), "begun\nup\nbegun\nup\n");
    assert_eq!(read(&berth, "/scratch/log"), "up\nup\n");
    assert_ne!(read(&berth, "/memory/mark"), mark);
    // One that is not to be started again has failed, and what had ended well still has.
    until("the other is over", PATIENCE, || state(&berth, "once")["phase"] == "Failed");
    assert_eq!(state(&berth, "done")["phase"], "Succeeded");
    assert_eq!(berth.kubectl(&["logs", "done"]).good(), "said\n");
    assert_eq!(berth.get(&["node", "node"])["metadata"]["uid"], node, "the node is the same");
}

/// What a power cut leaves: the disk. No process ends in order, and the kernel forgets everything.
pub fn power_off(berth: &mut Berth) {
    berth.kill_server();
    let data = berth.data.display().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let log = fs::read_link(entry.path().join("fd/2")).unwrap_or_default();
        let ours = log.to_string_lossy().starts_with(&data);
        if let (true, Ok(pid)) = (ours, entry.file_name().to_string_lossy().parse::<i32>()) {
            kill(pid);
        }
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let top = hierarchy.path().join(&berth.instance);
        if top.exists() {
            until("its processes are gone", PATIENCE, || empty(&top));
        }
    }
    let links = run("ip", &["-o", "link"]);
    let name = |line: &str| line.split(": ").nth(1)?.split('@').next().map(str::to_owned);
    for link in links.lines().filter_map(name).filter(|name| name.contains(&berth.instance)) {
        // The other end of one that went takes it along.
        let _gone = Command::new("ip").args(["link", "del", &link]).output().unwrap();
    }
    for line in run("nft", &["list", "tables"]).lines().filter(|it| it.contains(&berth.instance)) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        run("nft", &[&["delete", "table"], &words[..]].concat());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let places: Vec<&str> = places.filter(|place| place.starts_with(&data)).collect();
    for place in places.iter().rev() {
        run("umount", &["--lazy", place]);
    }
    let address = format!("10.{}.", berth.network());
    for line in run("ip", &["-o", "addr"]).lines().filter(|line| line.contains(&address)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        run("ip", &["addr", "del", words[3], "dev", words[1]]);
    }
    for line in run("ip", &["route"]).lines().filter(|line| line.contains(&address)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        run("ip", &[&["route", "del"], &words[..]].concat());
    }
}

fn run(program: &str, words: &[&str]) -> String {
    Said::of(&Command::new(program).args(words).output().unwrap()).good()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // It may have ended by itself.
    let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Kills what is in a tree of cgroups and removes it; true once it is gone.
fn empty(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path());
        }
    }
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    processes.lines().filter_map(|pid| pid.parse().ok()).for_each(kill);
    fs::remove_dir(folder).is_ok()
}

#[test]
fn a_new_version_of_the_program_takes_over_without_a_restart() {
    let mut berth = prepare("newer", 226);
    let uid = berth.get(&["pod", "keeper"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let before = (berth.processes(&uid), read(&berth, "/memory/mark"));
    assert!(!before.0.is_empty());
    // As a package manager does: another file in the place of the one that runs.
    let program = berth.data.with_extension("program");
    fs::copy(env!("CARGO_BIN_EXE_berth"), &program).unwrap();
    let mut bytes = fs::read(&program).unwrap();
    bytes.extend_from_slice(b"a newer one");
    fs::remove_file(&program).unwrap();
    fs::write(&program, bytes).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, executable).unwrap();
    berth.stop_server();
    berth.set_program(&program);
    berth.start();

    until("its node is ready", PATIENCE, || {
        berth.kubectl(&["get", "node", "node"]).output.contains(" Ready ")
    });
    assert_eq!((berth.processes(&uid), read(&berth, "/memory/mark")), before);
    let state = state(&berth, "keeper");
    assert_eq!(state["containerStatuses"][0]["restartCount"], 0, "{state}");
    // What the old one runs obeys the new one.
    let main = rustix::process::Pid::from_raw(*before.0.first().unwrap()).unwrap();
    rustix::process::kill_process(main, rustix::process::Signal::KILL).unwrap();
    until("its end was seen, and it was started again", PATIENCE, || {
        let state = berth.get(&["pod", "keeper"])["status"].clone();
        state["containerStatuses"][0]["restartCount"] == 1
            && state["containerStatuses"][0]["ready"] == true
    });
    assert_eq!(read(&berth, "/scratch/log"), "up\nup\n");
    berth.kubectl(&["delete", "pod", "keeper", "once", "done"]).good();
    berth.set_program(Path::new(env!("CARGO_BIN_EXE_berth")));
    fs::remove_file(program).unwrap();
}

const LAST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "trap 'sleep 1; echo saved; exit 0' TERM; while :; do sleep 0.1; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - {name: main, image: busybox, imagePullPolicy: Never, command: [sleep, "6000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: system, namespace: kube-system}
spec:
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 600
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
"#;

#[test]
fn pods_end_in_order_before_the_machine_goes_down() {
    let mut berth = Berth::new("leave", 228);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let file = berth.data.join("objects.yaml");
    fs::write(&file, LAST).unwrap();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();
    let waited = ["wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=40s"];
    berth.kubectl(&waited).good();
    berth.berth(&["system", "shutdown", "--within", "5", "--critical", "9"]).bad(1);
    let said = berth.berth(&["system", "shutdown", "--within", "8", "--critical", "3"]).good();
    assert_eq!(said, "3 pods of node have ended\n");

    let end = |namespace: &str, pod: &str| {
        let status = berth.get(&["pod", "-n", namespace, pod])["status"].clone();
        assert_eq!((&status["phase"], &status["reason"]), (&"Failed".into(), &"Terminated".into()));
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        (ended["exitCode"].as_i64().unwrap(), ended["finishedAt"].as_str().unwrap().to_owned())
    };
    let (app, stubborn, system) =
        (end("default", "app"), end("default", "stubborn"), end("kube-system", "system"));
    assert_eq!((app.0, stubborn.0, system.0), (0, 137, 0), "only the stubborn one was killed");
    assert!(app.1 < stubborn.1 && stubborn.1 <= system.1, "{app:?} {stubborn:?} {system:?}");
    assert_eq!(berth.kubectl(&["logs", "app"]).good(), "saved\n");
    // Nobody is taken in any more, and the node says so.
    let words = ["-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}"];
    let node = berth.kubectl(&[&["get", "node", "node"][..], &words].concat()).good();
    assert_eq!(node, "node is shutting down");
    let late = LAST.split("---").next().unwrap().replace("name: app", "name: late");
    let late = late.replace("spec:\n", "spec:\n  nodeName: node\n");
    fs::write(&file, late).unwrap();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();
    until("the late one is refused", PATIENCE, || {
        state(&berth, "late")["reason"] == "NodeShutdown"
    });
    // After the machine has come up again it takes pods as before.
    berth.stop_server();
    berth.start();
    berth.kubectl(&["delete", "pod", "late"]).good();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();
    berth.kubectl(&["wait", "--for=condition=Ready", "pod/late", "--timeout=40s"]).good();
    berth.kubectl(&["delete", "pod", "late", "--grace-period=1"]).good();
}
