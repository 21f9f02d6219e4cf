//! Every field of a pod's specification works, is refused by its name, or is said to mean nothing here: one pod for each case,
//! looked at from within. docs/reference/pods.md is written from these cases.

mod cases;
mod document;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::cases::{Case, Expect, cases};
use crate::support::{Berth, merge, until};

const PATIENCE: Duration = Duration::from_secs(90);
const SPACE: &str = "fields";

/// What the cases' pods use.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: fields, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: fields}
data: {level: high, MODE: fast}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: fields}
stringData: {password: hidden}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: fields}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: fields}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: crew, namespace: fields}
spec: {clusterIP: None, selector: {crew: member}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: clerk, namespace: fields}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: urgent}
value: 1000
preemptionPolicy: Never
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: usual}
handler: berth
overhead: {podFixed: {memory: 8Mi}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: strange}
handler: strange
"#;

#[test]
fn every_field_of_a_pod_works_or_is_refused_by_its_name() {
    let berth = Berth::new("fields", 220);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let seccomp = berth.data.join("seccomp");
    std::fs::create_dir_all(&seccomp).unwrap();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    std::fs::write(seccomp.join("no-mkdir.json"), profile.to_string()).unwrap();
    let file = berth.data.join("objects.yaml");
    std::fs::write(&file, OBJECTS).unwrap();
    berth.kubectl(&["apply", "-f", &file.display().to_string()]).good();

    let cases = cases();
    let shared = Mounted::at(berth.data.join("shared"));
    command("mount", &["--make-shared", &shared.path()]);
    let pods: Vec<Value> = cases.iter().filter(|case| case.is_run()).map(pod_of).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string();
    std::fs::write(&file, list.replace("@DATA@", &berth.data.display().to_string())).unwrap();
    berth.kubectl(&["create", "-f", &file.display().to_string()]).good();
    until("the pod that sees mounts runs", PATIENCE, || {
        states(&berth).get("propagating").is_some_and(|pod| phase(pod) == "Running")
    });
    let late = Mounted::at(shared.0.join("late"));
    std::fs::write(late.0.join("a"), "").unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        if let Expect::Rejected(why) = &case.expect {
            std::fs::write(&file, pod_of(case).to_string()).unwrap();
            let said = berth.kubectl(&["create", "-f", &file.display().to_string()]);
            if said.code == 0 || !said.errors.contains(why) {
                wrong.push(format!("{}: {}{}", case.name, said.output, said.errors));
            }
        }
    }
    let mut last = BTreeMap::new();
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience {
        last = states(&berth);
        let told = events(&berth);
        if cases.iter().filter(|case| case.is_run()).all(|case| is_decided(case, &last, &told)) {
            break;
        }
    }
    let told = events(&berth);
    for case in cases.iter().filter(|case| case.is_run()) {
        if !is_decided(case, &last, &told) {
            wrong.push(format!("{} is nowhere yet: {}", case.name, last[case.name]["status"]));
        } else if let Some(why) = judge(&berth, case, &last[case.name], &told) {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file system in memory, until it is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn at(path: std::path::PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let mounted = Self(path);
        command("mount", &["-t", "tmpfs", "tmpfs", &mounted.path()]);
        mounted
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        command("umount", &["--lazy", &self.path()]);
    }
}

fn command(program: &str, arguments: &[&str]) {
    let status = std::process::Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn pod_of(case: &Case) -> Value {
    let line = match &case.expect {
        Expect::Says(line, _) | Expect::Has(line, _) => *line,
        _ => "true",
    };
    let mut main = json!({"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", line]});
    let mut patch = case.patch.clone();
    if let Some(own) = patch.as_object_mut().and_then(|patch| patch.remove("main")) {
        merge(&mut main, own);
    }
    let metadata = patch.as_object_mut().and_then(|patch| patch.remove("metadata"));
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": case.name, "namespace": SPACE},
        "spec": {"containers": [main], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}});
    merge(&mut pod["metadata"], metadata.unwrap_or(json!({})));
    merge(&mut pod["spec"], patch);
    pod
}

/// Objects are merged, all else is replaced.
fn states(berth: &Berth) -> BTreeMap<String, Value> {
    let all = berth.get(&["pods", "-n", SPACE]);
    let all = all["items"].as_array().cloned().unwrap_or_default();
    all.into_iter().map(|pod| (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod)).collect()
}

/// What is told of each pod.
fn events(berth: &Berth) -> BTreeMap<String, String> {
    let all = berth.get(&["events", "-n", SPACE]);
    let mut told = BTreeMap::<String, String>::new();
    for event in all["items"].as_array().into_iter().flatten() {
        let of = event["involvedObject"]["name"].as_str().unwrap_or_default();
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let text = format!("{} {}\n", text("reason"), text("message"));
        told.entry(of.to_owned()).or_default().push_str(&text);
    }
    told
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

fn is_decided(case: &Case, all: &BTreeMap<String, Value>, told: &BTreeMap<String, String>) -> bool {
    let Some(pod) = all.get(case.name) else { return false };
    match &case.expect {
        Expect::Refused(why) => {
            let told = told.get(case.name).is_some_and(|told| told.contains(why));
            told || waiting(pod).contains(why) || phase(pod) == "Failed"
        }
        Expect::Waits(why) => pod["status"].to_string().contains(why),
        Expect::Becomes(wanted) => {
            wanted.iter().all(|(path, value)| pod.pointer(path) == Some(value))
        }
        // Whatever it waits for meanwhile, a pod that is to say something comes to an end.
        _ => matches!(phase(pod), "Succeeded" | "Failed"),
    }
}

fn waiting(pod: &Value) -> String {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let states = lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    states
        .filter_map(|state| state["state"].get("waiting"))
        .map(|waiting| format!("{} {}", waiting["reason"], waiting["message"]))
        .collect()
}

/// What is wrong with a pod, if anything is.
fn judge(
    berth: &Berth,
    case: &Case,
    pod: &Value,
    told: &BTreeMap<String, String>,
) -> Option<String> {
    let log = || berth.kubectl(&["logs", "-n", SPACE, case.name, "-c", "main"]);
    let told = told.get(case.name).cloned().unwrap_or_default();
    match &case.expect {
        Expect::Says(_, wanted) => {
            let said = log().output;
            let good = phase(pod) == "Succeeded" && said == *wanted;
            (!good).then(|| format!("said {said:?}, {}", pod["status"]))
        }
        Expect::Has(_, wanted) => {
            let said = log().output;
            let good = phase(pod) == "Succeeded" && wanted.iter().all(|word| said.contains(word));
            (!good).then(|| format!("said {said:?}, {}", pod["status"]))
        }
        Expect::Refused(why) => {
            let good = waiting(pod).contains(why) || told.contains(why);
            (!good).then(|| format!("{} {told}", pod["status"]))
        }
        Expect::Waits(why) => {
            let text = pod["status"].to_string();
            (!text.contains(why)).then_some(text)
        }
        Expect::Becomes(_) | Expect::Rejected(_) | Expect::Held(_) | Expect::Nothing(_) => None,
    }
}
