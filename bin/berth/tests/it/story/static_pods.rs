//! Pods that a node runs from files of its own, and what the API shows of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::etcd::Etcd;
use super::reboot::power_off;
use crate::support::{Berth, apply, condition, configuration, free_port, http, merge, until};

const PATIENCE: Duration = Duration::from_secs(30);
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A server whose folder of static pods is empty, and that folder.
fn begin(name: &str, network: u8, words: &[&str]) -> (Berth, PathBuf) {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let folder = data.join("static-pods");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    let berth = Berth::with(name, network, words);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    (berth, folder)
}

/// Writes a file as careful people do, and as text editors do not.
fn put(folder: &Path, name: &str, text: &str) {
    let draft = folder.join(format!(".{name}.new"));
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(draft, folder.join(name)).unwrap();
}

/// A pod of one container that runs a line of shell.
fn pod(name: &str, namespace: &str, line: &str, extra: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "busybox", "imagePullPolicy": "Never",
                "command": ["sh", "-c", line],
            }],
        },
    });
    merge(&mut pod["spec"], extra);
    pod
}

/// Serves a word, is ready when it does, and is ill when it is told so.
fn web(word: &str) -> Value {
    let line = format!(
        "mkdir -p /www; echo {word} > /www/index.html; echo serving {word}; exec httpd -f -p 8000 -h /www"
    );
    let exec = |line: &str| json!({"exec": {"command": ["sh", "-c", line]}, "periodSeconds": 1});
    let mut sick = exec("test ! -e /tmp/sick");
    sick["failureThreshold"] = 1.into();
    let ready = json!({"httpGet": {"port": 8000}, "periodSeconds": 1});
    let container = json!({"livenessProbe": sick, "readinessProbe": ready});
    pod("web", "default", &line, json!({"containers": [container]}))
}

fn mirror(berth: &Berth, namespace: &str, name: &str) -> Option<Value> {
    let said = berth.kubectl(&["get", "pod", name, "-n", namespace, "-o", "json"]);
    if said.code != 0 {
        assert!(said.errors.contains("NotFound"), "{}", said.errors);
        return None;
    }
    Some(serde_json::from_str(&said.output).unwrap())
}

fn is_ready(mirror: &Value) -> bool {
    condition(mirror, "Ready")["status"] == "True"
}

