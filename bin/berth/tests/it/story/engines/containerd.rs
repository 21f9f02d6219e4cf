//! Debian's containerd and its `ctr`, with `berth oci` as the runtime of its shim.

use std::process::Output;
use std::time::{Duration, Instant};

use super::{Daemon, Parent, files, good, script};

const SOCKET: &str = "/run/containerd.sock";

struct Containerd {
    daemon: Daemon,
    parent: Parent,
    folder: tempfile::TempDir,
}

impl Containerd {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let parent = Parent::new("containerd");
        script(folder.path());
        files(folder.path());
        let text = format!(
            "version = 2\nroot = \"{}\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\", \
             \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.internal.v1.tracing\"]\n[grpc]\naddress = \"{SOCKET}\"\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let words = ["containerd", "--config", file.to_str().unwrap()];
        let ready = |daemon: &Daemon| {
            daemon
                .run(&["ctr", "--connect-timeout", "100ms", "--address", SOCKET, "version"])
                .status
                .success()
        };
        let daemon = Daemon::start(&words, &folder.path().join("log"), ready);
        Self { daemon, parent, folder }
    }

    fn ctr(&self, words: &[&str]) -> Output {
        self.daemon.run(&[&["ctr", "--address", SOCKET], words].concat())
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        good(&self.ctr(words))
    }

    /// `ctr run` with our runtime.
    fn run(&self, name: &str, flags: &[&str], words: &[&str]) -> Output {
        let runtime = self.folder.path().join("runtime").display().to_string();
        let root = self.folder.path().join("files").display().to_string();
        let cgroup = format!("/{}/{name}", self.parent.0);
        let fixed = [
            "run",
            "--rootfs",
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
            &runtime,
            "--cgroup",
            &cgroup,
        ];
        self.ctr(&[&fixed[..], flags, &[&root, name], words].concat())
    }

    fn status(&self, name: &str) -> String {
        let all = self.good(&["tasks", "ls"]);
        let line = all.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let all = self.ctr(&["tasks", "ls", "--quiet"]);
        for task in String::from_utf8_lossy(&all.stdout).lines() {
            self.ctr(&["tasks", "rm", "--force", task]);
        }
        self.daemon.stop();
    }
}

#[test]
fn containerd_runs_containers_with_our_runtime() {
    let engine = Containerd::new();
    let one = ["sh", "-c", "echo $PLACE; exit 3"];
    let done = engine.run("one", &["--rm", "--env", "PLACE=harbour"], &one);
    let errors = String::from_utf8_lossy(&done.stderr);
    let output = String::from_utf8_lossy(&done.stdout);
    assert_eq!((done.status.code(), output.as_ref()), (Some(3), "harbour\n"), "{errors}");
    let refused = engine.run("none", &["--rm"], &["nothing-like-that"]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("not found"), "{errors}");

    let flags = ["--detach", "--memory-limit", "67108864", "--pid-file", "/run/long.pid"];
    good(&engine.run("long", &flags, &["sh", "-c", "sleep 1000"]));
    assert_eq!(engine.status("long"), "RUNNING");
    let exec = ["tasks", "exec", "--exec-id", "more", "long", "sh", "-c", "id -u; exit 5"];
    let entered = engine.ctr(&exec);
    assert_eq!((entered.status.code(), &entered.stdout[..]), (Some(5), &b"0\n"[..]));
    let pid = engine.good(&["tasks", "ls"]);
    let pid = pid.lines().find(|line| line.starts_with("long")).unwrap();
    let pid = pid.split_whitespace().nth(1).unwrap().to_owned();
    assert!(engine.good(&["tasks", "ps", "long"]).contains(&pid));
    engine.good(&["tasks", "pause", "long"]);
    assert_eq!(engine.status("long"), "PAUSED");
    engine.good(&["tasks", "resume", "long"]);
    assert_eq!(engine.status("long"), "RUNNING");
    assert!(engine.good(&["tasks", "metrics", "long"]).contains("67108864"));
    let kept = engine.ctr(&["tasks", "checkpoint", "long"]);
    assert!(!kept.status.success(), "what cannot be done is refused");
    engine.good(&["tasks", "kill", "--signal", "KILL", "long"]);
    let until = Instant::now() + Duration::from_secs(10);
    while engine.status("long") != "STOPPED" {
        assert!(Instant::now() < until, "it does not stop");
        std::thread::yield_now();
    }
    let removed = engine.ctr(&["tasks", "rm", "long"]);
    let told = String::from_utf8_lossy(&removed.stderr);
    assert!(removed.status.success() && told.contains("137"), "{told}");
    engine.good(&["containers", "rm", "long"]);
}
