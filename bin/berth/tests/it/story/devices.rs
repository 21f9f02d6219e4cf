//! Devices of pods: block volumes of claims, seen, allowed and used as the claim says, and what device plugins offer.

mod plugin;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use self::plugin::{Plugin, WIDGET};
use crate::support::{Berth, until};

const SHORT: Duration = Duration::from_secs(20);

/// A block device of the machine, backed by a file.
struct Disk {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let output =
            Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { file, path: said.trim().into() }
    }

    /// Major and minor number as `stat` says them.
    fn numbers(&self) -> String {
        let device = std::fs::metadata(&self.path).unwrap().rdev();
        format!("{:x}:{:x}", rustix::fs::major(device), rustix::fs::minor(device))
    }

    fn read(&self, offset: u64, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.file.as_file().read_exact_at(&mut bytes, offset).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn apply(berth: &Berth, text: &str) {
    let file = berth.data.join("devices.yaml");
    std::fs::write(&file, text).unwrap();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();
}

fn volumes(one: &Disk, two: &Disk) -> String {
    let (one, two) = (one.path.display(), two.path.display());
    format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: files}}
spec:
  capacity: {{storage: 16Mi}}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  hostPath: {{path: /tmp}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: disk}}
spec:
  capacity: {{storage: 16Mi}}
  volumeMode: Block
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  local: {{path: {one}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node]}}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: other}}
spec:
  capacity: {{storage: 16Mi}}
  volumeMode: Block
  accessModes: [ReadWriteOnce]
  storageClassName: other
  hostPath: {{path: {two}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: disk}}
spec: {{storageClassName: by-hand, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: other}}
spec: {{storageClassName: other, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: files}}
spec: {{storageClassName: by-hand, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
"#
    )
}

/// A pod whose shell line sees the claim as the device `/dev/data`; `more` is of the pod's specification.
fn pod(name: &str, claim: &str, line: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {more}
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{{name: data, persistentVolumeClaim: {claim}}}]
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, '{line}']
    volumeDevices: [{{name: data, devicePath: /dev/data}}]
"#
    )
}

fn ended(berth: &Berth, name: &str) -> String {
    let phase = "--for=jsonpath={.status.phase}=Succeeded";
    let waited = berth.kubectl(&["wait", phase, &format!("pod/{name}"), "--timeout=40s"]);
    assert_eq!(waited.code, 0, "{}", berth.kubectl(&["describe", "pod", name]).good());
    berth.kubectl(&["logs", name]).good()
}

#[test]
fn a_claim_of_a_device_is_a_device_in_the_container() {
    let berth = Berth::new("block", 240);
    let (one, two) = (Disk::new(), Disk::new());
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    apply(&berth, &volumes(&one, &two));

    // In a user namespace, which may make no device itself.
    let line = "stat -c %t:%T /dev/data && busybox mke2fs /dev/data > /dev/null && printf kept | dd of=/dev/data bs=1k seek=9000 conv=notrunc 2> /dev/null && sync && dd if=/dev/data bs=1k skip=9000 count=1 2> /dev/null | head -c 4; head -c 1 /dev/kmsg 2> /dev/null || echo; grep -c . /proc/self/uid_map";
    apply(&berth, &pod("mapped", "{claimName: disk}", line, "hostUsers: false"));
    let said = ended(&berth, "mapped");
    assert!(said.starts_with(&format!("{}\nkept", one.numbers())), "{said}");
    assert_eq!(one.read(9000 << 10, 4), "kept");
    // The mark of the file system that was made.
    let mut mark = [0; 2];
    one.file.as_file().read_exact_at(&mut mark, 1024 + 56).unwrap();
    assert_eq!(mark, [0x53, 0xef]);
    assert_eq!(berth.get(&["pvc", "disk"])["spec"]["volumeName"], "disk");
    assert_eq!(berth.get(&["pvc", "files"])["spec"]["volumeName"], "files");

    // As somebody who is not root, on the host's users, through a path of the host.
    let line =
        "stat -c %t:%T:%u:%g /dev/data && printf mine | dd of=/dev/data conv=notrunc 2> /dev/null";
    let more = "hostUsers: true\n  securityContext: {runAsUser: 1000, runAsGroup: 1001}";
    apply(&berth, &pod("plain", "{claimName: other}", line, more));
    assert_eq!(ended(&berth, "plain"), format!("{}:1000:1001\n", two.numbers()));
    assert_eq!(two.read(0, 4), "mine");

    // What is only to be read is not written, whoever asks.
    let line = "head -c 4 /dev/data; printf lost | dd of=/dev/data conv=notrunc 2>&1 || true";
    apply(&berth, &pod("reader", "{claimName: other, readOnly: true}", line, "hostUsers: true"));
    let said = ended(&berth, "reader");
    assert!(said.starts_with("mine") && said.contains("Operation not permitted"), "{said}");
    assert_eq!(two.read(0, 4), "mine");

    // Neither is a directory.
    let line = "touch /data/berth-never 2>&1 || true";
    let frozen = pod("frozen", "{claimName: files, readOnly: true}", line, "").replace(
        "volumeDevices: [{name: data, devicePath: /dev/data}]",
        "volumeMounts: [{name: data, mountPath: /data}]",
    );
    apply(&berth, &frozen);
    let said = ended(&berth, "frozen");
    assert!(said.contains("Read-only file system"), "{said}");

    // A directory is no device, and a device no directory.
    apply(&berth, &pod("wrong", "{claimName: files}", "true", ""));
    let mounted = pod("mounted", "{claimName: disk}", "true", "").replace(
        "volumeDevices: [{name: data, devicePath: /dev/data}]",
        "volumeMounts: [{name: data, mountPath: /data}]",
    );
    apply(&berth, &mounted);
    for (name, why) in [
        ("wrong", "volumeMode Filesystem, but is specified in volumeDevices"),
        ("mounted", "volumeMode Block, but is specified in volumeMounts"),
    ] {
        let message = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError";
        berth.kubectl(&["wait", message, &format!("pod/{name}"), "--timeout=40s"]).good();
        let pod = berth.get(&["pod", name]);
        let said = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
        assert!(said.contains(why), "{said}");
    }
}

