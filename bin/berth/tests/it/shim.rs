//! A shim as the node agent uses it, forked by the real binary.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_shim::client::ShimError;
use berth_shim::protocol::{Exec, Filter, Root, Sandbox, Start, Visibility};
use berth_shim::{Shim, Zygote};
use rustix::pipe::pipe;
use serde_json::json;

struct Pod {
    directory: tempfile::TempDir,
    cgroup: PathBuf,
    shim: Shim,
    zygote: Option<Zygote>,
}

impl Pod {
    fn new(name: &str) -> Self {
        Self::with(name, Visibility::Own)
    }

    fn with(name: &str, processes: Visibility) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root");
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("layer/bin");
        fs::create_dir_all(&layer).unwrap();
        fs::copy("/bin/busybox", layer.join("busybox")).expect("Debian's busybox-static is needed");
        for applet in ["sh", "cat", "sleep", "echo"] {
            std::os::unix::fs::symlink("busybox", layer.join(applet)).unwrap();
        }
        let cgroup = PathBuf::from(format!("berth-test/shim-{}-{name}", std::process::id()));
        Cgroup::create(&Hierarchies::detect().unwrap(), &cgroup).unwrap();
        let zygote = Zygote::spawn(Path::new(env!("CARGO_BIN_EXE_berth"))).unwrap();
        zygote.fork(directory.path()).unwrap();
        let shim = Shim::at(directory.path());
        let sandbox = Sandbox {
            user: Some((300_000, 65_536)),
            network: true,
            ipc: true,
            processes,
            hostname: Some(name.to_owned()),
            sysctls: Vec::new(),
        };
        assert!(shim.create_sandbox(sandbox).unwrap().is_some());
        Self { directory, cgroup, shim, zygote: Some(zygote) }
    }

    fn order(&self, container: &str, line: &str) -> Start {
        let scratch = self.directory.path().join(format!("{container}.scratch"));
        fs::create_dir(&scratch).unwrap();
        Start {
            container: container.to_owned(),
            spec: serde_json::from_value(json!({
                "ociVersion": "1.2.0",
                "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", line], "env": ["PATH=/bin"], "cwd": "/",
                             "noNewPrivileges": true },
                "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            }))
            .unwrap(),
            root: Root::Overlay { lower: vec![self.directory.path().join("layer")], scratch },
            user: None,
            cgroup: self.cgroup.clone(),
            filter: Filter::RuntimeDefault,
            stdin: true,
            terminal: None,
            processes_of: None,
            log: self.log(container),
            log_size: 1 << 20,
            log_files: 3,
        }
    }

    fn log(&self, container: &str) -> PathBuf {
        self.directory.path().join(format!("{container}.log"))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.shim.shutdown().unwrap();
        let cgroup = Cgroup::at(&Hierarchies::detect().unwrap(), &self.cgroup);
        until("the cgroup is empty", || cgroup.remove().is_ok());
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::yield_now();
    }
}

