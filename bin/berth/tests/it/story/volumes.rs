//! Volumes of pods: what is made from objects follows them, memory is shared, claims of a pod come and go with it.

use std::time::Duration;

use crate::support::{Berth, until};

const SHORT: Duration = Duration::from_secs(20);

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: low, extra: one}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hidden}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {team: red}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sleep, infinity]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one, subPath: level}
    - {name: all, mountPath: /all}
    - {name: memory, mountPath: /memory}
    - {name: data, mountPath: /data}
  - name: side
    image: busybox
    imagePullPolicy: Never
    command: [sleep, infinity]
    volumeMounts:
    - {name: memory, mountPath: /memory}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - name: all
    projected:
      defaultMode: 0400
      sources:
      - secret: {name: key, items: [{key: password, path: deep/password}]}
      - configMap: {name: later, optional: true}
      - serviceAccountToken: {path: token, expirationSeconds: 600}
      - downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}
          - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: data
    ephemeral:
      volumeClaimTemplate:
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

#[test]
fn volumes_follow_what_they_are_made_from() {
    let mut berth = Berth::new("volume", 194);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let file = berth.data.join("objects.yaml");
    std::fs::write(&file, OBJECTS).unwrap();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();
    berth.kubectl(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=40s"]).good();

    as_they_were_made(&berth);
    they_follow(&berth);
    nobody_elses_volume_is_opened(&berth);

    // An agent that was away catches up.
    berth.kill_server();
    berth.start();
    until("it is back", SHORT, || berth.kubectl(&["get", "nodes"]).code == 0);
    berth
        .kubectl(&["patch", "configmap", "settings", "-p", r#"{"data": {"level": "again"}}"#])
        .good();
    until("it follows again", SHORT, || read(&berth, "/settings/level") == "again");

    // The claim belongs to the pod, and so does what was mounted for it.
    let claim = berth.get(&["pvc", "reader-data"]);
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "reader");
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pods = berth.data.join("pods").display().to_string();
    assert!(mounts().contains(&pods));
    berth.kubectl(&["delete", "pod", "reader"]).good();
    until("nothing is mounted", SHORT, || !mounts().contains(&pods));
    until("the claim is gone", SHORT, || {
        berth.kubectl(&["get", "pvc", "-o", "name"]).good().is_empty()
    });
}

/// A claim of another namespace that names the volume, and a pod that names the node, so that nobody looked at either.
const THIEF: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: mine, namespace: elsewhere}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Mi}}
  storageClassName: CLASS
  volumeName: VOLUME
---
apiVersion: v1
kind: Pod
metadata: {name: thief, namespace: elsewhere}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sleep, infinity]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: mine}}]
"#;

fn nobody_elses_volume_is_opened(berth: &Berth) {
    let ask = |words: &[&str], path: &str| {
        berth.kubectl(&[words, &["-o", &format!("jsonpath={path}")]].concat()).good()
    };
    let volume = ask(&["get", "pvc", "reader-data"], "{.spec.volumeName}");
    let class = ask(&["get", "pvc", "reader-data"], "{.spec.storageClassName}");
    let node = ask(&["get", "pod", "reader"], "{.spec.nodeName}");
    let text = THIEF.replace("VOLUME", &volume).replace("CLASS", &class).replace("NODE", &node);
    let file = berth.data.join("thief.yaml");
    std::fs::write(&file, text).unwrap();
    berth.kubectl(&["apply", "-f", file.to_str().unwrap()]).good();
    let waiting = "{.status.containerStatuses[0].state.waiting.message}";
    let thief = ["get", "pod", "thief", "-n", "elsewhere"];
    until("the thief is told", SHORT, || ask(&thief, waiting).contains("`mine` is not bound yet"));
    berth.kubectl(&["delete", "namespace", "elsewhere"]).good();
    assert_eq!(ask(&["get", "pvc", "reader-data"], "{.status.phase}"), "Bound");
}

fn exec(berth: &Berth, container: &str, script: &str) -> String {
    berth.kubectl(&["exec", "reader", "-c", container, "--", "sh", "-c", script]).good()
}

fn read(berth: &Berth, path: &str) -> String {
    exec(berth, "main", &format!("cat {path}"))
}

fn as_they_were_made(berth: &Berth) {
    assert_eq!(read(berth, "/settings/level"), "low");
    assert_eq!(read(berth, "/one"), "low");
    // The pod's group may read what has the mode 0400.
    assert_eq!(read(berth, "/all/deep/password"), "hidden");
    assert_eq!(exec(berth, "main", "stat -L -c %a:%g /all/deep/password"), "440:2000\n");
    assert_eq!(read(berth, "/all/labels"), "team=\"red\"\n");
    assert_eq!((read(berth, "/all/cpu"), read(berth, "/all/memory")), ("500".into(), "64".into()));
    assert_eq!(read(berth, "/all/token").split('.').count(), 3);
    let denied = exec(berth, "main", "touch /settings/x 2>&1 || true");
    assert!(denied.contains("Read-only"), "{denied}");
    // Memory is shared by the containers, and has its limit.
    exec(berth, "main", "echo shared > /memory/file");
    assert_eq!(exec(berth, "side", "cat /memory/file"), "shared\n");
    let full = exec(berth, "side", "head -c 2000000 /dev/zero > /memory/large 2>&1 || echo full");
    assert!(full.contains("full"), "{full}");
    exec(berth, "main", "echo kept > /data/file && test $(stat -c %g /data) = 2000");
}

fn they_follow(berth: &Berth) {
    let patch = |what: &str, change: &str| berth.kubectl(&["patch", what, "-p", change]).good();
    patch("configmap/settings", r#"{"data": {"level": "high", "extra": null, "new": "two"}}"#);
    until("the files follow", SHORT, || read(berth, "/settings/level") == "high");
    assert_eq!(exec(berth, "main", "ls /settings"), "level\nnew\n");
    // A file that is mounted by itself stays what it was, as upstream.
    assert_eq!(read(berth, "/one"), "low");
    patch("secret/key", r#"{"stringData": {"password": "other"}}"#);
    until("the secret follows", SHORT, || read(berth, "/all/deep/password") == "other");
    berth.kubectl(&["label", "pod", "reader", "team=blue", "--overwrite"]).good();
    until("the labels follow", SHORT, || read(berth, "/all/labels").contains("blue"));
    // What was optional and absent comes later.
    berth.kubectl(&["create", "configmap", "later", "--from-literal=here=now"]).good();
    until("it comes", SHORT, || exec(berth, "main", "cat /all/here 2>/dev/null || true") == "now");
}
