//! Debian's etcd, on the disk that is measured.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;

pub struct Etcd {
    process: Child,
    pub url: String,
}

impl Etcd {
    pub async fn start(folder: &Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (url, peer) =
            (format!("http://127.0.0.1:{}", free()), format!("http://127.0.0.1:{}", free()));
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--name",
                "m",
                "--initial-cluster",
                &format!("m={peer}"),
                "--log-level",
                "error",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's etcd-server is needed on the PATH");
        let etcd = Self { process, url };
        let begun = Instant::now();
        loop {
            // It listens before it has elected itself.
            let ready =
                async { Client::connect([&etcd.url], None).await?.put("ready", "", None).await };
            match tokio::time::timeout(Duration::from_secs(2), ready).await {
                Ok(Ok(_)) => return etcd,
                _ => assert!(begun.elapsed() < Duration::from_secs(20), "etcd does not start"),
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