fn read(descriptor: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(descriptor).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn exit_codes_and_logs_reach_the_agent() {
    let pod = Pod::new("codes");
    let events = pod.shim.subscribe().unwrap();
    let pid = pod.shim.start(pod.order("web", "echo out; echo err >&2; exit 3")).unwrap();
    assert!(pid > 1);
    let (name, exit) = events.next_exit().unwrap().unwrap();
    assert_eq!(
        (name.as_str(), exit.code, exit.signal, exit.out_of_memory),
        ("web", 3, None, false)
    );
    let log = fs::read_to_string(pod.log("web")).unwrap();
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    let (state, network) = pod.shim.state().unwrap();
    assert_eq!(state[0].exit, Some(exit));
    assert!(network.is_some());
    pod.shim.forget("web").unwrap();
    assert!(pod.shim.state().unwrap().0.is_empty());
}

#[test]
fn shared_processes_end_with_their_container_and_not_with_another() {
    let pod = Pod::with("share", Visibility::Pod);
    let events = pod.shim.subscribe().unwrap();
    let own = |order: Start, name: &str| {
        let cgroup = pod.cgroup.join(name);
        Cgroup::create(&Hierarchies::detect().unwrap(), &cgroup).unwrap();
        Start { cgroup, ..order }
    };
    // It leaves a process that holds its output open; without a pid namespace of its own nothing else would end it.
    pod.shim.start(own(pod.order("side", "while :; do sleep 60; done"), "side")).unwrap();
    let leaves = "sleep 1000 & echo here; exit 4";
    let pid = pod.shim.start(own(pod.order("web", leaves), "web")).unwrap();
    assert!(pid > 1);
    let (name, exit) = events.next_exit().unwrap().unwrap();
    assert_eq!((name.as_str(), exit.code), ("web", 4));
    let group = |name: &str| Cgroup::at(&Hierarchies::detect().unwrap(), &pod.cgroup.join(name));
    until("what it left is gone", || group("web").remove().is_ok());
    assert!(fs::read_to_string(pod.log("web")).unwrap().contains(" stdout F here\n"));
    let (state, _) = pod.shim.state().unwrap();
    assert!(state.iter().any(|held| held.container == "side" && held.exit.is_none()));
    pod.shim.shutdown().unwrap();
    until("the other has ended with the pod", || group("side").remove().is_ok());
}

#[test]
fn a_profile_of_its_own_holds_further_processes_too() {
    let pod = Pod::new("profile");
    let mut order = pod.order("web", "echo; (>/tmp-x) 2>/dev/null || echo denied; exec sleep 100");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["openat", "creat", "open"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 2, "value": 64, "valueTwo": 64, "op": "SCMP_CMP_MASKED_EQ"}]}]});
    let linux = json!({"seccomp": profile});
    order.spec.set_linux(Some(serde_json::from_value(linux).unwrap()));
    order.filter = Filter::Configured;
    pod.shim.start(order).unwrap();
    until("it says what it may", || {
        fs::read_to_string(pod.log("web")).unwrap().contains(" stdout F denied\n")
    });
    let process = serde_json::from_value(json!({
        "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", "(>/tmp-y) 2>/dev/null || exit 5"],
        "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true,
    }))
    .unwrap();
    let exec = Exec {
        container: "web".to_owned(),
        process,
        user: None,
        filter: Filter::Configured,
        terminal: None,
    };
    let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
    let execution = pod.shim.exec(exec, Some([null(), null(), null()])).unwrap();
    assert_eq!(execution.wait().unwrap().code, 5);
}

#[test]
fn a_missing_command_is_told_with_its_code() {
    let pod = Pod::new("missing");
    let mut order = pod.order("web", "");
    let mut process = order.spec.process().clone().unwrap();
    process.set_args(Some(vec!["nothing-here".to_owned()]));
    order.spec.set_process(Some(process));
    match pod.shim.start(order).unwrap_err() {
        ShimError::Failed { message, exit_code } => {
            assert_eq!(exit_code, 127);
            assert_eq!(message, "`nothing-here` is not in the image, or not in its PATH");
        }
        other => panic!("{other}"),
    }
    assert!(pod.shim.state().unwrap().0.is_empty());
}

#[test]
fn the_pod_outlives_its_starter() {
    let mut pod = Pod::new("outlive");
    pod.shim.start(pod.order("web", "while read line; do echo got $line; done")).unwrap();
    drop(pod.zygote.take());
    let (state, _) = pod.shim.state().unwrap();
    assert_eq!(state.len(), 1);
    assert!(state[0].exit.is_none(), "the container still runs");
    let (read_out, write_out) = pipe().unwrap();
    let (_read_err, write_err) = pipe().unwrap();
    let berth_shim::client::Attached { offset, first, input } =
        pod.shim.attach("web", &write_out, &write_err).unwrap();
    assert!(first);
    drop((write_out, write_err));
    assert_eq!(offset, 0);
    rustix::io::write(input.unwrap(), b"hello\n").unwrap();
    until("the line is logged", || {
        fs::read_to_string(pod.log("web")).unwrap().contains("got hello")
    });
    pod.shim.close_input("web").unwrap();
    // The input's end ends the loop, the container, and with it the attachment.
    assert_eq!(read(read_out), "got hello\n");
    until("the exit is known", || pod.shim.state().unwrap().0[0].exit.is_some());
    assert_eq!(pod.shim.state().unwrap().0[0].exit.unwrap().code, 0);
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(pod.directory.path().join("web.exit")).unwrap()).unwrap();
    assert_eq!(written["code"], 0);
}

