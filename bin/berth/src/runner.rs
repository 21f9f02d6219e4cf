//! `RUN` steps of a Dockerfile, in containers of our own runtime.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use berth_build::{NetworkMode, RunStep, RunnerError, StepMount, StepRunner};
use berth_runtime::namespaces::NamespacesRequest;
use berth_runtime::seccomp::Program;
use berth_runtime::{
    Container, CreateRequest, DEFAULT_CAPABILITIES, Namespaces, Processes, Rootfs, Stdio,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde_json::{Value, json};

/// Runs steps.
pub struct Runner;

impl StepRunner for Runner {
    fn run(&self, step: &RunStep, output: &mut dyn Write) -> Result<i32, RunnerError> {
        run(step, output).map_err(RunnerError)
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn run(step: &RunStep, output: &mut dyn Write) -> Result<i32, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("building needs root: a RUN step is a container".into());
    }
    // Steps use the host's network, as it is what reaches the outside without a server.
    let namespaces = Namespaces::create(&NamespacesRequest {
        user: None,
        network: step.network == NetworkMode::None,
        ipc: true,
        processes: false,
        hostname: Some("build".to_owned()),
        sysctls: Vec::new(),
    })?;
    let spec = serde_json::from_value(configuration(step))?;
    let rootfs = Rootfs::Overlay {
        lower: step.lower.clone(),
        upper: step.upper.clone(),
        work: step.work.clone(),
    };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let copy = rustix::io::dup(&write)?;
    let null = std::fs::File::open("/dev/null")?;
    let container = match Container::create(CreateRequest {
        processes: Processes::Own,
        spec: &spec,
        rootfs: &rootfs,
        namespaces: &namespaces,
        mapping: None,
        user: Some(&step.user),
        cgroup: None,
        seccomp: Some(Program::runtime_default(&[])),
        stdio: Stdio::Descriptors([null.into(), write, copy]),
    }) {
        Ok(container) => container,
        // A command that is not there is the step's failure, not ours.
        Err(error) if error.exit_code() != 128 => {
            writeln!(output, "{error}")?;
            return Ok(error.exit_code());
        }
        Err(error) => return Err(error.into()),
    };
    let copied = forward(std::fs::File::from(read), output);
    if copied.is_err() {
        // Whoever reads has gone; the step is of no use any more.
        pidfd_send_signal(&container.pidfd, Signal::KILL)?;
    }
    let wait = || waitid(WaitId::PidFd(container.pidfd.as_fd()), WaitIdOptions::EXITED);
    let status = rustix::io::retry_on_intr(wait)?.ok_or("the step's process has not ended")?;
    copied?;
    Ok(status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0)))
}

fn forward(mut from: std::fs::File, output: &mut dyn Write) -> std::io::Result<()> {
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => output.write_all(&buffer[..length])?,
        }
    }
}

fn configuration(step: &RunStep) -> Value {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] }),
        json!({ "destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro", "nosuid", "noexec", "nodev"] }),
    ];
    for file in ["/etc/resolv.conf", "/etc/hosts"] {
        if std::path::Path::new(file).exists() {
            mounts.push(json!({ "destination": file, "type": "bind", "source": file, "options": ["bind", "ro"] }));
        }
    }
    mounts.extend(step.mounts.iter().map(|mount| match mount {
        StepMount::Bind { source, target, read_only } => json!({
            "destination": target, "type": "bind", "source": source,
            "options": ["rbind", if *read_only { "ro" } else { "rw" }],
        }),
        StepMount::Tmpfs { target, size } => {
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
            options.extend(size.map(|size| format!("size={size}")));
            json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options })
        }
    }));
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs", "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": step.args,
            "env": step.env,
            "cwd": step.cwd,
            "noNewPrivileges": true,
            "capabilities": { "bounding": DEFAULT_CAPABILITIES, "effective": DEFAULT_CAPABILITIES, "permitted": DEFAULT_CAPABILITIES },
        },
        "mounts": mounts,
        "linux": {
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
