//! A cluster whose state is in etcd, which goes away and comes back.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Berth, free_port, until};

const SHORT: Duration = Duration::from_secs(20);

/// An etcd of its own.
pub struct Etcd {
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Self { folder, client: free_port(), peer: free_port(), process: None };
        etcd.run();
        etcd
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub fn run(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", "m", "--initial-cluster", &format!("m={peer}")])
            .args(["--log-level", "error", "--unsafe-no-fsync"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's etcd-server is needed on the PATH");
        self.process = Some(child);
        until("etcd answers", SHORT, || {
            crate::support::http("GET", self.client, "/health", "")
                .is_ok_and(|answer| answer.contains("true"))
        });
    }

    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

#[test]
fn a_cluster_in_etcd_outlives_server_and_etcd() {
    let mut etcd = Etcd::start();
    let store = format!("etcd={}", etcd.url());
    let mut berth = Berth::with("etcd", 176, &["--store", &store]);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.berth(&["run", "-d", "--name", "stays", "busybox", "sleep", "600"]).good();
    let secret = "a-word-that-is-nowhere-else";
    let literal = format!("--from-literal=key={secret}");
    berth.kubectl(&["create", "secret", "generic", "s", &literal]).good();
    let data = etcd.folder.path().join("data");
    let found = Command::new("grep").args(["-r", "-q", secret]).arg(&data).status().unwrap();
    assert_eq!(found.code(), Some(1), "the secret is in etcd as it is");

    etcd.kill();
    let said = berth.kubectl(&["get", "pods", "--request-timeout=15s"]).bad(1);
    assert!(!said.contains("panicked"), "{said}");
    let pod = berth_pods(&berth);
    assert_eq!(pod, 1, "the container runs on");
    etcd.run();
    until("the server is back", SHORT, || {
        berth.kubectl(&["get", "secret", "s", "--request-timeout=15s"]).code == 0
    });

    berth.kill_server();
    let line = ["serve", "--listen", "127.0.0.1:0", "--instance", &berth.instance];
    let said = berth.berth(&line).bad(1);
    assert!(said.contains("etcd=") && said.contains("--store"), "{said}");
    berth.start();
    assert_eq!(berth.berth(&["exec", "stays", "--", "hostname"]).good(), "stays\n");
    let read = ["get", "secret", "s", "-o", "go-template={{.data.key | base64decode}}"];
    assert_eq!(berth.kubectl(&read).good(), secret);
    berth.berth(&["rm", "-f", "stays"]).good();
    drop(berth);
}

/// How many containers' processes run on this machine for this server.
fn berth_pods(berth: &Berth) -> usize {
    let pods = std::fs::read_dir(berth.data.join("pods")).unwrap().flatten();
    pods.filter(|pod| !berth.processes(&pod.file_name().to_string_lossy()).is_empty()).count()
}
