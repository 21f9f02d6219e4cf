//! Another engine runs its containers with our runtime.

mod containerd;
mod docker;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use rustix::process::Signal;

/// `berth oci` as one program, which is what engines take.
fn script(folder: &Path) -> PathBuf {
    let script = folder.join("runtime");
    let text = format!("#!/bin/sh\nexec {} oci \"$@\"\n", env!("CARGO_BIN_EXE_berth"));
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// The files of an image with busybox.
fn files(folder: &Path) -> PathBuf {
    let files = folder.join("files");
    let bin = files.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox"))
        .expect("this test needs Debian's busybox-static");
    for applet in ["sh", "echo", "cat", "sleep", "hostname", "id", "ip", "grep"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    files
}

/// A daemon of an engine, in a network and with a `/run` of its own.
struct Daemon(Child);

impl Daemon {
    /// Starts a program with its arguments, and waits until `ready` says so.
    fn start(words: &[&str], log: &Path, ready: impl Fn(&Self) -> bool) -> Self {
        let line = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /opt && ip link set lo up && exec \"$@\"";
        let log = std::fs::File::create(log).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", line, "sh"]);
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Self(command.spawn().expect("this test needs unshare"));
        let until = Instant::now() + Duration::from_secs(30);
        while !ready(&daemon) {
            assert!(Instant::now() < until, "{words:?} is not ready");
            std::thread::yield_now();
        }
        daemon
    }

    /// Runs a program beside it.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.0.id().to_string(), "--mount", "--net", "--"]);
        command.args(words).stdin(Stdio::null()).output().expect("this test needs nsenter")
    }

    /// Ends it, and waits for that.
    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _gone_already = rustix::process::kill_process(pid, Signal::TERM);
        let _reaped = self.0.wait();
    }
}

/// A parent for the cgroups of an engine, which is gone afterwards.
struct Parent(String);

impl Parent {
    fn new(engine: &str) -> Self {
        Self(format!("berth-{engine}-{}", std::process::id()))
    }

    fn cgroup(&self) -> Cgroup {
        Cgroup::at(&Hierarchies::detect_all().unwrap(), Path::new(&self.0))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let removed = self.cgroup().remove_all();
        if !std::thread::panicking() {
            removed.expect("the engine leaves no processes");
        }
    }
}

#[track_caller]
fn good(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Debian's podman with a storage of its own, and `berth oci` as its runtime.
struct Podman(tempfile::TempDir);

impl Podman {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path());
        let podman = Self(folder);
        podman.import();
        podman
    }

    /// An image with busybox.
    fn import(&self) {
        let files = files(self.0.path());
        let archive = self.0.path().join("files.tar");
        let mut packed = Command::new("tar");
        packed.arg("-C").arg(files).arg("-cf").arg(&archive).arg(".");
        assert!(packed.status().unwrap().success());
        self.good(&["import", &archive.display().to_string(), "localhost/busybox"]);
    }

    fn run(&self, words: &[&str]) -> Output {
        let place = |name: &str| -> PathBuf { self.0.path().join(name) };
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

#[test]
fn descriptors_of_the_caller_are_handed_on_if_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let root = files(folder.path());
    std::fs::write(folder.path().join("kept"), "through the descriptor\n").unwrap();
    let parent = Parent::new("descriptors");
    let configuration = serde_json::json!({
        "ociVersion": "1.2.0", "root": {"path": root},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
            "args": ["sh", "-c", "cat <&3; cat <&4 2> /dev/null || echo no more"]},
        "linux": {"cgroupsPath": format!("/{}/one", parent.0),
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}]},
    });
    std::fs::write(folder.path().join("config.json"), configuration.to_string()).unwrap();
    let line = "exec 3< kept 4< config.json; exec \"$0\" oci --root state run --preserve-fds 1 one";
    let mut command = Command::new("sh");
    command.args(["-c", line, env!("CARGO_BIN_EXE_berth")]).current_dir(folder.path());
    let said = good(&command.output().unwrap());
    assert_eq!(said, "through the descriptor\nno more\n");
}
