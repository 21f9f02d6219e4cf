//! What is done with a container that is there.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_runtime::cgroup::{Cgroup, CgroupError};
use berth_runtime::held::{Extras, PrepareError};
use berth_runtime::{Container, ExecRequest, Stdio};
use oci_spec::runtime::{Hook, Hooks, LinuxResources, Process, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde_json::{Value, json};

use crate::bundle::{self, Bundle};
use crate::create::Made;
use crate::flags::{Enter, Form, Global, Make};
use crate::hooks::{self, Place};
use crate::numbers::{self, processors};
use crate::state::{self, State};
use crate::watch::{self, Watch};
use crate::{OciError, Shelter, create};

/// The longest that what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where others may stay for good.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(2);

fn refuse(state: &State, action: &'static str, status: &'static str) -> OciError {
    OciError::State { action, name: state.name.clone(), status }
}

/// The configuration with which a container was made.
fn made_of(global: &Global, state: &State) -> Result<Bundle, OciError> {
    let path = state.folder(&global.root).join(state::CONFIGURATION);
    bundle::read(&path, &state.bundle, &state.name, crate::hierarchies()?)
}

/// Lets a container's program begin, and returns once it has.
pub(crate) fn start(global: &Global, name: &str, shelter: &Shelter<'_>) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    match state.status(&global.root) {
        "created" => {}
        status => return Err(refuse(&state, "start", status)),
    }
    let bundle = made_of(global, &state)?;
    let_in(global, &state, &bundle, shelter)
}

/// Lets the program of a container begin that is known to wait.
fn let_in(
    global: &Global,
    state: &State,
    bundle: &Bundle,
    shelter: &Shelter<'_>,
) -> Result<(), OciError> {
    if !state.program {
        let name = &state.name;
        return Err(OciError::Invalid(format!("container `{name}` has no process to start")));
    }
    if !hooks::named(bundle.hooks(), "startContainer").is_empty() {
        // They are programs of the container.
        shelter()?;
    }
    let folder = state.folder(&global.root);
    let (gate, opening) = (state::gate(&folder), state::opening(&folder));
    // Who waits at it holds it open; without anybody this fails at once.
    let opened = open(&gate, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| OciError::file("open", &gate)(error.into()))?;
    // Taken away first: of two who start it, one finds nothing to take.
    fs::rename(&gate, &opening).map_err(OciError::file("take away", &gate))?;
    let begun = begin(state, bundle, &opening, &opened);
    if begun.is_err() {
        end(state);
        destroy(global, state, bundle.hooks())?;
    }
    begun
}

fn begin(state: &State, bundle: &Bundle, opening: &Path, gate: &OwnedFd) -> Result<(), OciError> {
    let first = hooks::named(bundle.hooks(), "startContainer");
    if !first.is_empty() {
        let process = state.process().ok_or_else(|| refuse(state, "start", "stopped"))?;
        let value = state.to_value_as("created", state.pid_inside());
        let enter = |hook: &Hook, stdio| enter(state, bundle, process.as_fd(), hook, stdio);
        hooks::call("startContainer", first, &value, Place::Within(&enter))?;
    }
    let watch = if state.watched { Some(Watch::new(state)?) } else { None };
    rustix::io::write(gate, b"1").map_err(|error| OciError::file("open", opening)(error.into()))?;
    match watch {
        Some(watch) => watch.follow(gate)?,
        None if watch::is_closed(gate, watch::PATIENCE)? => {}
        None => {
            let late = std::io::ErrorKind::TimedOut;
            return Err(OciError::file("wait for", "the program")(late.into()));
        }
    }
    // From here on it is told to run, and others may enter.
    fs::remove_file(opening).map_err(OciError::file("remove", opening))?;
    let last = hooks::named(bundle.hooks(), "poststart");
    let value = state.to_value_as("running", state.pid);
    hooks::call("poststart", last, &value, Place::Outside(&state.bundle))
}

