//! Two servers on one etcd: one cluster, of which either may die.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::etcd::Etcd;
use crate::support::{Berth, Said, until};

const SHORT: Duration = Duration::from_secs(20);
/// A lease is left to a dead holder for 15 s.
const TAKEOVER: Duration = Duration::from_secs(40);

const PUBLISHED: [&str; 6] =
    ["get", "endpointslices", "-l", "kubernetes.io/service-name=kubernetes", "-o", "name"];

fn holder(berth: &Berth, lease: &str) -> String {
    let found = berth.kubectl(&["get", "lease", lease, "-n", "kube-system", "-o", "json"]);
    let found: Value = serde_json::from_str(&found.good()).unwrap();
    found["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

fn deployment(name: &str) -> Vec<String> {
    let words =
        ["create", "deployment", name, "--image", "localhost/bootstrap/busybox", "--replicas", "2"];
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn two_servers_are_one_cluster_and_either_may_die() {
    let etcd = Etcd::start();
    let store = format!("etcd={}", etcd.url());
    let services = "10.179.0.0/16";
    let mut one = Berth::with("serone", 178, &["--store", &store, "--node-name", "one"]);

    let key = one.data.join("secrets.key").display().to_string();
    refusals(&store, services, &key);
    // The key file is all it takes, brought from the first server.
    let brought = tempfile::tempdir().unwrap();
    let copy = brought.path().join("secrets.key");
    std::fs::copy(&key, &copy).unwrap();
    let copied = copy.display().to_string();
    let words = [
        "--store",
        &store,
        "--node-name",
        "two",
        "--secrets-key",
        &copied,
        "--service-cidr",
        services,
    ];
    let two = Berth::with("sertwo", 180, &words);
    let authority = |berth: &Berth| std::fs::read(berth.data.join("pki/ca.crt")).unwrap();
    assert!(authority(&one) == authority(&two), "one cluster has one authority");
    // Who knows one server knows the other: the same certificate, the same token.
    let token = one.kubectl(&["create", "token", "default"]).good();
    let review = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token.trim()}});
    let path = two.data.join("review.json");
    std::fs::write(&path, review.to_string()).unwrap();
    let user = "jsonpath={.status.user.username}";
    let said = two.kubectl(&["create", "-o", user, "-f", &path.display().to_string()]).good();
    assert_eq!(said, "system:serviceaccount:default:default");

    // What is written here is seen there.
    let mut watch = two.kubectl_command(&["get", "configmap", "--watch", "--output", "name"]);
    let log = one.data.join("watch");
    watch.stdout(std::fs::File::create(&log).unwrap());
    let mut watching = watch.spawn().unwrap();
    one.kubectl(&["create", "configmap", "seen"]).good();
    until("the other server shows it", SHORT, || {
        std::fs::read_to_string(&log).unwrap().contains("configmap/seen")
    });
    watching.kill().unwrap();
    watching.wait().unwrap();
    until("both nodes are ready", SHORT, || {
        let ready = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
        two.kubectl(&["get", "nodes", "-o", ready]).good() == "True True"
    });
    assert_eq!(one.kubectl(&PUBLISHED).good().lines().count(), 2);

    new_keys(&one, &two, [Path::new(&key), &copy]);
    each_reaches_the_nodes_of_all(&one, &two);
    services_at_once(&one, &two);

    let orphan = running_on(&one, "one");
    let (leader, follower) = takeover(&mut one, &two);
    // A pod that goes while nobody is there to end it is ended by who comes back.
    two.kubectl(&["delete", "pod", "orphan", "--force", "--grace-period=0"]).good();
    assert!(!one.processes(&orphan).is_empty(), "it still runs");
    // A key that is made while it is away is known to it when it comes back.
    two.berth(&["secret", "rotate"]).good();
    two.kubectl(&["create", "secret", "generic", "late", "--from-literal=k=hidden"]).good();
    // It comes back, and does not lead.
    one.start();
    until("it is known again", SHORT, || two.kubectl(&PUBLISHED).good().lines().count() == 2);
    for secret in ["s", "late"] {
        assert_eq!(one.kubectl(&read(secret)).good(), "hidden");
    }
    assert_eq!(keys(Path::new(&key)).lines().count(), 4);
    assert_eq!(keys(Path::new(&key)), keys(&copy));
    assert_eq!(holder(&one, "kube-scheduler"), follower);
    until("the orphan is gone", SHORT, || one.processes(&orphan).is_empty());
    one.kubectl(&["delete", "deployment", "after", "--wait=false"]).good();
    until("pods are gone", TAKEOVER, || {
        one.kubectl(&["get", "pods", "-o", "name"]).good().is_empty()
    });
    drop(two);
    // One that stops in order leaves the lead at once.
    until("the lead is back", Duration::from_secs(8), || holder(&one, "kube-scheduler") == leader);
    // After a theft nobody is told of the new key: who has only the older one does not join.
    one.berth(&["secret", "rotate", "--alone"]).good();
    assert_eq!(one.kubectl(&read("s")).good(), "hidden");
    let words = ["--node-name", "two", "--service-cidr", services, "--secrets-key", &copied];
    let said = join(&store, &words);
    assert!(said.contains("does not fit the store"), "{said}");
    drop(one);
}

