//! Debian's dockerd with `berth oci` as its runtime.

use std::path::Path;
use std::process::Output;

use super::{Daemon, Parent, files, good, script};

const SOCKET: &str = "unix:///run/docker.sock";

struct Docker {
    daemon: Daemon,
    _parent: Parent,
    folder: tempfile::TempDir,
}

impl Docker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let parent = Parent::new("docker");
        let place = |name: &str| folder.path().join(name).display().to_string();
        let settings = serde_json::json!({
            "data-root": place("data"), "exec-root": "/run/docker", "pidfile": "/run/docker.pid",
            "deprecated-key-path": place("key.json"), "hosts": [SOCKET],
            "storage-driver": "vfs", "iptables": false, "ip6tables": false,
            "cgroup-parent": format!("/{}", parent.0),
            "runtimes": {"berth": {"path": script(folder.path())}}, "default-runtime": "berth",
        });
        let file = folder.path().join("daemon.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let words = ["dockerd", "--config-file", file.to_str().unwrap()];
        let ready =
            |daemon: &Daemon| daemon.run(&["docker", "--host", SOCKET, "version"]).status.success();
        let daemon = Daemon::start(&words, &folder.path().join("log"), ready);
        let docker = Self { daemon, _parent: parent, folder };
        docker.import();
        docker
    }

    fn import(&self) {
        let files = files(self.folder.path());
        let archive = self.folder.path().join("files.tar");
        let mut packed = std::process::Command::new("tar");
        packed.arg("-C").arg(files).arg("-cf").arg(&archive).arg(".");
        assert!(packed.status().unwrap().success());
        good(&self.run(&["import", archive.to_str().unwrap(), "busybox"]));
    }

    fn run(&self, words: &[&str]) -> Output {
        self.daemon.run(&[&["docker", "--host", SOCKET], words].concat())
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        good(&self.run(words))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = self.run(&["ps", "--all", "--quiet"]);
        for container in String::from_utf8_lossy(&all.stdout).lines() {
            self.run(&["rm", "--force", container]);
        }
        self.daemon.stop();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn docker_runs_containers_with_our_runtime() {
    let docker = Docker::new();
    assert_eq!(docker.good(&["info", "--format", "{{.DefaultRuntime}}"]).trim(), "berth");
    // Its network comes with a hook.
    let line = "hostname; ip addr show eth0 | grep -c 172.; exit 4";
    let done = docker.run(&["run", "--rm", "--hostname", "harbour", "busybox", "sh", "-c", line]);
    let (output, errors) = (text(&done.stdout), text(&done.stderr));
    assert_eq!((done.status.code(), output.as_str()), (Some(4), "harbour\n1\n"), "{errors}");
    let refused = docker.run(&["run", "--rm", "busybox", "nothing-like-that"]);
    assert_eq!(refused.status.code(), Some(127), "{}", text(&refused.stderr));

    let line = "echo in; sleep 1000";
    let start = ["run", "--detach", "--name", "long", "--memory", "64m", "--cpus", "0.5"];
    docker.good(&[&start[..], &["--pids-limit", "50", "busybox", "sh", "-c", line]].concat());
    let entered = docker.run(&["exec", "--user", "7:8", "long", "sh", "-c", "id -u; exit 6"]);
    assert_eq!((entered.status.code(), &entered.stdout[..]), (Some(6), &b"7\n"[..]));
    let limit = ["exec", "long", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    if Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(docker.good(&limit).trim(), (64 << 20).to_string());
    }
    docker.good(&["update", "--memory", "96m", "--memory-swap", "96m", "long"]);
    if Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(docker.good(&limit).trim(), (96 << 20).to_string());
    }
    assert!(docker.good(&["top", "long"]).contains("sleep 1000"));
    let stats =
        docker.good(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "long"]);
    assert!(stats.contains("/ 96MiB") && stats.trim().ends_with(" 1"), "{stats}");
    docker.good(&["pause", "long"]);
    let status = ["inspect", "--format", "{{.State.Status}}", "long"];
    assert_eq!(docker.good(&status).trim(), "paused");
    docker.good(&["unpause", "long"]);
    docker.good(&["kill", "--signal", "STOP", "long"]);
    assert_eq!(docker.good(&status).trim(), "running");
    docker.good(&["stop", "--time", "1", "long"]);
    assert_eq!(docker.good(&["wait", "long"]).trim(), "137");
    assert_eq!(docker.good(&["logs", "long"]), "in\n");
    docker.good(&["rm", "long"]);
}

#[test]
fn docker_asks_for_more_of_a_container_and_gets_it() {
    let docker = Docker::new();
    let more = [
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "--ulimit",
        "nofile=100:100",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--user",
        "5:6",
        "--group-add",
        "9",
        "--security-opt",
        "no-new-privileges",
        "--shm-size",
        "1m",
        "--init=false",
        "busybox",
        "sh",
        "-c",
    ];
    let line = "id -u; id -G; cat /proc/sys/net/ipv4/ip_forward; grep -E 'NoNewPrivs|CapBnd|Seccomp:' /proc/self/status; \
        grep 'open files' /proc/self/limits; echo x > /file || echo refused; echo y > /scratch/file && echo written";
    let said = docker.good(&[&more[..], &[line]].concat());
    let said: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let wanted = [
        "5",
        "6 9",
        "1",
        "CapBnd: 0000000000000001",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "Max open files 100 100 files",
        "refused",
    ];
    for line in wanted {
        assert!(said.iter().any(|it| it == line), "{line}: {said:?}");
    }
    let tty =
        docker.good(&["run", "--rm", "--tty", "busybox", "sh", "-c", "echo on > /dev/console"]);
    assert_eq!(tty.trim(), "on");
    let all = docker.good(&[
        "run",
        "--rm",
        "--privileged",
        "--net",
        "host",
        "busybox",
        "grep",
        "CapBnd",
        "/proc/self/status",
    ]);
    let bounding = u64::from_str_radix(all.trim().rsplit(['\t', ':']).next().unwrap(), 16).unwrap();
    assert!(bounding.count_ones() > 30, "{all}");
}