/// Waits for a mirror that shows a pod at work, with what else is wanted of it.
#[track_caller]
fn shown(berth: &Berth, namespace: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = None;
    let began = Instant::now();
    until(&format!("{name} is shown"), PATIENCE, || {
        last = mirror(berth, namespace, name);
        let good = last.as_ref().is_some_and(|mirror| is_ready(mirror) && wanted(mirror));
        assert!(good || began.elapsed() < PATIENCE - Duration::from_secs(1), "{last:?}");
        good
    });
    last.unwrap()
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The UID of the static pod that a mirror shows.
fn original(mirror: &Value) -> String {
    mirror["metadata"]["annotations"][MIRROR].as_str().unwrap().to_owned()
}

fn first_process(berth: &Berth, mirror: &Value) -> i32 {
    berth.processes(&original(mirror))[0]
}

fn events_of_node(berth: &Berth, reason: &str) -> String {
    let of = format!("involvedObject.kind=Node,reason={reason}");
    berth.kubectl(&["get", "events", "-A", "--field-selector", &of]).good()
}

#[test]
fn a_node_runs_pods_from_files() {
    let (mut berth, folder) = begin("static", 230, &[]);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    put(&folder, "web.yaml", &web("one").to_string());
    let first = it_is_shown_as_it_is(&berth);
    it_is_reached_through_its_mirror(&berth);
    what_is_done_to_the_mirror_does_nothing_to_the_pod(&berth, &first);
    it_is_probed_and_restarted(&berth);
    files_that_cannot_be_used_disturb_nobody(&berth, &folder);
    another_content_is_another_pod(&berth, &folder);
    it_outlives_the_server(&mut berth, &folder);
    nobody_else_makes_mirrors(&berth);
    what_the_api_refuses_to_show_runs_all_the_same(&berth, &folder);
    without_its_file_it_ends(&berth, &folder);
}

fn it_is_shown_as_it_is(berth: &Berth) -> Value {
    let found = shown(berth, "default", "web-node", |_| true);
    let node = berth.get(&["node", "node"]);
    let uid = original(&found);
    assert!(berth.data.join("pods").join(&uid).is_dir(), "the pod's own UID is that of its file");
    assert_ne!(found["metadata"]["uid"], json!(uid));
    for (name, wanted) in [("hash", uid.as_str()), ("source", "file")] {
        let name = format!("kubernetes.io/config.{name}");
        assert_eq!(found["metadata"]["annotations"][&name], wanted, "{found}");
    }
    assert_ne!(found["metadata"]["annotations"]["kubernetes.io/config.seen"], Value::Null);
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "node", "controller": true,
        "uid": node["metadata"]["uid"]}]);
    assert_eq!(found["metadata"]["ownerReferences"], owner);
    assert_eq!(found["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!(
        (&found["spec"]["nodeName"], &found["status"]["phase"]),
        (&json!("node"), &json!("Running"))
    );
    assert_eq!(
        (&found["spec"]["serviceAccountName"], &found["spec"]["volumes"]),
        (&Value::Null, &Value::Null)
    );
    assert!(found["status"]["podIP"].as_str().unwrap().starts_with("10.230."));
    // People find its events where they look for them.
    let described = berth.kubectl(&["describe", "pod", "web-node"]).good();
    assert!(described.contains("Started container main"), "{described}");
    found
}

fn it_is_reached_through_its_mirror(berth: &Berth) {
    let logs = berth.kubectl(&["logs", "web-node"]).good();
    assert!(logs.contains("serving one"), "{logs}");
    assert_eq!(berth.kubectl(&["exec", "web-node", "--", "hostname"]).good(), "web-node\n");
    assert_eq!(serves(berth), "one");
    let service = ["expose", "pod", "web-node", "--name", "web", "--port", "8000"];
    berth.kubectl(&service).good();
    until("its Service knows it", PATIENCE, || {
        let slices = berth.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]);
        slices.to_string().contains("\"ready\":true")
    });
}