/// Starts a pod on a node and returns its UID.
fn running_on(berth: &Berth, node: &str) -> String {
    let chosen = format!(r#"{{"spec": {{"nodeName": "{node}"}}}}"#);
    let image = ["--image=busybox", "--image-pull-policy=Never"];
    let words = ["--overrides", &chosen, "--", "sleep", "1000"];
    berth.kubectl(&[&["run", "orphan"], &image[..], &words[..]].concat()).good();
    let ready = ["wait", "--for=condition=Ready", "--timeout=30s", "pod/orphan"];
    berth.kubectl(&ready).good();
    berth.kubectl(&["get", "pod", "orphan", "-o", "jsonpath={.metadata.uid}"]).good()
}

/// Logs, commands and streams of a pod, asked of the server that has it not.
fn each_reaches_the_nodes_of_all(one: &Berth, two: &Berth) {
    let script = "echo here; exec httpd -f -p 8000 -h /etc";
    for (berth, node) in [(one, "one"), (two, "two")] {
        berth.berth(&["image", "bootstrap", "busybox"]).good();
        let name = format!("on-{node}");
        let chosen = format!(r#"{{"spec": {{"nodeName": "{node}"}}}}"#);
        let image = "--image=busybox";
        one.kubectl(&[
            "run",
            &name,
            image,
            "--image-pull-policy=Never",
            "--overrides",
            &chosen,
            "--",
            "sh",
            "-c",
            script,
        ])
        .good();
    }
    for (berth, pod) in [(two, "on-one"), (one, "on-two")] {
        berth
            .kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", &format!("pod/{pod}")])
            .good();
        until("its log is there", SHORT, || berth.kubectl(&["logs", pod]).good() == "here\n");
        assert_eq!(berth.kubectl(&["exec", pod, "--", "hostname"]).good(), format!("{pod}\n"));
        let failed = berth.kubectl(&["exec", pod, "--", "sh", "-c", "exit 7"]);
        assert_eq!(failed.code, 7, "{}", failed.errors);
        let copied = berth.data.join("copied");
        let from = format!("{pod}:/etc/passwd");
        berth.kubectl(&["cp", &from, &copied.display().to_string()]).good();
        assert!(std::fs::read_to_string(&copied).unwrap().contains("root:"));
        // What it serves, through the server of either node.
        let path = format!("/api/v1/namespaces/default/pods/{pod}:8000/proxy/passwd");
        for berth in [one, two] {
            assert!(berth.kubectl(&["get", "--raw", &path]).good().contains("root:"));
        }
    }
    // And what they use, all of it from each.
    for berth in [one, two] {
        for (what, count) in [("node", 2), ("pod", 2)] {
            until("both nodes tell", SHORT, || {
                let said = berth.kubectl(&["top", what, "--no-headers"]);
                said.code == 0 && said.output.lines().count() == count
            });
        }
    }
    one.kubectl(&["delete", "pod", "on-one", "on-two", "--force"]).good();
}

/// What a server says that must not join.
fn join(store: &str, extra: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["serve", "--listen", "127.0.0.1:0", "--instance", "bserno", "--store", store])
        .args(["--pod-cidr", "10.182.0.0/16"])
        .args(extra)
        .arg("--data-dir")
        .arg(folder.path())
        .output()
        .unwrap();
    Said::of(&output).bad(1)
}

/// Those who must not join.
fn refusals(store: &str, services: &str, key: &str) {
    // Without the key that seals Secrets nobody joins, and with other networks or the same name neither.
    let said = join(store, &["--node-name", "two", "--service-cidr", services]);
    assert!(said.contains("secrets.key") && said.contains("sealed values"), "{said}");
    let said =
        join(store, &["--node-name", "one", "--service-cidr", services, "--secrets-key", key]);
    assert!(said.contains("--node-name"), "{said}");
    let said = join(
        store,
        &["--node-name", "two", "--service-cidr", "10.183.0.0/16", "--secrets-key", key],
    );
    assert!(said.contains("--service-cidr 10.179.0.0/16"), "{said}");
}

/// Kills the first server, which leads; returns what both call themselves.
fn takeover(one: &mut Berth, two: &Berth) -> (String, String) {
    // The leader dies. The other takes over within the lease's time.
    let leader = std::fs::read_to_string(one.data.join("server.id")).unwrap();
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        assert_eq!(holder(two, lease), leader);
    }
    one.kill_server();
    let create = deployment("after");
    two.kubectl(&create.iter().map(String::as_str).collect::<Vec<_>>()).good();
    let follower = std::fs::read_to_string(two.data.join("server.id")).unwrap();
    until("the other server leads", TAKEOVER, || {
        ["kube-controller-manager", "kube-scheduler"]
            .iter()
            .all(|lease| holder(two, lease) == follower)
    });
    until("its controllers work", SHORT, || {
        let pods = two.kubectl(&["get", "pods", "-l", "app=after", "-o", "name"]).good();
        pods.lines().count() == 2
    });
    until("nobody is sent to the dead one", SHORT, || {
        two.kubectl(&PUBLISHED).good().trim() == "endpointslice.discovery.k8s.io/kubernetes-two"
    });
    let lease = [
        "get",
        "lease",
        "kube-scheduler",
        "-n",
        "kube-system",
        "-o",
        "jsonpath={.spec.leaseTransitions}",
    ];
    assert_eq!(two.kubectl(&lease).good(), "1");

    (leader, follower)
}