#[test]
fn a_slow_reader_loses_nothing() {
    let pod = Pod::new("slow");
    let events = pod.shim.subscribe().unwrap();
    let line = "read go; i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done";
    pod.shim.start(pod.order("web", line)).unwrap();
    let (read_out, write_out) = pipe().unwrap();
    let (_read_err, write_err) = pipe().unwrap();
    let input = pod.shim.attach("web", &write_out, &write_err).unwrap().input;
    drop((write_out, write_err));
    rustix::io::write(input.unwrap(), b"go\n").unwrap();
    // The pipe is far smaller than the output, so the container waits for us.
    let text = read(read_out);
    assert_eq!(text.lines().count(), 20_000);
    assert_eq!(text.lines().last(), Some("line-19999"));
    assert_eq!(events.next_exit().unwrap().unwrap().1.code, 0);
}

#[test]
fn further_processes_return_their_code_and_output() {
    let pod = Pod::new("exec");
    pod.shim.start(pod.order("web", "exec sleep 100")).unwrap();
    let (read_out, write_out) = pipe().unwrap();
    let null: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    let copy = rustix::io::dup(&write_out).unwrap();
    let process = serde_json::from_value(json!({
        "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", "echo inside; exit 9"], "env": ["PATH=/bin"], "cwd": "/",
    }))
    .unwrap();
    let exec = |process| Exec {
        container: "web".to_owned(),
        process,
        user: None,
        filter: Filter::RuntimeDefault,
        terminal: None,
    };
    let execution = pod.shim.exec(exec(process), Some([null, write_out, copy])).unwrap();
    assert_eq!(read(read_out), "inside\n");
    assert_eq!(execution.wait().unwrap().code, 9);
    pod.shim.signal("web", 15).unwrap();
    pod.shim.signal("web", 9).unwrap();
    until("it has ended", || pod.shim.state().unwrap().0[0].exit.is_some());
    assert_eq!(pod.shim.state().unwrap().0[0].exit.unwrap().signal, Some(9));
}

#[test]
fn a_pod_ends_although_a_further_process_runs() {
    let pod = Pod::new("both");
    pod.shim.start(pod.order("web", "exec sleep 100")).unwrap();
    let null = || -> OwnedFd {
        fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
    };
    let process = serde_json::from_value(json!({
        "user": { "uid": 0, "gid": 0 }, "args": ["sleep", "100"], "env": ["PATH=/bin"], "cwd": "/",
    }))
    .unwrap();
    let exec = Exec {
        container: "web".to_owned(),
        process,
        user: None,
        filter: Filter::Unconfined,
        terminal: None,
    };
    let execution = pod.shim.exec(exec, Some([null(), null(), null()])).unwrap();
    // The kernel holds the container's end back until the further process is reaped.
    pod.shim.shutdown().unwrap();
    assert!(!Path::new(&format!("/proc/{}", execution.pid)).exists());
}

#[test]
fn a_shim_takes_little_memory() {
    // Pages of a program that was linked just now are still to be written, and the kernel would count them as the shim's.
    fs::File::open(env!("CARGO_BIN_EXE_berth")).unwrap().sync_all().unwrap();
    let pod = Pod::new("memory");
    pod.shim.start(pod.order("web", "exec sleep 100")).unwrap();
    let shims: Vec<u64> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/fd/2"))
                .is_ok_and(|log| log == pod.directory.path().join("shim.log"))
        })
        .filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Private_Dirty:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .collect();
    assert_eq!(shims.len(), 1, "one shim a pod");
    assert!(shims[0] < 512, "the shim keeps {} KiB to itself", shims[0]);
}