/// What it says through `kubectl port-forward`.
fn serves(berth: &Berth) -> String {
    let port = free_port();
    let line = ["port-forward", "pod/web-node", &format!("{port}:8000")];
    let mut forward =
        berth.kubectl_command(&line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    // It says every connection, and ends where nobody listens.
    let mut lines = BufReader::new(forward.stdout.take().unwrap());
    lines.read_line(&mut said).unwrap();
    assert!(said.starts_with("Forwarding from"), "{said}");
    let answer = http("GET", port, "/", "").unwrap();
    forward.kill().unwrap();
    forward.wait().unwrap();
    answer.lines().last().unwrap_or_default().to_owned()
}

fn what_is_done_to_the_mirror_does_nothing_to_the_pod(berth: &Berth, first: &Value) {
    let process = first_process(berth, first);
    let uid = text(first, "/metadata/uid");
    berth.kubectl(&["label", "pod", "web-node", "app=other", "--overwrite"]).good();
    for line in [
        &["delete", "pod", "web-node", "--wait=false"][..],
        &["delete", "pod", "web-node", "--grace-period=0", "--force", "--wait=false"],
    ] {
        let before = text(&shown(berth, "default", "web-node", |_| true), "/metadata/uid");
        berth.kubectl(line).good();
        let back = shown(berth, "default", "web-node", |it| text(it, "/metadata/uid") != before);
        assert_eq!(first_process(berth, &back), process);
        assert_eq!(back["status"]["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(back["status"]["startTime"], first["status"]["startTime"]);
        assert_eq!(back["metadata"]["labels"]["app"], "web");
    }
    assert_ne!(text(&shown(berth, "default", "web-node", |_| true), "/metadata/uid"), uid);
    let said = berth.kubectl(&["debug", "web-node", "--image=busybox", "--", "true"]).bad(1);
    assert!(said.contains("static pods do not support ephemeral containers"), "{said}");
}

fn it_is_probed_and_restarted(berth: &Berth) {
    berth.kubectl(&["exec", "web-node", "--", "touch", "/tmp/sick"]).good();
    let count = |it: &Value| it["status"]["containerStatuses"][0]["restartCount"].clone();
    shown(berth, "default", "web-node", |it| count(it) == 1);
}

fn files_that_cannot_be_used_disturb_nobody(berth: &Berth, folder: &Path) {
    let before = shown(berth, "default", "web-node", |_| true);
    let process = first_process(berth, &before);
    let whole = web("one").to_string();
    let secret = json!({"volumes": [{"name": "s", "secret": {"secretName": "s"}}]});
    fs::write(folder.join("web.yaml"), &whole[..whole.len() / 2]).unwrap();
    put(folder, "secret.yml", &pod("secret", "default", "true", secret).to_string());
    put(folder, "same.json", &web("same").to_string());
    put(
        folder,
        "typo.yaml",
        &whole.replace("restart", "restrat").replace("containers", "contaners"),
    );
    for name in [".hidden.yaml", "notes.txt", "old.yaml~"] {
        fs::write(folder.join(name), pod("hidden", "default", "true", json!({})).to_string())
            .unwrap();
    }
    let log = || fs::read_to_string(berth.data.with_extension("log")).unwrap();
    for (file, why) in [
        ("web.yaml", "it is neither YAML nor JSON"),
        ("secret.yml", "`spec.volumes[0].secret` refers to another object of the API"),
        ("same.json", "pod `default/web-node` is that of `"),
        ("typo.yaml", "a pod has no such fields: spec.contaners"),
    ] {
        let about =
            format!("{}` of a static pod cannot be used: {why}", folder.join(file).display());
        until(&format!("{file} is said"), PATIENCE, || {
            events_of_node(berth, "InvalidStaticPod").contains(&about)
        });
        assert!(log().contains(&about), "{}", log());
    }
    put(folder, "good.yaml", &pod("good", "default", "exec sleep 600", json!({})).to_string());
    shown(berth, "default", "good-node", |_| true);
    let names = berth.kubectl(&["get", "pods", "-o", "name"]).good();
    assert_eq!(names, "pod/good-node\npod/web-node\n");
    // Mended, it says what it said before.
    fs::write(folder.join("web.yaml"), format!("# a remark\n{whole}")).unwrap();
    for name in ["secret.yml", "same.json", "typo.yaml", "good.yaml"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    until("the good one is gone", PATIENCE, || mirror(berth, "default", "good-node").is_none());
    let after = shown(berth, "default", "web-node", |_| true);
    assert_eq!(original(&after), original(&before));
    assert_eq!(first_process(berth, &after), process, "nobody ended it");
}

fn another_content_is_another_pod(berth: &Berth, folder: &Path) {
    let before = original(&shown(berth, "default", "web-node", |_| true));
    put(folder, "web.yaml", &web("two").to_string());
    let after = shown(berth, "default", "web-node", |it| original(it) != before);
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(serves(berth), "two");
    assert!(!berth.data.join("pods").join(&before).exists(), "nothing of the old one is left");
}

/// Says in a file of the node when it is asked to end, and takes its time.
fn polite(folder: &Path) -> Value {
    let line = "trap 'sleep 1; echo ended >> /out/said; exit 0' TERM; echo begun >> /out/said; while :; do sleep 0.1; done";
    let path = folder.parent().unwrap().join("said");
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(path.join("said"), "").unwrap();
    fs::set_permissions(path.join("said"), fs::Permissions::from_mode(0o666)).unwrap();
    let volume = json!({"terminationGracePeriodSeconds": 10,
        "volumes": [{"name": "out", "hostPath": {"path": path}}],
        "containers": [{"volumeMounts": [{"name": "out", "mountPath": "/out"}]}]});
    pod("polite", "kube-system", line, volume)
}

fn said(folder: &Path) -> String {
    fs::read_to_string(folder.parent().unwrap().join("said/said")).unwrap()
}

fn it_outlives_the_server(berth: &mut Berth, folder: &Path) {
    put(folder, "polite.yaml", &polite(folder).to_string());
    shown(berth, "kube-system", "polite-node", |_| true);
    until("it has begun", PATIENCE, || said(folder) == "begun\n");
    let web = shown(berth, "default", "web-node", |_| true);
    let process = first_process(berth, &web);
    berth.kill_server();
    fs::write(folder.join("web.yaml"), "{ half").unwrap();
    fs::remove_file(folder.join("polite.yaml")).unwrap();
    berth.start();
    let again = shown(berth, "default", "web-node", |_| true);
    assert_eq!(first_process(berth, &again), process);
    for field in ["/metadata/uid", "/status/startTime", "/status/containerStatuses/0/containerID"] {
        assert_eq!(text(&again, field), text(&web, field), "{field}");
    }
    assert_eq!(condition(&again, "Ready"), condition(&web, "Ready"), "it was ready all the time");
    until("the other has ended with grace", PATIENCE, || said(folder) == "begun\nended\n");
    until("it is gone", PATIENCE, || mirror(berth, "kube-system", "polite-node").is_none());
    put(folder, "web.yaml", &self::web("two").to_string());
    berth.stop_server();
    berth.start();
    let again = shown(berth, "default", "web-node", |_| true);
    assert_eq!(first_process(berth, &again), process);
}

fn nobody_else_makes_mirrors(berth: &Berth) {
    let mut claims = pod("claims", "default", "exec sleep 600", json!({"nodeName": "node"}));
    claims["metadata"]["annotations"] = json!({MIRROR: "0a"});
    let refused = apply(berth, &[claims.clone()]).bad(1);
    assert!(refused.contains("only a node can create a mirror pod"), "{refused}");
    claims["metadata"]["annotations"] = json!({"kubernetes.io/config.source": "file"});
    apply(berth, &[claims]).good();
    berth.kubectl(&["wait", "--for=condition=Ready", "pod/claims", "--timeout=30s"]).good();
    let made = format!("{MIRROR}=0a");
    let refused = berth.kubectl(&["annotate", "pod", "claims", &made]).bad(1);
    assert!(refused.contains("may not add mirror pod annotation"), "{refused}");
    // It is a pod like any other, and does not come back.
    berth.kubectl(&["delete", "pod", "claims", "--grace-period=1"]).good();
    assert!(mirror(berth, "default", "claims").is_none());
}

fn what_the_api_refuses_to_show_runs_all_the_same(berth: &Berth, folder: &Path) {
    let host = json!({"hostNetwork": true});
    let line = "echo on $(cat /proc/sys/kernel/hostname); exec sleep 600";
    put(folder, "host.yaml", &pod("host", "default", line, host.clone()).to_string());
    until("it is said why it is not shown", PATIENCE, || {
        let said = events_of_node(berth, "FailedMirrorPod");
        said.contains("static pod `default/host-node` runs, and the API cannot show it")
            && said.contains("violates PodSecurity")
    });
    let running = || {
        let pods = fs::read_dir(berth.data.join("pods")).unwrap().flatten();
        let count = |name: &str| berth.processes(name).len();
        pods.filter(|pod| count(&pod.file_name().to_string_lossy()) > 0).count()
    };
    until("it runs", PATIENCE, || running() == 2);
    assert!(mirror(berth, "default", "host-node").is_none());
    // In a namespace that is not there yet it waits to be shown; there it may be what it is.
    put(folder, "host.yaml", &pod("host", "machine", line, host).to_string());
    berth.kubectl(&["create", "namespace", "machine"]).good();
    let label = "pod-security.kubernetes.io/enforce=privileged";
    berth.kubectl(&["label", "namespace", "machine", label]).good();
    let found = shown(berth, "machine", "host-node", |_| true);
    assert_eq!(found["status"]["podIP"], found["status"]["hostIP"]);
    let logs = berth.kubectl(&["logs", "host-node", "-n", "machine"]).good();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(logs, format!("on {own}"));
    fs::remove_file(folder.join("host.yaml")).unwrap();
    until("it is gone", PATIENCE, || mirror(berth, "machine", "host-node").is_none());
}

fn without_its_file_it_ends(berth: &Berth, folder: &Path) {
    put(folder, "polite.yaml", &polite(folder).to_string());
    let polite = shown(berth, "kube-system", "polite-node", |_| true);
    let web = shown(berth, "default", "web-node", |_| true);
    fs::remove_file(folder.join("web.yaml")).unwrap();
    until("it is gone", PATIENCE, || mirror(berth, "default", "web-node").is_none());
    assert!(!berth.data.join("pods").join(original(&web)).exists());
    assert!(!berth.processes(&original(&polite)).is_empty(), "the other runs on");
    fs::remove_file(folder.join("polite.yaml")).unwrap();
    until("the other is gone", PATIENCE, || mirror(berth, "kube-system", "polite-node").is_none());
    assert_eq!(said(folder), "begun\nended\n", "it had the time it asked for");
    assert_eq!(fs::read_dir(berth.data.join("pods")).unwrap().count(), 0);
}

#[test]
fn it_comes_back_with_the_machine() {
    let (mut berth, folder) = begin("again", 234, &[]);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    put(&folder, "web.yaml", &web("here").to_string());
    let first = shown(&berth, "default", "web-node", |_| true);
    let said = berth.berth(&["system", "shutdown", "--within", "4", "--critical", "3"]).good();
    assert_eq!(said, "1 pods of node have ended\n");
    let ended = mirror(&berth, "default", "web-node").unwrap();
    assert_eq!(
        (&ended["status"]["phase"], &ended["status"]["reason"]),
        (&json!("Failed"), &json!("Terminated"))
    );
    assert_eq!(condition(&ended, "DisruptionTarget")["status"], "True");
    berth.stop_server();
    berth.start();
    let again = shown(&berth, "default", "web-node", |it| it["status"]["phase"] == "Running");
    assert_eq!(
        (&again["status"]["reason"], condition(&again, "DisruptionTarget")),
        (&Value::Null, Value::Null)
    );
    assert_eq!(again["metadata"]["uid"], first["metadata"]["uid"], "its mirror is the same");
    power_off(&mut berth);
    berth.start();
    let last = shown(&berth, "default", "web-node", |it| {
        it["status"]["containerStatuses"][0]["restartCount"] == 2
    });
    assert_eq!(original(&last), original(&first));
    assert_eq!(serves(&berth), "here");
    an_unregistered_node_does_all_it_can(&mut berth, &last);
    fs::remove_file(folder.join("web.yaml")).unwrap();
    until("it is gone", PATIENCE, || mirror(&berth, "default", "web-node").is_none());
}

/// The API answers, and takes nothing that the node says of itself.
fn an_unregistered_node_does_all_it_can(berth: &mut Berth, web: &Value) {
    let process = first_process(berth, web);
    let nowhere = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "nowhere"},
        "webhooks": [{
            "name": "nowhere.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"],
                "resources": ["nodes", "nodes/status"]}],
        }],
    });
    apply(berth, &[nowhere]).good();
    until("it is refused", PATIENCE, || {
        let said = berth.kubectl(&["label", "node", "node", "a=b", "--overwrite"]);
        said.code != 0 && said.errors.contains("failed calling webhook")
    });
    let socket = berth.data.join("device-plugins/kubelet.sock");
    let log = |berth: &Berth| fs::read_to_string(berth.data.with_extension("log")).unwrap();
    let again = |berth: &mut Berth| {
        berth.stop_server();
        assert!(log(berth).contains("server stopped, containers go on"), "{}", log(berth));
        let _was_left = fs::remove_file(&socket);
        berth.launch();
        until("it is said", PATIENCE, || {
            log(berth).contains("the node cannot be registered yet, static pods run")
        });
        until("device plugins are heard", PATIENCE, || UnixStream::connect(&socket).is_ok());
        assert_eq!(first_process(berth, web), process);
    };
    again(berth);
    // Also that server ends in good order.
    again(berth);
    berth.kubectl(&["delete", "validatingwebhookconfiguration", "nowhere"]).good();
    berth.is_ready();
    let now = shown(berth, "default", "web-node", |_| true);
    assert_eq!(first_process(berth, &now), process);
}