/// A pod that asks for widgets and goes on until it is told to end.
fn with_widgets(name: &str, count: u32, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {more}
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: first
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, 'echo $WIDGETS']
    resources: {{limits: {{example.com/widget: {count}}}}}
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 0.05; done']
    resources: {{limits: {{example.com/widget: {count}}}}}
"#
    )
}

/// How many widgets the node has, and how many are healthy.
fn widgets(berth: &Berth) -> (String, String) {
    let node = berth.get(&["node", "node"]);
    let text = |place: &str| node["status"][place][WIDGET].as_str().unwrap_or("none").to_owned();
    (text("capacity"), text("allocatable"))
}

fn until_widgets(berth: &Berth, all: &str, healthy: &str) {
    let wanted = (all.to_owned(), healthy.to_owned());
    until(&format!("the node has {wanted:?}"), SHORT, || widgets(berth) == wanted);
}

fn ready(berth: &Berth, name: &str) {
    let waited =
        berth.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=40s"]);
    assert_eq!(waited.code, 0, "{}", berth.kubectl(&["describe", "pod", name]).good());
}

fn exec(berth: &Berth, name: &str, line: &str) -> String {
    berth.kubectl(&["exec", name, "-c", "main", "--", "sh", "-c", line]).good()
}

#[test]
fn what_a_plugin_offers_is_handed_out_and_kept() {
    let mut berth = Berth::new("plugin", 242);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let folder = berth.data.join("device-plugins");
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("hello"), "from the vendor\n").unwrap();
    std::fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let socket = folder.join("kubelet.sock");
    until("plugins can register", SHORT, || socket.exists());
    let plugin = Plugin::start(&folder, shared.path());
    let refused = plugin.register("v2").unwrap_err();
    assert!(refused.message().contains("`v2`"), "{refused}");
    plugin.register("v1beta1").unwrap();
    until_widgets(&berth, "2", "2");

    // The one that the plugin prefers, with all that it says of it, in a user namespace.
    apply(&berth, &with_widgets("first", 1, ""));
    ready(&berth, "first");
    let line = "echo $WIDGETS; cat /widgets/hello; stat -c %t:%T /dev/widget0; head -c 1 /dev/widget0 | wc -c; echo x > /dev/widget0; touch /widgets/x; true";
    let said = exec(&berth, "first", &format!("{{ {line}; }} 2>&1"));
    assert!(said.starts_with("two\nfrom the vendor\n1:7\n1\n"), "{said}");
    assert!(said.contains("No space left on device") && said.contains("Read-only"), "{said}");
    // What ended before has had the same.
    assert_eq!(berth.kubectl(&["logs", "first", "-c", "first"]).good(), "two\n");
    assert_eq!(plugin.started(), ["two", "two"]);

    // The third has to wait for one of the others.
    apply(&berth, &with_widgets("second", 1, ""));
    ready(&berth, "second");
    assert_eq!(exec(&berth, "second", "echo $WIDGETS"), "one\n");
    apply(&berth, &with_widgets("third", 1, ""));
    until("the third waits", SHORT, || {
        let pod = berth.get(&["pod", "third"]);
        pod["status"]["conditions"].to_string().contains("Insufficient example.com/widget")
    });
    berth.kubectl(&["delete", "pod", "second"]).good();
    ready(&berth, "third");
    assert_eq!(exec(&berth, "third", "echo $WIDGETS"), "one\n");

    // Who has ended has none, and whoever waits for that may come at once.
    for count in 0..3 {
        let name = format!("short-{count}");
        let short = with_widgets(&name, 1, "restartPolicy: Never")
            .replace("trap \"exit 0\" TERM; while :; do sleep 0.05; done", "true");
        if count == 0 {
            berth.kubectl(&["delete", "pod", "third"]).good();
        }
        apply(&berth, &short);
        assert_eq!(ended(&berth, &name), "");
    }
    apply(&berth, &with_widgets("third", 1, ""));
    ready(&berth, "third");

    // Another agent knows who has what; until the plugin is back there is none to be had.
    berth.kill_server();
    berth.start();
    until_widgets(&berth, "0", "0");
    until("plugins can register again", SHORT, || plugin.register("v1beta1").is_ok());
    until_widgets(&berth, "2", "2");
    plugin.started();
    assert_eq!(exec(&berth, "third", "echo $WIDGETS"), "one\n");
    exec(&berth, "first", "kill 1");
    until("it is started again", SHORT, || {
        let pod = berth.get(&["pod", "first"]);
        let main = &pod["status"]["containerStatuses"][0];
        main["restartCount"] == 1 && main["ready"] == true
    });
    assert_eq!(exec(&berth, "first", "echo $WIDGETS"), "two\n");
    assert_eq!(plugin.started(), ["two"]);

    // What is not healthy is not handed out.
    plugin.set_health(&[("one", true), ("two", false)]);
    until_widgets(&berth, "2", "1");
    berth.kubectl(&["delete", "pod", "first"]).good();
    rejected(&berth, "unfit", "Requested: 1, Available: 0");
    plugin.set_health(&[("one", true), ("two", true), ("three", true)]);
    until_widgets(&berth, "3", "3");

    // Without the plugin there is none, and those who have one keep it.
    drop(plugin);
    until_widgets(&berth, "0", "0");
    assert_eq!(exec(&berth, "third", "echo $WIDGETS"), "one\n");
    rejected(&berth, "late", "Requested: 1, Available: 0");
    let plugin = Plugin::start(&folder, shared.path());
    plugin.register("v1beta1").unwrap();
    until_widgets(&berth, "2", "2");
    apply(&berth, &with_widgets("last", 1, ""));
    ready(&berth, "last");
    assert_eq!(exec(&berth, "last", "echo $WIDGETS"), "two\n");
    ends_without_its_shim(&mut berth, &plugin);
}