/// Starts a hook that the container brings: as its process will be, with the same user, capabilities, filter and cgroup.
fn enter(
    state: &State,
    bundle: &Bundle,
    container: BorrowedFd<'_>,
    hook: &Hook,
    stdio: [OwnedFd; 3],
) -> Result<Container, OciError> {
    let mut value = serde_json::to_value(bundle.spec.process()).unwrap_or_default();
    let path = json!(hook.path());
    value["args"] =
        hook.args().as_ref().filter(|args| !args.is_empty()).map_or(json!([path]), |it| json!(it));
    value["env"] = json!(hook.env().as_deref().unwrap_or_default());
    value["cwd"] = "/".into();
    value["terminal"] = false.into();
    let process: Process = serde_json::from_value(value)
        .map_err(|source| OciError::Bundle { path: "hooks".into(), source: source.into() })?;
    let request = ExecRequest {
        process: &process,
        user: None,
        container,
        mapped: state.mapped,
        cgroup: Some(&cgroup(state)?),
        seccomp: create::seccomp(&bundle.spec)?,
        stdio: Stdio::Descriptors(stdio),
    };
    let extras =
        Extras { program: Some(hook.path().clone()), fresh_keyring: true, ..Extras::default() };
    let value = state.to_value_as("created", state.pid);
    let mut listen = listener(&bundle.spec, &value);
    Container::exec_with(request, &extras, Some(&mut listen)).map_err(crate::told)
}

/// What hands over where the filter of a further process asks.
fn listener<'a>(
    spec: &'a Spec,
    state: &'a Value,
) -> impl FnMut(Pid, BorrowedFd<'_>) -> Result<(), PrepareError> + 'a {
    move |pid, listener| {
        let told = create::tell_listener(spec, pid, listener, state);
        told.map_err(|error| Box::new(error) as PrepareError)
    }
}

/// Ends the first process, which may be gone already.
fn end(state: &State) {
    if let Some(process) = state.process() {
        let _ended = pidfd_send_signal(process, Signal::KILL);
    }
}

/// The number of a signal by its number or name; those for real time are counted from either end of theirs.
fn signal_of(text: &str) -> Result<i32, OciError> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    // Of the kernel's 32, the first two are the threads library's own.
    const REAL_TIME: [i32; 2] = [34, 64];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = || (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number);
    let from_end = |end: &str, base: i32, sign: char| {
        let offset = name.strip_prefix(end)?;
        let offset: i32 = match offset.strip_prefix(sign) {
            Some(digits) => digits.parse::<u8>().ok()?.into(),
            None => offset.is_empty().then_some(0)?,
        };
        let number = if sign == '+' { base + offset } else { base - offset };
        (REAL_TIME[0]..=REAL_TIME[1]).contains(&number).then_some(number)
    };
    let number = match text.parse() {
        Ok(number) => Some(number).filter(|number| (1..=REAL_TIME[1]).contains(number)),
        Err(_) => by_name()
            .or_else(|| from_end("RTMIN", REAL_TIME[0], '+'))
            .or_else(|| from_end("RTMAX", REAL_TIME[1], '-')),
    };
    number.ok_or_else(|| OciError::Usage(format!("`{text}` is no signal")))
}

/// Sends a signal to a container's first process, or to all.
pub(crate) fn kill(global: &Global, name: &str, signal: &str, all: bool) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    let signal = signal_of(signal)?;
    if all {
        return Ok(cgroup(&state)?.signal(signal)?);
    }
    let process = state.process().ok_or_else(|| refuse(&state, "signal", "stopped"))?;
    berth_sys::signal::send(process.as_fd(), signal)
        .map_err(|source| OciError::Signal { name: state.name.clone(), source })
}

fn cgroup(state: &State) -> Result<Cgroup, OciError> {
    Ok(Cgroup::at(crate::hierarchies()?, &state.cgroup))
}