#[test]
fn it_needs_no_api_and_no_room() {
    let mut etcd = Etcd::start();
    let store = format!("etcd={}", etcd.url());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone.pods");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    // The node is short of process numbers, as no kernel has so many, and takes no pod in that it need not.
    let file = configuration(
        "alone",
        &json!({"staticPodPath": folder, "fileCheckFrequency": "1s",
                "evictionHard": {"pid.available": "10M"}}),
    );
    let words = ["--store", &store, "--node-config", file.to_str().unwrap()];
    let berth = Berth::with("alone", 232, &words);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    until("the folder is missed", PATIENCE, || {
        events_of_node(&berth, "InvalidStaticPod").contains("what runs goes on: it cannot be read")
    });
    until("the node is short", PATIENCE, || {
        condition(&berth.get(&["node", "node"]), "PIDPressure")["status"] == "True"
    });
    let mut direct = pod("direct", "default", "true", json!({"nodeName": "node"}));
    direct["metadata"]["annotations"] = json!({"kubernetes.io/config.source": "file"});
    apply(&berth, &[direct]).good();
    until("another is refused, whatever it says of itself", PATIENCE, || {
        berth.get(&["pod", "direct"])["status"]["reason"] == "Evicted"
    });
    let metrics = berth.kubectl(&["get", "--raw", "/api/v1/nodes/node/proxy/metrics"]).good();
    for line in
        ["kubelet_admission_rejections_total{reason=\"Evicted\"} 1", "kubelet_mirror_pods 0"]
    {
        assert!(metrics.lines().any(|known| known == line), "no {line} in\n{metrics}");
    }
    etcd.kill();
    // Nobody tells of a folder that was not there: it is looked at.
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    put(&folder, "web.yaml", &web("alone").to_string());
    let mut uid = String::new();
    until("it runs without an API", PATIENCE, || {
        let pods = fs::read_dir(berth.data.join("pods")).unwrap().flatten();
        let mut names = pods.map(|pod| pod.file_name().to_string_lossy().into_owned());
        let found = names.find(|name| !berth.processes(name).is_empty());
        uid = found.unwrap_or_default();
        !uid.is_empty()
    });
    etcd.run();
    let found = shown(&berth, "default", "web-node", |_| true);
    assert_eq!(original(&found), uid);
    // Without the folder nothing is known, so nothing ends.
    let missed = || {
        let log = fs::read_to_string(berth.data.with_extension("log")).unwrap();
        log.matches("of static pods cannot be used, what runs goes on").count()
    };
    let (before, away) = (missed(), folder.with_extension("away"));
    fs::rename(&folder, &away).unwrap();
    until("the folder is missed again", PATIENCE, || missed() > before);
    fs::rename(&away, &folder).unwrap();
    assert_eq!(berth.processes(&uid).len(), 1);
    fs::remove_file(folder.join("web.yaml")).unwrap();
    until("it is gone", PATIENCE, || mirror(&berth, "default", "web-node").is_none());
    drop(berth);
    fs::remove_dir_all(folder).unwrap();
}
