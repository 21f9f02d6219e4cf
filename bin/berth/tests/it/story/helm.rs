//! Helm, as its users know it: the program of version 3 and the library of version 4, which applies on the server's side.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Berth, Said, until};

const SHORT: Duration = Duration::from_secs(20);
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/charts/shop");

/// A program that `scripts/setup.sh test` has installed.
fn installed(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("clients/bin").join(name);
    assert!(path.exists(), "{} is missing; `scripts/setup.sh test` installs it", path.display());
    path
}

/// Runs for a minute at most, with the server's kubeconfig and nothing of the user's own.
fn run(berth: &Berth, program: &Path, arguments: &[&str]) -> Said {
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .env("KUBECONFIG", berth.data.join("kubeconfig"))
        .env("HOME", &berth.data)
        .env("HELM_CACHE_HOME", berth.data.join("helm-cache"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said::of(&output)
}

fn page(berth: &Berth, name: &str) -> String {
    let map = format!("configmap/{name}-page");
    berth.kubectl(&["get", &map, "-o", r"jsonpath={.data.index\.html}"]).good()
}

/// How many of a release's objects there are.
fn left(berth: &Berth, release: &str) -> usize {
    let kinds = "deployments,replicasets,pods,services,configmaps,boats,secrets";
    let all = berth.kubectl(&["get", kinds, "-o", "name"]).good();
    all.lines().filter(|line| line.contains(release)).count()
}

#[test]
fn charts_are_installed_upgraded_rolled_back_and_taken_away() {
    let berth = Berth::new("helm", 192);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    version_three(&berth);
    version_four(&berth);
}

fn version_three(berth: &Berth) {
    let program = installed("helm");
    let helm = |arguments: &[&str]| run(berth, &program, arguments);
    let waits = ["--wait", "--timeout", "40s"];
    helm(&[&["install", "three", CHART], &waits[..]].concat()).good();
    // What waited for it to be ready can count on it: a pod asks the Service.
    let said = helm(&["test", "three", "--logs", "--timeout", "30s"]).good();
    assert!(said.contains("Succeeded") && said.trim_end().ends_with("\nhello"), "{said}");
    let again = helm(&["install", "three", CHART]).bad(1);
    assert!(again.contains("cannot re-use a name"), "{again}");

    let values = ["--set", "greeting=bye", "--set", "replicas=3"];
    helm(&[&["upgrade", "three", CHART], &values[..], &waits[..]].concat()).good();
    assert_eq!(page(berth, "three"), "bye");
    assert_eq!(berth.get(&["boat", "three"])["spec"]["size"], 3);
    assert_eq!(berth.get(&["deployment", "three"])["status"]["readyReplicas"], 3);
    helm(&[&["rollback", "three", "1"], &waits[..]].concat()).good();
    assert_eq!(page(berth, "three"), "hello");

    // What does not become ready is taken back.
    let line = ["upgrade", "three", CHART, "--set", "image=none", "--atomic", "--timeout", "3s"];
    let said = helm(&line).bad(1);
    assert!(said.contains("has been rolled back"), "{said}");
    let history = helm(&["history", "three", "--output", "json"]).good();
    let history: Value = serde_json::from_str(&history).unwrap();
    let states: Vec<_> =
        history.as_array().unwrap().iter().map(|it| it["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["superseded", "superseded", "superseded", "failed", "deployed"]);
    let listed = helm(&["list", "--output", "json"]).good();
    assert!(
        listed.contains(r#""status":"deployed""#) && listed.contains(r#""revision":"5""#),
        "{listed}"
    );

    let dry = helm(&["upgrade", "other", CHART, "--install", "--dry-run=server"]).good();
    assert!(dry.contains("STATUS: pending-install"), "{dry}");
    assert_eq!(left(berth, "other"), 0);
    let line = ["upgrade", "three", CHART, "--set", "replicas=many"];
    let wrong = helm(&line).bad(1);
    assert!(wrong.contains("replicas") || wrong.contains("size"), "{wrong}");

    helm(&[&["uninstall", "three"], &waits[..]].concat()).good();
    // The pod of the test is nobody's, as upstream.
    berth.kubectl(&["delete", "pod", "three-test"]).good();
    until("all of it is gone", SHORT, || left(berth, "three") == 0);
}

fn version_four(berth: &Berth) {
    const SCRIPT: &str = r#"
import sys
from helm_python import Config, helm_sdk_version
assert helm_sdk_version().startswith("v4."), helm_sdk_version()
chart, step = sys.argv[1:]
config = Config(namespace="default")
waits = {"wait": "watcher", "timeout": 40}
if step == "install":
    print(config.install(chart, "four", {"greeting": "hello"}, **waits)["status"])
elif step == "upgrade":
    print(config.upgrade(chart, "four", {"greeting": "bye", "replicas": 3}, **waits)["status"])
elif step == "rollback":
    config.rollback("four", version=1, **waits)
    print([release["status"] for release in config.history("four")])
else:
    print(config.uninstall("four", **waits)["release"]["status"])
"#;
    let python = installed("python");
    let script = berth.data.join("four.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let script = script.display().to_string();
    let step = |step: &str| run(berth, &python, &[&script, CHART, step]).good();
    assert_eq!(step("install"), "deployed\n");
    // It applies on the server's side, and owns what it says.
    let managed = berth.get(&["configmap", "four-page", "--show-managed-fields"]);
    let managed = managed["metadata"]["managedFields"].as_array().unwrap();
    assert!(managed.iter().any(|it| it["operation"] == "Apply"), "{managed:?}");
    assert_eq!(step("upgrade"), "deployed\n");
    assert_eq!(page(berth, "four"), "bye");
    assert_eq!(step("rollback"), "['superseded', 'superseded', 'deployed']\n");
    assert_eq!(page(berth, "four"), "hello");
    assert_eq!(step("uninstall"), "uninstalled\n");
    until("all of it is gone", SHORT, || left(berth, "four") == 0);
}
