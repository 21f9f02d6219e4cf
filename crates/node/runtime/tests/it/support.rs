//! A container from busybox in a temporary directory and a cgroup of its own.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_runtime::held::Held;
use berth_runtime::namespaces::NamespacesRequest;
use berth_runtime::seccomp::Program;
use berth_runtime::{
    Container, CreateError, CreateRequest, IdMapping, Namespaces, Processes, Rootfs, Stdio,
};
use oci_spec::runtime::Spec;
use rustix::pipe::pipe;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub const MAPPING: IdMapping = IdMapping { host: 200_000, size: 65_536 };

pub struct Fixture {
    pub directory: tempfile::TempDir,
    pub cgroup: Cgroup,
    pub namespaces: Namespaces,
    pub mapping: Option<IdMapping>,
    starts: std::cell::Cell<u32>,
}

impl Fixture {
    pub fn new(mapping: Option<IdMapping>) -> Self {
        Self::with_processes(mapping, false)
    }

    /// The same, its containers sharing one pid namespace if so wished.
    pub fn with_processes(mapping: Option<IdMapping>, shared: bool) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root");
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.exists(), "these tests need Debian's busybox-static at /bin/busybox");
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("layer");
        for name in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(layer.join(name)).unwrap();
        }
        fs::copy(busybox, layer.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "id", "echo", "true", "ls", "sleep", "mount", "stat", "touch", "hostname",
            "tty", "pwd", "env", "kill", "tr", "grep", "readlink",
        ] {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        fs::write(
            layer.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:70:70::/srv:/bin/sh\n",
        )
        .unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\napp:x:70:\n").unwrap();
        let hierarchies = Hierarchies::detect().unwrap();
        let name = format!(
            "berth-test/{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = Cgroup::create(&hierarchies, &PathBuf::from(name)).unwrap();
        let request = NamespacesRequest {
            user: mapping,
            network: true,
            ipc: true,
            processes: shared,
            hostname: Some("harbour".to_owned()),
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())],
        };
        let namespaces = Namespaces::create(&request).unwrap();
        Self { directory, cgroup, namespaces, mapping, starts: std::cell::Cell::new(0) }
    }

    /// The writable directory of the container started last.
    pub fn scratch(&self) -> PathBuf {
        self.directory.path().join(format!("scratch-{}", self.starts.get()))
    }

    pub fn start(
        &self,
        spec: &Spec,
        user: Option<&str>,
        stdio: Stdio,
    ) -> Result<Container, CreateError> {
        let processes = match &self.namespaces.processes {
            Some(shared) => Processes::Join(shared.as_fd()),
            None => Processes::Own,
        };
        self.start_among(processes, spec, user, stdio)
    }

    pub fn start_among(
        &self,
        processes: Processes<'_>,
        spec: &Spec,
        user: Option<&str>,
        stdio: Stdio,
    ) -> Result<Container, CreateError> {
        self.request(processes, spec, user, stdio, Container::create)
    }

    /// Makes a container that waits at a gate.
    pub fn hold(
        &self,
        spec: &Spec,
        stdio: Stdio,
        gate: BorrowedFd<'_>,
    ) -> Result<Container, CreateError> {
        let make = |request: CreateRequest<'_>| Container::create_held(request, Held::new(gate));
        self.request(Processes::Own, spec, None, stdio, make)
    }

    fn request(
        &self,
        processes: Processes<'_>,
        spec: &Spec,
        user: Option<&str>,
        stdio: Stdio,
        make: impl FnOnce(CreateRequest<'_>) -> Result<Container, CreateError>,
    ) -> Result<Container, CreateError> {
        self.starts.set(self.starts.get() + 1);
        let scratch = self.scratch();
        fs::create_dir(&scratch).unwrap();
        let rootfs = Rootfs::Overlay {
            lower: vec![self.directory.path().join("layer")],
            upper: scratch.join("upper"),
            work: scratch.join("work"),
        };
        make(CreateRequest {
            processes,
            spec,
            rootfs: &rootfs,
            namespaces: &self.namespaces,
            mapping: self.mapping,
            user,
            cgroup: Some(&self.cgroup),
            seccomp: Some(Program::runtime_default(&[])),
            stdio,
        })
    }

    /// Runs a shell line to its end; its exit code and both outputs together.
    pub fn run(&self, spec: &Spec, user: Option<&str>) -> (i32, String) {
        let (stdio, output) = captured();
        let container = self.start(spec, user, stdio).unwrap();
        finish(&container, output)
    }

    pub fn shell(&self, line: &str) -> (i32, String) {
        self.run(&spec(&["sh", "-c", line]), None)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // The kernel ends the processes in its own time; an empty cgroup is the sign.
        while self.cgroup.remove().is_err() {
            assert!(std::time::Instant::now() < deadline, "the cgroup stays busy");
            std::thread::yield_now();
        }
    }
}

pub fn captured() -> (Stdio, OwnedFd) {
    let (read, write) = pipe().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let copy = rustix::io::dup(&write).unwrap();
    (Stdio::Descriptors([null.into(), write, copy]), read)
}

pub fn finish(container: &Container, output: OwnedFd) -> (i32, String) {
    let mut text = String::new();
    fs::File::from(output).read_to_string(&mut text).unwrap();
    (wait(container), text)
}

pub fn wait(container: &Container) -> i32 {
    let status =
        waitid(WaitId::PidFd(container.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    match status.exit_status() {
        Some(code) => code,
        None => 128 + status.terminating_signal().unwrap(),
    }
}

/// A configuration as the node agent writes it.
pub fn spec(args: &[&str]) -> Spec {
    serde_json::from_value(value(args)).unwrap()
}

pub fn value(args: &[&str]) -> Value {
    let capabilities =
        json!(["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE"]);
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "unused", "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin", "GREETING=hello"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 512 }],
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/acpi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
