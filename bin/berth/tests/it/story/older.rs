//! Pods that an older version left, which know less about themselves.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Berth, Said, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// Takes away what the first version did not write, and what it did not make.
fn make_old(pod: &Path) {
    let record = pod.join("pod.json");
    let mut known: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let fields = known.as_object_mut().unwrap();
    for name in ["cgroup", "sizes", "failed"] {
        assert!(fields.remove(name).is_some(), "{name} is not in {fields:?}");
    }
    known["containers"]["main"].as_object_mut().unwrap().remove("resizing");
    std::fs::write(record, known.to_string()).unwrap();
    let shared = pod.join("shm");
    Said::of(&Command::new("umount").arg("-l").arg(&shared).output().unwrap()).good();
    std::fs::remove_dir(shared).unwrap();
}

#[test]
fn a_pod_of_an_older_version_is_kept_and_its_container_started_again() {
    let mut berth = Berth::new("older", 216);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    // Of the quality whose pods lie where the first version put all.
    let size = json!({"cpu": "100m", "memory": "64Mi"});
    let line = "until [ -e /end ]; do sleep 0.1; done";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "old"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", line], "resources": {"limits": size, "requests": size}}]}});
    let path = berth.data.join("pod.json");
    std::fs::write(&path, pod.to_string()).unwrap();
    berth.kubectl(&["create", "-f", &path.display().to_string()]).good();
    let status = |berth: &Berth| berth.get(&["pod", "old"])["status"].clone();
    let ready = |berth: &Berth, restarts: u32| {
        until(&format!("ready after {restarts} restarts"), PATIENCE, || {
            let container = status(berth)["containerStatuses"][0].clone();
            container["ready"] == true && container["restartCount"] == restarts
        });
    };
    ready(&berth, 0);
    let uid = berth.get(&["pod", "old"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let before = berth.processes(&uid);
    berth.kill_server();
    let folder = berth.data.join("pods").join(&uid);
    make_old(&folder);
    berth.start();
    ready(&berth, 0);
    assert_eq!(berth.processes(&uid)[0], before[0], "it went on");
    berth.kubectl(&["exec", "old", "--", "touch", "/end"]).good();
    ready(&berth, 1);
    let shared = berth.kubectl(&["exec", "old", "--", "df", "/dev/shm"]).good();
    assert!(shared.contains("65536"), "as much as always: {shared}");
    let known: Value =
        serde_json::from_slice(&std::fs::read(folder.join("pod.json")).unwrap()).unwrap();
    assert!(known["cgroup"].as_str().unwrap().ends_with(&format!("/pod{uid}")), "{known}");
    assert_eq!(known["sizes"]["main"]["applied"]["limits"], size);
    berth.kubectl(&["delete", "pod", "old"]).good();
    until("nothing of it is left", PATIENCE, || {
        berth.processes(&uid).is_empty() && !folder.exists()
    });
}