/// Ends whatever is left in a cgroup that was made for the container, and removes it. One that was there before may hold others by
/// now: nobody is ended there, and who is left is told of.
#[expect(clippy::disallowed_methods, reason = "the kernel tells nobody; the loop has a deadline")]
pub(crate) fn clear(cgroup: &Cgroup, own: bool) -> Result<(), CgroupError> {
    let until = Instant::now() + if own { PATIENCE } else { PATIENCE_WITH_OTHERS };
    loop {
        let outcome = match own {
            // Again each time: with version 1 one may have been forked meanwhile.
            true => cgroup.kill().and_then(|()| cgroup.remove_all()),
            false if !cgroup.is_in_use()? => Ok(()),
            false => Err(CgroupError {
                action: "leave the processes of others in",
                path: cgroup.place(),
                source: rustix::io::Errno::BUSY.into(),
            }),
        };
        match outcome {
            // The kernel ends processes in its own time, and tells nobody of the last.
            Err(error) if Instant::now() < until => {
                if error.source.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(1));
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

/// The processes of a container: their pids, or what the host's `ps` tells of them.
pub(crate) fn processes(
    global: &Global,
    name: &str,
    form: Form,
    options: &[String],
    output: &mut dyn Write,
) -> Result<(), OciError> {
    let all = cgroup(&State::load(&global.root, name)?)?.processes()?;
    let pids: Vec<i32> = all.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    let told = OciError::file("write to", "standard output");
    if form != Form::Table {
        return writeln!(output, "{}", json!(pids)).map_err(told);
    }
    let options = if options.is_empty() { &["-ef".to_owned()][..] } else { options };
    let asked = std::process::Command::new("ps").args(options).output();
    let asked = asked.map_err(OciError::file("run", "ps"))?;
    if !asked.status.success() {
        let reason = String::from_utf8_lossy(&asked.stderr);
        let reason = std::io::Error::other(reason.lines().next().unwrap_or_default().to_owned());
        return Err(OciError::file("run", "ps")(reason));
    }
    let text = String::from_utf8_lossy(&asked.stdout);
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|word| word == "PID").ok_or_else(|| {
        OciError::Usage("the options of ps have to let it tell the PID".to_owned())
    })?;
    let of_container = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let kept: Vec<&str> = std::iter::once(heading).chain(lines.filter(of_container)).collect();
    writeln!(output, "{}", kept.join("\n")).map_err(told)
}

/// Gives a container other limits.
pub(crate) fn update(global: &Global, name: &str, resources: Value) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    if state.status(&global.root) == "stopped" {
        return Err(refuse(&state, "update", "stopped"));
    }
    let resources: LinuxResources = serde_json::from_value(resources)
        .map_err(|source| OciError::Bundle { path: "resources".into(), source: source.into() })?;
    Ok(cgroup(&state)?.limit(&crate::resources::changed(&resources))?)
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
        "creating" => return Err(refuse(&state, "delete", "creating")),
        status if !force => return Err(refuse(&state, "delete", status)),
        _ => end(&state),
    }
    let bundle = made_of(global, &state);
    // Its hooks are lost with its configuration, but it has to be removable.
    if let Err(error) = &bundle {
        global.warn(&berth_report::chain(error));
    }
    destroy(global, &state, bundle.as_ref().ok().and_then(Bundle::hooks))
}

/// Undoes what was done to make it, and says so to the hooks.
fn destroy(global: &Global, state: &State, hooks: Option<&Hooks>) -> Result<(), OciError> {
    clear(&cgroup(state)?, state.own_cgroup)?;
    let folder = state.folder(&global.root);
    fs::remove_dir_all(&folder).map_err(OciError::file("remove", &folder))?;
    after(global, hooks, state);
    Ok(())
}

/// Calls the hooks after a container; what fails there is told and changes nothing.
pub(crate) fn after(global: &Global, hooks: Option<&Hooks>, state: &State) {
    let value = state.to_value_as("stopped", 0);
    for hook in hooks::named(hooks, "poststop") {
        let one = std::slice::from_ref(hook);
        if let Err(error) = hooks::call("poststop", one, &value, Place::Outside(&state.bundle)) {
            global.warn(&berth_report::chain(&error));
        }
    }
}

