//! Bundles with busybox, and the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

static COUNTER: AtomicU32 = AtomicU32::new(0);

const APPLETS: &str = "sh echo cat sleep hostname touch mount umount grep id ls stat readlink mknod nice tr head wc env date \
    dd chmod chown uname mkdir rm ln kill taskset ionice chrt sysctl nproc dnsdomainname ip true false ps awk umask printf test cut sed";

/// A bundle and a place for the command to note things.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub name: String,
}

impl Fixture {
    /// A container that runs a shell line; `more` is laid over its configuration.
    pub fn new(line: &str, more: &Value) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root");
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.exists(), "these tests need Debian's busybox-static at /bin/busybox");
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bundle/rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox, bin.join("busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("oci-test-{}-{number}", std::process::id());
        let mut value = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "harbour",
            "annotations": {"note": "kept"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", line], "cwd": "/",
                "env": ["PATH=/bin"], "noNewPrivileges": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {
                "cgroupsPath": format!("/berth-test/{name}"),
                "resources": {"pids": {"limit": 64}},
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network"}],
            },
        });
        merge(&mut value, more);
        let path = folder.path().join("bundle/config.json");
        fs::write(path, value.to_string()).unwrap();
        Self { folder, name }
    }

    /// A bundle whose program writes to `/out`.
    pub fn writing(line: &str, more: &Value) -> Self {
        Self::new(&format!("{{ {line} ; }} > /out 2>&1"), more)
    }

    pub fn bundle(&self) -> String {
        self.path("bundle").display().to_string()
    }

    /// Runs it to its end: its exit code and what it wrote to `/out`.
    pub fn probe(&self) -> (u8, String) {
        let bundle = self.bundle();
        let (code, _) = self.command(&["run", "--bundle", &bundle, &self.name]);
        let said = fs::read_to_string(self.path("bundle/rootfs/out")).unwrap_or_default();
        (code, said)
    }

    /// Gives the root to another user, as a user namespace needs it.
    pub fn give_to(&self, id: u32) {
        std::os::unix::fs::chown(self.path("bundle/rootfs"), Some(id), Some(id)).unwrap();
    }

    /// Why it is not created. Nothing of it is left then.
    #[track_caller]
    pub fn refused(&self) -> String {
        let said = self.bad(&["create", "--bundle", &self.bundle(), &self.name]);
        assert_eq!(self.good(&["list", "--quiet"]), "", "nothing is left");
        for place in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let cgroup = Path::new(place).join("berth-test").join(&self.name);
            assert!(!cgroup.exists(), "{} is left", cgroup.display());
        }
        said
    }

    /// All lines of the log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn start(&self) {
        self.good(&["start", &self.name]);
    }

    pub fn kill(&self) {
        self.good(&["kill", &self.name, "KILL"]);
        self.until_status("stopped");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a file of the container's root holds, once it is there.
    pub fn until(&self, name: &str) -> String {
        let path = self.path("bundle/rootfs").join(name);
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => assert!(Instant::now() < until, "{} is not written", path.display()),
            }
            std::thread::yield_now();
        }
    }

    pub fn until_status(&self, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.state()["status"] != wanted {
            assert!(Instant::now() < until, "still {}", self.state());
            std::thread::yield_now();
        }
    }

    /// The exit code and the output of a command.
    pub fn command(&self, words: &[&str]) -> (u8, String) {
        let root = self.path("root").display().to_string();
        let log = self.path("log").display().to_string();
        let global = ["--root", &root, "--log", &log, "--log-format=json"];
        let words = global.iter().chain(words).map(|word| (*word).into());
        let mut output = Vec::new();
        let code = berth_oci::main(words, &mut output, &|| Ok(()));
        (code, String::from_utf8(output).unwrap())
    }

    #[track_caller]
    pub fn good(&self, words: &[&str]) -> String {
        let (code, output) = self.command(words);
        assert_eq!(code, 0, "{words:?}: {}", self.logged());
        output
    }

    /// What a command that must fail says in the log.
    #[track_caller]
    pub fn bad(&self, words: &[&str]) -> String {
        let (code, output) = self.command(words);
        assert_ne!(code, 0, "{words:?}: {output}");
        self.logged()
    }

    /// The last line of the log.
    pub fn logged(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let Some(line) = text.lines().last() else { return String::new() };
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "error");
        line["msg"].as_str().unwrap().to_owned()
    }

    pub fn create(&self) {
        let bundle = self.path("bundle").display().to_string();
        let pid = self.path("pid").display().to_string();
        self.good(&["create", "--bundle", &bundle, "--pid-file", &pid, &self.name]);
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.good(&["state", &self.name])).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let (code, _) = self.command(&["delete", "--force", &self.name]);
        if !std::thread::panicking() {
            assert_eq!(code, 0, "{}", self.logged());
        }
    }
}

/// What a program says that is run with these changes to the usual configuration.
#[track_caller]
pub fn said(line: &str, more: &Value) -> String {
    let fixture = Fixture::writing(line, more);
    let (code, said) = fixture.probe();
    assert_eq!(code, 0, "{said} {}", fixture.log());
    said
}

/// Why a configuration with these changes is refused.
#[track_caller]
pub fn refused(more: &Value) -> String {
    Fixture::new("true", more).refused()
}

fn merge(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(fields), Value::Object(more)) => {
            for (name, more) in more {
                merge(fields.entry(name.clone()).or_insert(Value::Null), more);
            }
        }
        (value, more) => *value = more.clone(),
    }
}