/// Both servers change the key that seals Secrets.
fn new_keys(one: &Berth, two: &Berth, files: [&Path; 2]) {
    // A new key is known to both, and what it seals is read by both.
    two.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=hidden"]).good();
    one.berth(&["secret", "rotate"]).good();
    two.berth(&["secret", "rotate"]).good();
    for berth in [one, two] {
        assert_eq!(berth.kubectl(&read("s")).good(), "hidden");
    }
    assert_eq!(keys(files[0]).lines().count(), 3);
    assert_eq!(keys(files[0]), keys(files[1]));
}

fn read(secret: &str) -> [&str; 5] {
    ["get", "secret", secret, "-o", "go-template={{.data.k | base64decode}}"]
}

fn keys(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

/// Both servers hand out Services at the same time, and none of what they hand out twice.
fn services_at_once(one: &Berth, two: &Berth) {
    const EACH: usize = 40;
    let list = |server: &str| {
        let items: Vec<Value> = (0..EACH)
            .map(|number| {
                serde_json::json!({"apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": format!("{server}-{number}")},
                    "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
            })
            .collect();
        serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    };
    let create = |berth: &Berth, name: &str| {
        let path = berth.data.join("services.json");
        std::fs::write(&path, list(name)).unwrap();
        let mut command = berth.kubectl_command(&["create", "-f"]);
        command.arg(path).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut both = [create(one, "a"), create(two, "b")];
    for client in &mut both {
        assert!(client.wait().unwrap().success());
    }
    let found = one.get(&["services"]);
    let mut seen = HashSet::new();
    for service in found["items"].as_array().unwrap() {
        let spec = &service["spec"];
        assert!(seen.insert(spec["clusterIP"].to_string()), "{spec}");
        let port = &spec["ports"][0]["nodePort"];
        assert!(port.is_null() || seen.insert(port.to_string()), "{spec}");
    }
    // And `kubernetes`, which has no node port.
    assert_eq!(seen.len(), 4 * EACH + 1);
    one.kubectl(&["delete", "service", "-l", "!component"]).good();
    let addresses = two.kubectl(&["get", "ipaddresses", "-o", "name"]).good();
    assert_eq!(addresses.lines().count(), 1, "{addresses}");
}