/// The exit code of a process of ours that has ended, once it has.
pub(crate) fn wait(container: &Container) -> Result<u8, OciError> {
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

/// Makes a container, starts it, and unless it is to be left alone waits for its end and removes it. Its exit code is ours.
pub(crate) fn run(global: &Global, asked: &Make, shelter: &Shelter<'_>) -> Result<u8, OciError> {
    let Made { container, state, bundle } = create::make(global, asked, shelter)?;
    let started = let_in(global, &state, &bundle, shelter);
    if started.is_err() {
        // Nothing is left if it was the start that failed.
        delete(global, &asked.name, true)?;
    }
    started?;
    if asked.detach {
        return Ok(0);
    }
    let code = wait(&container);
    // Somebody may have removed it as soon as it had ended.
    if !asked.keep && state.folder(&global.root).exists() {
        destroy(global, &state, bundle.hooks())?;
    }
    code
}

/// Runs a further process in a container.
pub(crate) fn exec(global: &Global, asked: &Enter) -> Result<u8, OciError> {
    let state = State::load(&global.root, &asked.name)?;
    match state.status(&global.root) {
        "running" => {}
        "paused" if asked.ignore_paused => {}
        status => return Err(refuse(&state, "enter", status)),
    }
    let bundle = made_of(global, &state)?;
    let process = process(global, asked, &bundle.spec)?;
    let target = state.process().ok_or_else(|| refuse(&state, "enter", "stopped"))?;
    let first = Pid::from_raw(state.pid).ok_or_else(|| refuse(&state, "enter", "stopped"))?;
    let cgroup = cgroup(&state)?.beside(first)?;
    let terminal = create::asks_for_terminal(&process);
    let affinity = process.exec_cpu_affinity().as_ref();
    if let Some(list) = affinity.and_then(|affinity| affinity.initial().as_ref()) {
        // What is cloned from here on begins there.
        rustix::thread::sched_setaffinity(None, &processors(list)?)
            .map_err(|error| OciError::file("use the processors", list)(error.into()))?;
    }
    let last = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref());
    let extras = Extras {
        personality: create::personality(bundle.spec.linux().as_ref())?,
        memory: numbers::memory(bundle.spec.linux().as_ref())?,
        preserved: asked.preserved,
        fresh_keyring: true,
        processors: last.map(|list| processors(list)).transpose()?,
        ..Extras::default()
    };
    let request = ExecRequest {
        process: &process,
        user: asked.user.as_deref(),
        container: target.as_fd(),
        mapped: state.mapped,
        cgroup: Some(&cgroup),
        seccomp: create::seccomp(&bundle.spec)?,
        stdio: create::stdio(Some(&process), terminal, asked.console.is_some())?,
    };
    let value = state.to_value(&global.root);
    let mut listen = listener(&bundle.spec, &value);
    let started = Container::exec_with(request, &extras, Some(&mut listen));
    let container = started.map_err(crate::told)?;
    let handed = create::hand_over(&container, asked.console.as_deref()).and_then(|()| {
        asked.pid_file.as_ref().map_or(Ok(()), |path| {
            state::write_whole(path, &container.pid.as_raw_nonzero().to_string())
        })
    });
    if handed.is_err() {
        let _ended = pidfd_send_signal(&container.pidfd, Signal::KILL);
        wait(&container)?;
    }
    handed?;
    if asked.detach { Ok(0) } else { wait(&container) }
}

fn process(global: &Global, asked: &Enter, spec: &Spec) -> Result<Process, OciError> {
    let broken = |path: &Path, source: serde_json::Error| OciError::Bundle {
        path: path.to_owned(),
        source: source.into(),
    };
    let (path, mut value) = match &asked.process {
        Some(path) => {
            let bytes = fs::read(path).map_err(OciError::file("read", path))?;
            let value: Value =
                serde_json::from_slice(&bytes).map_err(|error| broken(path, error))?;
            (path.as_path(), value)
        }
        None if asked.words.is_empty() => {
            return Err(OciError::Usage("exec takes a container and a command".to_owned()));
        }
        None => (Path::new(state::CONFIGURATION), of_words(asked, spec)?),
    };
    crate::check::process(&value)?;
    inherit_labels(&mut value, spec.process().as_ref());
    crate::check::spell(&mut value);
    crate::check::grant(&mut value).iter().for_each(|warning| global.warn(warning));
    serde_json::from_value(value).map_err(|error| broken(path, error))
}

