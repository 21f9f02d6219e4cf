//! What is done with a container that is there.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_runtime::cgroup::{Cgroup, CgroupError, Hierarchies};
use berth_runtime::{Container, ExecRequest};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, pidfd_send_signal, waitid};
use serde_json::{Value, json};

use crate::flags::{Enter, Global, Make};
use crate::state::{self, State};
use crate::{OciError, bundle, create};

/// The longest that what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

fn refuse(state: &State, action: &'static str, status: &'static str) -> OciError {
    OciError::State { action, name: state.name.clone(), status }
}

/// Lets a container's program begin.
pub(crate) fn start(global: &Global, name: &str) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    match state.status(&global.root) {
        "created" => {}
        status => return Err(refuse(&state, "start", status)),
    }
    let gate = state::gate(&state.folder(&global.root));
    // Who waits at it holds it open; without anybody this fails at once.
    let opened = open(&gate, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| OciError::file("open", &gate)(error.into()))?;
    // Taken away first: of two who start it, one finds nothing to take.
    fs::remove_file(&gate).map_err(OciError::file("remove", &gate))?;
    rustix::io::write(opened, b"1").map_err(|error| OciError::file("open", &gate)(error.into()))?;
    Ok(())
}

/// The number of a signal by its number or name.
fn signal_of(text: &str) -> Result<Signal, OciError> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = || (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number);
    let number = text.parse().ok().or_else(by_name);
    let signal = number.and_then(Signal::from_named_raw);
    signal.ok_or_else(|| OciError::Usage(format!("`{text}` is no signal")))
}

/// Sends a signal to a container's first process, or to all.
pub(crate) fn kill(global: &Global, name: &str, signal: &str, all: bool) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    let signal = signal_of(signal)?;
    let failed = |source: rustix::io::Errno| OciError::Signal {
        name: state.name.clone(),
        source: source.into(),
    };
    if all {
        let cgroup = cgroup(&state)?;
        for pid in cgroup.processes()? {
            match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        return Ok(());
    }
    let process = state.process().ok_or_else(|| refuse(&state, "signal", "stopped"))?;
    pidfd_send_signal(process, signal).map_err(failed)
}

fn cgroup(state: &State) -> Result<Cgroup, OciError> {
    Ok(Cgroup::at(&Hierarchies::detect()?, &state.cgroup))
}

/// Ends whatever is left in a cgroup, and removes it.
pub(crate) fn clear(cgroup: &Cgroup) -> Result<(), CgroupError> {
    cgroup.kill()?;
    let until = Instant::now() + PATIENCE;
    loop {
        match cgroup.remove() {
            // The kernel ends processes in its own time, and tells nobody of the last.
            Err(error) if Instant::now() < until => {
                if error.source.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) {
                    return Err(error);
                }
                std::thread::yield_now();
            }
            outcome => return outcome,
        }
    }
}

/// Stops the processes of a container where they are, or lets them go on.
pub(crate) fn freeze(global: &Global, name: &str, frozen: bool) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    let (wanted, action) = if frozen { ("running", "pause") } else { ("paused", "resume") };
    match state.status(&global.root) {
        status if status == wanted => Ok(cgroup(&state)?.freeze(frozen)?),
        status => Err(refuse(&state, action, status)),
    }
}

/// The pids of a container.
pub(crate) fn processes(global: &Global, name: &str) -> Result<Value, OciError> {
    let all = cgroup(&State::load(&global.root, name)?)?.processes()?;
    Ok(all.iter().map(|pid| pid.as_raw_nonzero().get()).collect())
}

/// Gives a container other limits.
pub(crate) fn update(global: &Global, name: &str, path: &Path) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    if state.status(&global.root) == "stopped" {
        return Err(refuse(&state, "update", "stopped"));
    }
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => fs::read_to_string(path),
    };
    let text = text.map_err(OciError::file("read", path))?;
    let resources: LinuxResources = serde_json::from_str(&text)
        .map_err(|source| OciError::Bundle { path: path.to_owned(), source: source.into() })?;
    Ok(cgroup(&state)?.limit(&resources)?)
}

