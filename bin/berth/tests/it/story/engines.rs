//! Another engine runs its containers with our runtime.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Debian's podman with a storage of its own, and `berth oci` as its runtime.
struct Podman(tempfile::TempDir);

impl Podman {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("runtime");
        let text = format!("#!/bin/sh\nexec {} oci \"$@\"\n", env!("CARGO_BIN_EXE_berth"));
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let podman = Self(folder);
        podman.import();
        podman
    }

    /// An image with busybox.
    fn import(&self) {
        let bin = self.0.path().join("files/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox"))
            .expect("this test needs Debian's busybox-static");
        for applet in ["sh", "echo", "cat", "sleep", "hostname", "id"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let archive = self.0.path().join("files.tar");
        let files = self.0.path().join("files");
        let mut packed = Command::new("tar");
        packed.arg("-C").arg(files).arg("-cf").arg(&archive).arg(".");
        assert!(packed.status().unwrap().success());
        self.good(&["import", &archive.display().to_string(), "localhost/busybox"]);
    }

    fn run(&self, words: &[&str]) -> Output {
        let place = |name: &str| -> std::path::PathBuf { Path::new(self.0.path()).join(name) };
        Command::new("podman")
            .arg("--root")
            .arg(place("root"))
            .arg("--runroot")
            .arg(place("run"))
            .arg("--runtime")
            .arg(place("runtime"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(words)
            .output()
            .expect("this test needs Debian's podman")
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]);
        // Its storage is mounted in places.
        self.run(&["rmi", "--all", "--force"]);
    }
}

/// Without a network, and with limits that a container of a container may set.
const PLAIN: [&str; 6] =
    ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];

#[test]
fn podman_runs_containers_with_our_runtime() {
    let podman = Podman::new();
    let run = |words: &[&str]| podman.run(&[&["run", "--rm"], &PLAIN[..], words].concat());
    let done = run(&["--hostname", "harbour", "localhost/busybox", "sh", "-c", "hostname; exit 4"]);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(4), "{errors}");
    assert_eq!(done.stdout, b"harbour\n");
    let refused = run(&["localhost/busybox", "nothing-like-that"]);
    assert_ne!(refused.status.code(), Some(0));

    let start = [&["run", "--detach", "--name", "long"], &PLAIN[..]].concat();
    podman.good(
        &[&start[..], &["--memory", "64m", "localhost/busybox", "sh", "-c", "echo in; sleep 1000"]]
            .concat(),
    );
    let inspect = ["inspect", "--format", "{{.State.Status}} {{.OCIRuntime}}", "long"];
    assert!(podman.good(&inspect).starts_with("running "));
    let entered =
        podman.run(&["exec", "--user", "7:8", "long", "sh", "-c", "id -u; id -g; exit 6"]);
    assert_eq!((entered.status.code(), &entered.stdout[..]), (Some(6), &b"7\n8\n"[..]));
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let entered = podman.run(&["exec", "long", "sh", "-c", limit]);
    assert_eq!(String::from_utf8_lossy(&entered.stdout).trim(), (64 << 20).to_string());
    assert_eq!(podman.good(&["logs", "long"]), "in\n");
    podman.good(&["kill", "long"]);
    assert_eq!(podman.good(&["wait", "long"]).trim(), "137");
    podman.good(&["rm", "long"]);
    assert_eq!(podman.good(&["ps", "--all", "--quiet"]), "");
}
