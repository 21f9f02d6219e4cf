//! A multi-service application from a Compose file, end to end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Berth, copy_tree, free_port, header, http, until};

const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(20);

struct Votes {
    berth: Berth,
    project: tempfile::TempDir,
    vote: u16,
    result: u16,
}

impl Votes {
    fn new() -> Self {
        let berth = Berth::new("votes", 160);
        if berth.berth(&["image", "inspect", "debian:bookworm"]).code != 0 {
            berth.berth(&["image", "bootstrap", "debian:bookworm"]).good();
        }
        let project = tempfile::tempdir().unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/votes");
        copy_tree(&example, project.path());
        Self { berth, project, vote: free_port(), result: free_port() }
    }

    fn compose(&self) -> String {
        self.project.path().join("compose.yaml").display().to_string()
    }

    fn up(&self) -> String {
        let file = self.compose();
        let mut command = self.berth.command(&["up", &file]);
        command.env("VOTE_PORT", self.vote.to_string()).env("RESULT_PORT", self.result.to_string());
        let output = command.output().unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{text}");
        text
    }

    fn cast(&self, choice: &str) {
        let answer = http("POST", self.vote, "/", &format!("choice={choice}")).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200")
                || answer.starts_with("HTTP/1.1 30")
                || answer.starts_with("HTTP/1.0 "),
            "{answer}"
        );
    }

    fn total(&self) -> u64 {
        let Ok(answer) = http("GET", self.result, "/api/results", "") else { return 0 };
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str::<Value>(body).map_or(0, |value| value["total"].as_u64().unwrap_or(0))
    }

    fn counted(&self, total: u64) {
        until(&format!("{total} votes are counted"), SHORT, || self.total() == total);
    }

    fn uids(&self, service: &str) -> BTreeSet<String> {
        self.berth
            .pods("votes", Some(service))
            .iter()
            .map(|pod| text(&pod["metadata"]["uid"]))
            .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn an_application_lives_through_its_day() {
    let mut votes = Votes::new();
    let said = votes.up();
    assert!(
        said.contains(&format!("http://127.0.0.1:{}", votes.vote)),
        "the URLs are printed: {said}"
    );
    votes.cast("a");
    votes.counted(1);
    people_look_around(&votes);
    networks_are_apart(&votes);
    requests_are_balanced(&votes);
    a_killed_process_is_back(&votes);
    the_server_may_die(&mut votes);
    only_what_changed_is_replaced(&votes);
    kubectl_sees_the_same(&votes);
    all_of_it_goes(&votes);
}

fn people_look_around(votes: &Votes) {
    let berth = &votes.berth;
    let listed = berth.berth(&["ps"]).good();
    for service in ["vote", "redis", "worker", "db", "result"] {
        assert!(listed.contains(service), "{listed}");
    }
    let log = berth.berth(&["logs", "vote"]).good();
    assert!(log.contains("POST"), "{log}");
    let mut follower = berth
        .command(&["logs", "-f", "--tail", "0", "vote"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let marker = "/no-such-page-for-the-log";
    let reader =
        std::thread::spawn(move || lines.any(|line| line.is_ok_and(|line| line.contains(marker))));
    until("the log follows", SHORT, || {
        http("GET", votes.vote, marker, "").unwrap();
        reader.is_finished()
    });
    assert!(reader.join().unwrap());
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(
        berth
            .berth(&["exec", "vote", "--", "sh", "-c", "echo in $(id -u); exit 0"])
            .good()
            .trim_end()
            .split(' ')
            .next(),
        Some("in")
    );
    assert_eq!(berth.berth(&["exec", "vote", "--", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(berth.berth(&["exec", "vote", "--", "no-such-command"]).code, 127);
    let secret =
        berth.berth(&["exec", "db", "--", "sh", "-c", "cat /run/secrets/db_password"]).good();
    assert_eq!(
        secret.trim(),
        fs::read_to_string(votes.project.path().join("db_password.txt")).unwrap().trim()
    );
}

fn networks_are_apart(votes: &Votes) {
    let database = text(&votes.berth.pods("votes", Some("db"))[0]["status"]["podIP"]);
    let queue = text(&votes.berth.pods("votes", Some("redis"))[0]["status"]["podIP"]);
    let probe = |service: &str, address: &str, port: u16| {
        let line = format!("import socket; socket.create_connection(('{address}', {port}), 2)");
        votes.berth.berth(&["exec", service, "--", "python3", "-c", &line]).code
    };
    assert_eq!(probe("worker", &database, 5432), 0);
    assert_eq!(probe("worker", &queue, 6379), 0);
    assert_ne!(probe("vote", &database, 5432), 0, "vote shares no network with db");
    assert_ne!(probe("result", &queue, 6379), 0, "result shares no network with redis");
    let resolve = votes.berth.berth(&[
        "exec",
        "worker",
        "--",
        "python3",
        "-c",
        "import socket; print(socket.gethostbyname('db'))",
    ]);
    resolve.good();
}

fn requests_are_balanced(votes: &Votes) {
    votes.berth.berth(&["scale", "vote=3"]).good();
    let mut seen = BTreeSet::new();
    until("three containers answer", LONG, || {
        let answer = http("GET", votes.vote, "/", "").unwrap();
        seen.insert(header(&answer, "X-Served-By").unwrap());
        seen.len() == 3
    });
}

fn a_killed_process_is_back(votes: &Votes) {
    let berth = &votes.berth;
    let pod = &berth.pods("votes", Some("redis"))[0];
    let (name, uid) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
    let before = berth.processes(&uid);
    let first = rustix::process::Pid::from_raw(before[0]).unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    let took = until("redis is back", SHORT, || {
        let now = berth.processes(&uid);
        !now.is_empty() && !now.contains(&before[0])
    });
    assert!(took < Duration::from_secs(2), "restarted after {took:?}");
    until("the restart is reported", SHORT, || {
        let pod = berth.get(&["pod", &name, "--namespace", "votes"]);
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1
            && status["lastState"]["terminated"]["exitCode"] == 137
            && status["ready"] == true
    });
    votes.cast("b");
    votes.counted(2);
}

fn the_server_may_die(votes: &mut Votes) {
    let processes = |votes: &Votes| -> Vec<Vec<i32>> {
        let services = ["vote", "redis", "worker", "db", "result"];
        let uids = services.iter().flat_map(|service| votes.uids(service));
        uids.map(|uid| votes.berth.processes(&uid)).map(|pids| vec![pids[0]]).collect()
    };
    let before = processes(votes);
    votes.berth.kill_server();
    assert!(
        http("GET", votes.vote, "/", "").unwrap().contains("200"),
        "it serves without a server"
    );
    assert_eq!(votes.total(), 2);
    votes.cast("a");
    votes.counted(3);
    votes.berth.start();
    until("everything is ready again", SHORT, || {
        let pods = votes.berth.pods("votes", None);
        pods.len() == 7
            && pods.iter().all(|pod| {
                let status = &pod["status"]["containerStatuses"][0];
                status["ready"] == true
            })
    });
    assert_eq!(processes(votes), before, "no container was restarted");
    let redis = &votes.berth.pods("votes", Some("redis"))[0]["status"]["containerStatuses"][0];
    assert_eq!(redis["lastState"]["terminated"]["exitCode"], 137, "exit codes are intact");
    assert!(votes.berth.berth(&["logs", "vote"]).good().contains("POST"), "logs are intact");
}

fn only_what_changed_is_replaced(votes: &Votes) {
    let services = ["redis", "worker", "db", "result"];
    let others: Vec<_> = services.iter().map(|service| votes.uids(service)).collect();
    let vote = votes.uids("vote");
    let source = votes.project.path().join("vote/vote.py");
    let mut program = fs::read_to_string(&source).unwrap();
    program.push_str("\n# changed\n");
    fs::write(source, program).unwrap();
    votes.up();
    until("the old pods are gone", LONG, || votes.uids("vote").is_disjoint(&vote));
    let now: Vec<_> = services.iter().map(|service| votes.uids(service)).collect();
    assert_eq!(now, others, "nothing else was replaced");
    votes.cast("b");
    votes.counted(4);
}

fn kubectl_sees_the_same(votes: &Votes) {
    let berth = &votes.berth;
    let space = ["--namespace", "votes"];
    let kubectl = |arguments: &[&str]| berth.kubectl(&[arguments, &space].concat());
    let listed = kubectl(&["get", "deployments,pods,services"]).good();
    assert!(listed.contains("deployment.apps/vote") && listed.contains("service/db"), "{listed}");
    let described = kubectl(&["describe", "deployment", "vote"]).good();
    assert!(described.contains("RollingUpdate"), "{described}");
    let pod = text(&berth.pods("votes", Some("db"))[0]["metadata"]["name"]);
    assert!(!kubectl(&["logs", &pod]).good().is_empty());
    assert!(kubectl(&["describe", "pod", &pod]).good().contains("Started container"));
    kubectl(&["scale", "deployment/vote", "--replicas=2"]).good();
    kubectl(&["rollout", "status", "deployment/vote", "--timeout=60s"]).good();
    let mut watch = berth
        .kubectl_command(&["get", "deployment", "vote", "-w", "-n", "votes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("2/2")));
    kubectl(&["scale", "deployment/vote", "--replicas=1"]).good();
    assert!(lines.any(|line| line.unwrap().contains("1/1")), "the watch shows the change");
    watch.kill().unwrap();
    watch.wait().unwrap();
    manifests_run_just_the_same(berth);
}

fn manifests_run_just_the_same(berth: &Berth) {
    let manifest = serde_json::json!([
            { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "labels": { "app": "web" } },
              "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                        "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "terminationGracePeriodSeconds": 1, "containers": [
                            { "name": "web", "image": "votes-vote:latest", "imagePullPolicy": "Never",
                              "command": ["python3", "-m", "http.server", "8000"], "ports": [{ "name": "http", "containerPort": 8000 }],
                              "readinessProbe": { "httpGet": { "path": "/", "port": "http" }, "periodSeconds": 1 } }] } } } },
            { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
              "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] } },
    ]);
    let documents: Vec<String> =
        manifest.as_array().unwrap().iter().map(Value::to_string).collect();
    let file = berth.data.join("manifest.json");
    fs::write(&file, documents.join("\n")).unwrap();
    let file = file.display().to_string();
    berth.kubectl(&["apply", "-f", &file]).good();
    berth.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).good();
    let address = text(&berth.get(&["service", "web"])["spec"]["clusterIP"]);
    let answer = std::process::Command::new("curl")
        .args(["-sf", "--max-time", "5", &format!("http://{address}/")])
        .output()
        .unwrap();
    assert!(answer.status.success(), "the Service answers on the node");
    assert!(berth.kubectl(&["apply", "-f", &file]).good().contains("unchanged"));
    berth.kubectl(&["delete", "-f", &file, "--timeout=60s"]).good();
    until("its pods are gone", LONG, || berth.pods("default", None).is_empty());
}

fn all_of_it_goes(votes: &Votes) {
    let berth = &votes.berth;
    let file = votes.compose();
    berth.berth(&["down", "-f", &file]).good();
    assert!(berth.pods("votes", None).is_empty());
    let claims = berth.get(&["persistentvolumeclaims", "--namespace", "votes"]);
    assert_eq!(claims["items"].as_array().unwrap().len(), 1, "volumes are kept");
    votes.up();
    votes.counted(4);
    berth.berth(&["down", "-f", &file, "--volumes"]).good();
    until("the volume's directory is gone", LONG, || {
        fs::read_dir(berth.data.join("volumes")).map_or(0, Iterator::count) == 0
    });
    let left = || {
        let pods = fs::read_dir(berth.data.join("pods"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path().display().to_string());
        let links = berth.traces();
        let links = links
            .lines()
            .filter(|line| line.contains("link/ether"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        pods.chain(links).collect::<Vec<_>>()
    };
    let mut last = Vec::new();
    let began = std::time::Instant::now();
    while began.elapsed() < SHORT {
        last = left();
        if last.is_empty() {
            break;
        }
    }
    assert!(last.is_empty(), "pods left {last:#?}");
}