/// Removes all that is left of a container.
pub(crate) fn delete(global: &Global, name: &str, force: bool) -> Result<(), OciError> {
    let state = match State::load(&global.root, name) {
        // Who insists has what they want if there is nothing.
        Err(OciError::Absent(_)) if force => return Ok(()),
        state => state?,
    };
    match state.status(&global.root) {
        "stopped" => {}
        status if !force => return Err(refuse(&state, "delete", status)),
        _ => {
            if let Some(process) = state.process() {
                // It may end by itself at this moment.
                let _ended = pidfd_send_signal(process, Signal::KILL);
            }
        }
    }
    clear(&cgroup(&state)?)?;
    let folder = state.folder(&global.root);
    fs::remove_dir_all(&folder).map_err(OciError::file("remove", &folder))
}

fn wait(container: &Container) -> Result<u8, OciError> {
    let failed = |error: rustix::io::Errno| OciError::file("wait for", "the process")(error.into());
    let options = WaitIdOptions::EXITED;
    let status =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(container.pidfd.as_fd()), options));
    let status = status.map_err(failed)?;
    let code = status.map_or(0, |status| match status.exit_status() {
        Some(code) => code,
        None => 128 + status.terminating_signal().unwrap_or(0),
    });
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Makes a container, starts it, waits for its end and removes it. Its exit code is ours.
pub(crate) fn run(global: &Global, asked: &Make) -> Result<u8, OciError> {
    let container = create::make(global, asked)?;
    let code = start(global, &asked.name).and_then(|()| wait(&container));
    delete(global, &asked.name, true)?;
    code
}

/// Runs a further process in a container.
pub(crate) fn exec(global: &Global, asked: &Enter) -> Result<u8, OciError> {
    let state = State::load(&global.root, &asked.name)?;
    match state.status(&global.root) {
        "running" => {}
        status => return Err(refuse(&state, "enter", status)),
    }
    let bundle = bundle::load(&state.bundle, &state.name, &Hierarchies::detect()?)?;
    let process = process(asked, &bundle.spec)?;
    let target = state.process().ok_or_else(|| refuse(&state, "enter", "stopped"))?;
    let cgroup = cgroup(&state)?;
    let terminal = create::asks_for_terminal(&process);
    let container = Container::exec(ExecRequest {
        process: &process,
        user: asked.user.as_deref(),
        container: target.as_fd(),
        mapped: false,
        cgroup: Some(&cgroup),
        seccomp: create::seccomp(&bundle.spec)?,
        stdio: create::stdio(Some(&process), terminal, asked.console.is_some())?,
    })?;
    create::hand_over(&container, asked.console.as_deref())?;
    if let Some(path) = &asked.pid_file {
        state::write_whole(path, &container.pid.as_raw_nonzero().to_string())?;
    }
    if asked.detach { Ok(0) } else { wait(&container) }
}

fn process(asked: &Enter, spec: &Spec) -> Result<Process, OciError> {
    let broken = |path: &Path, source: serde_json::Error| OciError::Bundle {
        path: path.to_owned(),
        source: source.into(),
    };
    if let Some(path) = &asked.process {
        let bytes = fs::read(path).map_err(OciError::file("read", path))?;
        return serde_json::from_slice(&bytes).map_err(|error| broken(path, error));
    }
    if asked.words.is_empty() {
        return Err(OciError::Usage("exec takes a container and a command".to_owned()));
    }
    let mut value = serde_json::to_value(spec.process()).unwrap_or_default();
    value["args"] = json!(asked.words);
    value["terminal"] = asked.terminal.into();
    if let Some(directory) = &asked.directory {
        value["cwd"] = json!(directory);
    }
    let environment = value["env"].as_array().cloned().unwrap_or_default();
    let more = asked.environment.iter().map(|entry| Value::from(entry.as_str()));
    value["env"] = environment.into_iter().chain(more).collect();
    serde_json::from_value(value).map_err(|error| broken(Path::new("config.json"), error))
}

/// The states of all containers.
pub(crate) fn list(global: &Global) -> Result<Value, OciError> {
    let entries = match fs::read_dir(&global.root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(json!([])),
        entries => entries.map_err(OciError::file("read", &global.root))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(OciError::file("read", &global.root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match State::load(&global.root, &name) {
            Ok(state) => all.push(state.to_value(&global.root)),
            // It is being made, or went this moment.
            Err(OciError::Absent(_)) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_by_key(|state| state["id"].to_string());
    Ok(all.into())
}
