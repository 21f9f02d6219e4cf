//! `kubectl debug` of pods by a copy of them, and of nodes.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Berth, Said, until};

/// The image is here; a registry need not be asked.
const KEEP: &str = "--image-pull-policy=IfNotPresent";
const SHORT: Duration = Duration::from_secs(20);
const MINORS: [&str; 3] = ["1.29", "1.31", "1.33"];

#[test]
fn copies_and_nodes_are_looked_into() {
    let berth = Berth::new("debug", 196);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", "look"]).good();
    let serve = "mkdir /www && echo hi > /www/index.html && httpd -f -p 8000 -h /www";
    let run = ["run", "web", "--namespace=look", "--image=busybox", KEEP, "--", "sh", "-c", serve];
    berth.kubectl(&run).good();
    host_namespaces_go_with_no_user_namespace(&berth);
    for minor in MINORS {
        let kubectl =
            |words: &[&str]| berth.kubectl_of(minor, &[&["--namespace", "look"], words].concat());
        a_copy_shares_its_processes(minor, &kubectl);
        a_copy_has_other_images(minor, &kubectl);
        a_node_is_looked_into(minor, &berth, &kubectl);
    }
}

type Kubectl<'k> = &'k dyn Fn(&[&str]) -> Command;

fn said(mut command: Command) -> Said {
    Said::of(&command.output().expect("kubectl starts"))
}

/// Runs with this on its standard input.
fn fed(mut command: Command, input: &str) -> Said {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("a line fits a pipe");
    drop(stdin);
    Said::of(&child.wait_with_output().expect("it ends"))
}

/// The container that is added sees the other's processes and files, and its signals reach them.
fn a_copy_shares_its_processes(minor: &str, kubectl: Kubectl<'_>) {
    let copy = format!("copy-{}", minor.replace('.', "-"));
    let to = format!("--copy-to={copy}");
    // What is started beside it may be up first.
    let look = "while ! pidof httpd; do sleep 0.1; done; cat /proc/$(pidof httpd)/root/www/index.html; \
                cat /proc/1/comm; read word; echo got $word; kill $(pidof httpd)";
    let line =
        ["debug", "-i", "web", &to, "--share-processes", "--image=busybox", KEEP, "-c", "look"];
    let said = fed(kubectl(&[&line[..], &["--", "sh", "-c", look]].concat()), "hello\n");
    for part in ["hi\n", "pause\n", "got hello\n"] {
        assert!(said.output.contains(part), "no {part:?} in {}{}", said.output, said.errors);
    }
    until("the signal has ended the other container", SHORT, || {
        let path = "jsonpath={.status.containerStatuses[?(@.name==\"web\")].restartCount}";
        let count = Said::of(&kubectl(&["get", "pod", &copy, "-o", path]).output().expect("runs"));
        count.good().parse::<u32>().is_ok_and(|count| count > 0)
    });
    said_good(kubectl(&["delete", "pod", &copy, "--grace-period=1"]));
}

fn a_copy_has_other_images(minor: &str, kubectl: Kubectl<'_>) {
    let copy = format!("other-{}", minor.replace('.', "-"));
    let (to, image) = (format!("--copy-to={copy}"), "--set-image=*=docker.io/library/busybox");
    said_good(kubectl(&["debug", "web", &to, image]));
    said_good(kubectl(&["wait", "--for=condition=Ready", "pod", &copy, "--timeout=20s"]));
    let path = "jsonpath={.spec.containers[0].image}";
    let image = said_good(kubectl(&["get", "pod", &copy, "-o", path]));
    assert_eq!(image, "docker.io/library/busybox");
    said_good(kubectl(&["delete", "pod", &copy, "--grace-period=1"]));
}

fn said_good(command: Command) -> String {
    said(command).good()
}

/// The namespace must allow it; then the node's processes, network and files are there.
fn a_node_is_looked_into(minor: &str, berth: &Berth, kubectl: Kubectl<'_>) {
    let pid = berth.server_pid().to_string();
    let look = format!(
        "read word; echo got $word; cat /proc/{pid}/comm; ls -d /host{}; \
                        ls -l /proc/self/ns/net",
        berth.data.display()
    );
    let line = ["debug", "-i", "node/node", "--image=busybox", KEEP, "--", "sh", "-c", &look];
    let refused = fed(kubectl(&line), "hello\n");
    assert_ne!(refused.code, 0, "{}", refused.output);
    for word in ["violates PodSecurity \"baseline:latest\"", "host namespaces", "hostPath"] {
        assert!(refused.errors.contains(word), "{}", refused.errors);
    }
    let label = "pod-security.kubernetes.io/enforce=privileged";
    said_good(kubectl(&["label", "namespace", "look", label]));
    a_privileged_container_may_be_root_of_its_own_users_alone(minor, kubectl);
    let said = fed(kubectl(&line), "hello\n");
    let link = std::fs::read_link("/proc/self/ns/net").expect("this is Linux");
    let data = format!("/host{}\n", berth.data.display());
    for part in ["got hello\n", "berth\n", &data, &link.to_string_lossy()] {
        assert!(said.output.contains(part), "no {part:?} in {}{}", said.output, said.errors);
    }
    let label = "pod-security.kubernetes.io/enforce-";
    said_good(kubectl(&["label", "namespace", "look", label]));
    let pods = said_good(kubectl(&["get", "pods", "-o", "name"]));
    let pods: Vec<&str> = pods.lines().filter(|name| name.contains("node-debugger")).collect();
    assert_eq!(pods.len(), 1, "{minor}: {pods:?}");
    said_good(kubectl(&["delete", "--grace-period=1", pods[0]]));
}

/// A user namespace is kept by a privileged container that asks for it: it may mount there, and the machine is not its own.
fn a_privileged_container_may_be_root_of_its_own_users_alone(minor: &str, kubectl: Kubectl<'_>) {
    let name = format!("own-users-{}", minor.replace('.', "-"));
    let line =
        "mount -t tmpfs none /tmp && echo 1 > /proc/sys/kernel/panic; cat /proc/self/uid_map";
    let container = serde_json::json!({"name": "main", "image": "busybox",
        "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", line],
        "securityContext": {"privileged": true}});
    let spec = serde_json::json!({"spec": {"hostUsers": false, "restartPolicy": "Never",
        "containers": [container]}});
    let overrides = format!("--overrides={spec}");
    said_good(kubectl(&["run", &name, "--image=busybox", &overrides]));
    until("it has ended", SHORT, || {
        let phase = kubectl(&["get", "pod", &name, "-o", "jsonpath={.status.phase}"]).output();
        Said::of(&phase.expect("kubectl starts")).good() == "Succeeded"
    });
    let log = said_good(kubectl(&["logs", &name]));
    let map: Vec<&str> = log.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "65536"), "{log}");
    assert!(log.contains("denied") || log.contains("Read-only"), "{log}");
    said_good(kubectl(&["delete", "pod", &name, "--grace-period=0", "--force"]));
}

fn host_namespaces_go_with_no_user_namespace(berth: &Berth) {
    let run = ["run", "bad", "--image=busybox", KEEP, "--dry-run=server", "--overrides"];
    for (spec, why) in [
        (r#"{"spec":{"hostUsers":false,"hostPID":true}}"#, "when `hostUsers` is false"),
        (r#"{"spec":{"shareProcessNamespace":true,"hostPID":true}}"#, "cannot both be enabled"),
    ] {
        let said = berth.kubectl(&[&run[..], &[spec]].concat());
        assert!(said.errors.contains(why), "{}{}", said.output, said.errors);
    }
}