/// Whoever lost its shim while no agent ran counts as ended, and is, before another gets its device.
fn ends_without_its_shim(berth: &mut Berth, plugin: &Plugin) {
    berth.kubectl(&["delete", "pod", "last"]).good();
    apply(berth, &with_widgets("orphan", 1, "restartPolicy: Never"));
    ready(berth, "orphan");
    let uid = berth.get(&["pod", "orphan"])["metadata"]["uid"].as_str().unwrap().to_owned();
    berth.kill_server();
    let process = process_of(&uid);
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    assert!(Command::new("kill").args(["-9", shim]).status().unwrap().success());
    assert!(is_alive(process), "it outlives its shim");
    berth.start();
    berth
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/orphan", "--timeout=40s"])
        .good();
    assert!(!is_alive(process), "it has ended before that is told");
    until("plugins can register again", SHORT, || plugin.register("v1beta1").is_ok());
    until_widgets(berth, "2", "2");
    apply(berth, &with_widgets("heir", 1, ""));
    ready(berth, "heir");
    assert_eq!(exec(berth, "heir", "echo $WIDGETS"), "two\n");
}

/// The first process of the container `main` of a pod.
fn process_of(uid: &str) -> u32 {
    let place = format!("pod{uid}/main.1");
    let is_there = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|it| it.contains(&place))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok());
    all.filter(is_there).min().expect("its process is there")
}

fn is_alive(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|text| !text.rsplit(')').next().unwrap().starts_with(" Z"))
}

/// A pod that goes to the node by itself, and is not taken in.
fn rejected(berth: &Berth, name: &str, why: &str) {
    apply(berth, &with_widgets(name, 1, "nodeName: node"));
    let reason = "--for=jsonpath={.status.reason}=UnexpectedAdmissionError";
    berth.kubectl(&["wait", reason, &format!("pod/{name}"), "--timeout=40s"]).good();
    let message = berth.get(&["pod", name])["status"]["message"].to_string();
    let wanted = "requested number of devices unavailable for example.com/widget";
    assert!(message.contains(wanted) && message.contains(why), "{message}");
}