/// A process that names no label is confined as the container's own.
fn inherit_labels(value: &mut Value, own: Option<&Process>) {
    let Some(own) = own else { return };
    for (field, label) in
        [("apparmorProfile", own.apparmor_profile()), ("selinuxLabel", own.selinux_label())]
    {
        if let (None | Some(""), Some(label)) = (value[field].as_str(), label) {
            value[field] = label.as_str().into();
        }
    }
}

/// The container's own process with what the command line says.
fn of_words(asked: &Enter, spec: &Spec) -> Result<Value, OciError> {
    let mut value = serde_json::to_value(spec.process()).unwrap_or_default();
    value["args"] = json!(asked.words);
    value["terminal"] = asked.terminal.into();
    if let Some(directory) = &asked.directory {
        value["cwd"] = json!(directory);
    }
    if asked.no_new_privileges {
        value["noNewPrivileges"] = true.into();
    }
    for group in &asked.groups {
        let group: u32 = group
            .parse()
            .map_err(|_| OciError::Usage(format!("`{group}` is no number of a group")))?;
        let groups = &mut value["user"]["additionalGids"];
        let all = groups.as_array().cloned().unwrap_or_default();
        *groups = all.into_iter().chain([group.into()]).collect();
    }
    for capability in &asked.capabilities {
        for set in ["bounding", "effective", "permitted"] {
            let names = &mut value["capabilities"][set];
            let all = names.as_array().cloned().unwrap_or_default();
            *names = all.into_iter().chain([capability.as_str().into()]).collect();
        }
    }
    let environment = value["env"].as_array().cloned().unwrap_or_default();
    let more = asked.environment.iter().map(|entry| Value::from(entry.as_str()));
    value["env"] = environment.into_iter().chain(more).collect();
    Ok(value)
}

/// The states of all containers.
pub(crate) fn list(global: &Global, form: Form, output: &mut dyn Write) -> Result<(), OciError> {
    let told = OciError::file("write to", "standard output");
    let all = states(global)?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let lines: Vec<String> = match form {
        Form::Json => return writeln!(output, "{:#}", Value::from(all)).map_err(told),
        Form::Names => all.iter().map(|state| text(&state["id"])).collect(),
        Form::Table => {
            let heading = ["id", "pid", "status", "bundle", "created"];
            let cell = |state: &Value| heading.map(|name| text(&state[name]));
            let rows: Vec<[String; 5]> = std::iter::once(heading.map(str::to_uppercase))
                .chain(all.iter().map(cell))
                .collect();
            let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            let widths = [0, 1, 2, 3, 4].map(width);
            let line = |row: &[String; 5]| {
                let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            };
            rows.iter().map(line).collect()
        }
    };
    lines.iter().try_for_each(|line| writeln!(output, "{line}")).map_err(told)
}

fn states(global: &Global) -> Result<Vec<Value>, OciError> {
    let entries = match fs::read_dir(&global.root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
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
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_processes_are_confined_as_the_first_unless_they_say_otherwise() {
        let process = |more: Value| {
            let mut value = json!({"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/"});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            value
        };
        let own = process(json!({"apparmorProfile": "a", "selinuxLabel": "b"}));
        let own: Process = serde_json::from_value(own).unwrap();
        let mut silent = process(json!({"apparmorProfile": ""}));
        inherit_labels(&mut silent, Some(&own));
        assert_eq!(
            (&silent["apparmorProfile"], &silent["selinuxLabel"]),
            (&json!("a"), &json!("b"))
        );
        let mut saying = process(json!({"apparmorProfile": "c", "selinuxLabel": "d"}));
        inherit_labels(&mut saying, Some(&own));
        assert_eq!(
            (&saying["apparmorProfile"], &saying["selinuxLabel"]),
            (&json!("c"), &json!("d"))
        );
    }
}
