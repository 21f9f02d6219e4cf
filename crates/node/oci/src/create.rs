//! Making a container, up to the point where only its program is missing.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_runtime::held::{Extras, Held, Own, PrepareError};
use berth_runtime::mapping::IdMappings;
use berth_runtime::seccomp::Program;
use berth_runtime::{Container, CreateRequest, Namespaces, Processes, Rootfs, Stdio};
use oci_spec::runtime::{
    Linux, LinuxNamespaceType, LinuxPersonalityDomain, LinuxSeccomp, LinuxTimeOffset, Process, Spec,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::bundle::{self, Bundle};
use crate::flags::{Global, Make};
use crate::hooks::{self, Place};
use crate::state::{self, State};
use crate::{OciError, Shelter, act, watch};

/// Makes a container that waits for `start`.
pub(crate) fn create(global: &Global, asked: &Make, shelter: &Shelter<'_>) -> Result<(), OciError> {
    make(global, asked, shelter).map(drop)
}

/// A container that was made here.
pub(crate) struct Made {
    pub container: Container,
    pub state: State,
    pub bundle: Bundle,
}

/// The same, for who goes on with it.
pub(crate) fn make(global: &Global, asked: &Make, shelter: &Shelter<'_>) -> Result<Made, OciError> {
    let place = fs::canonicalize(&asked.bundle).map_err(OciError::file("open", &asked.bundle))?;
    let hierarchies = crate::hierarchies()?;
    let bundle = bundle::load(&place, &asked.name, hierarchies)?;
    let watched = watch::is_enough(&bundle.spec);
    if !watched {
        // Starts this program anew, so nothing is made before.
        shelter()?;
    }
    let (folder, _lock) = state::claim(&global.root, &asked.name)?;
    let made = begin(global, &folder, asked, (place, hierarchies, &bundle, watched));
    if made.is_err() {
        // The failure is what people need to hear; a name that stays taken will be told when it is used again.
        let _left = fs::remove_dir_all(&folder);
    }
    made.map(|(container, state)| Made { container, state, bundle })
}

fn begin(
    global: &Global,
    folder: &Path,
    asked: &Make,
    (place, hierarchies, bundle, watched): (PathBuf, &Hierarchies, &Bundle, bool),
) -> Result<(Container, State), OciError> {
    bundle.warnings.iter().for_each(|warning| global.warn(warning));
    if !bundle.rootfs.is_dir() {
        return Err(OciError::file("open", &bundle.rootfs)(
            std::io::ErrorKind::NotADirectory.into(),
        ));
    }
    let mut prepared = Prepared::new(asked, bundle)?;
    let found = Cgroup::at(hierarchies, &bundle.cgroup);
    let own = !found.exists();
    if !own && found.is_in_use()? {
        return Err(OciError::Invalid(format!(
            "the cgroup `{}` is in use",
            bundle.cgroup.display()
        )));
    }
    let mut state = State {
        name: asked.name.clone(),
        bundle: place,
        rootfs: bundle.rootfs.clone(),
        pid: 0,
        began: 0,
        created: jiff::Timestamp::now().to_string(),
        annotations: bundle.annotations.clone(),
        cgroup: bundle.cgroup.clone(),
        own_cgroup: own,
        program: bundle.program,
        mapped: prepared.namespaces.user.is_some(),
        watched,
    };
    let copy = folder.join(state::CONFIGURATION);
    fs::write(&copy, &bundle.text).map_err(OciError::file("write", &copy))?;
    state.save(folder)?;
    let cgroup = Cgroup::create(hierarchies, &bundle.cgroup).inspect_err(|_| {
        let _already_failed = act::clear(&found, own);
    })?;
    let mut called = false;
    let made = inside(folder, asked, bundle, &cgroup, &mut prepared, &mut state, &mut called);
    if made.is_err() {
        let _already_failed = act::clear(&cgroup, own);
        if called {
            act::after(global, bundle.hooks(), &state);
        }
    }
    made.map(|container| (container, state))
}

/// What is worked out before anything is made that would have to be undone.
struct Prepared {
    namespaces: Namespaces,
    processes: Option<Option<OwnedFd>>,
    own: Own,
    joined: Vec<(OwnedFd, i32)>,
    mappings: Option<IdMappings>,
    seccomp: Option<Program>,
    stdio: Option<Stdio>,
}

impl Prepared {
    fn new(asked: &Make, bundle: &Bundle) -> Result<Self, OciError> {
        let spec = &bundle.spec;
        let terminal = spec.process().as_ref().is_some_and(asks_for_terminal);
        let seccomp = seccomp(spec)?;
        let stdio = stdio(spec.process().as_ref(), terminal, asked.console.is_some())?;
        let linux = spec.linux().as_ref();
        let listed = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let mut prepared = Self {
            namespaces: Namespaces::default(),
            processes: None,
            own: Own::default(),
            joined: Vec::new(),
            mappings: None,
            seccomp,
            stdio: Some(stdio),
        };
        for namespace in listed {
            let other = namespace.path().as_ref().map(|path| {
                let opened = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                opened.map_err(|error| OciError::file("open", path)(error.into()))
            });
            let other = other.transpose()?;
            let kind = namespace.typ();
            if let Some(other) = &other {
                crate::check::joined(linux, kind, other.as_fd())?;
            }
            match (kind, other) {
                (LinuxNamespaceType::User, other) => prepared.user(other, linux)?,
                (LinuxNamespaceType::Pid, other) => prepared.processes = Some(other),
                (_, Some(other)) => prepared.joined.push((other, bundle::clone_flag(kind))),
                (LinuxNamespaceType::Network, None) => prepared.own.network = true,
                (LinuxNamespaceType::Ipc, None) => prepared.own.ipc = true,
                (LinuxNamespaceType::Uts, None) => prepared.own.uts = true,
                (LinuxNamespaceType::Cgroup, None) => prepared.own.cgroup = true,
                (LinuxNamespaceType::Time, None) => prepared.own.time = true,
                (LinuxNamespaceType::Mount, None) => {}
            }
        }
        Ok(prepared)
    }

    fn user(&mut self, other: Option<OwnedFd>, linux: Option<&Linux>) -> Result<(), OciError> {
        let failed = OciError::Mappings;
        let (user, mappings) = if let Some(user) = other {
            let mappings = IdMappings::of(user.as_fd()).map_err(failed)?;
            (user, mappings)
        } else {
            let map = |select: fn(&Linux) -> &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
                linux.and_then(|linux| select(linux).as_deref()).unwrap_or_default()
            };
            let mappings =
                IdMappings::new(map(|it| it.uid_mappings()), map(|it| it.gid_mappings()));
            (mappings.create().map_err(failed)?, mappings)
        };
        self.namespaces.user = Some(user);
        self.mappings = Some(mappings);
        Ok(())
    }
}

fn inside(
    folder: &Path,
    asked: &Make,
    bundle: &Bundle,
    cgroup: &Cgroup,
    prepared: &mut Prepared,
    state: &mut State,
    called: &mut bool,
) -> Result<Container, OciError> {
    let spec = &bundle.spec;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    cgroup.limit(&crate::resources::of_container(resources))?;
    let gate = state::gate(folder);
    mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|error| OciError::file("create", &gate)(error.into()))?;
    // For both directions, so that opening waits for nobody and reading never finds an end.
    let opened = open(&gate, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| OciError::file("open", &gate)(error.into()))?;
    let creating = state.clone();
    let mut listen = |pid: Pid, listener: BorrowedFd<'_>| {
        let told = creating.to_value_as("creating", pid.as_raw_nonzero().get());
        tell_listener(spec, pid, listener, &told).map_err(|error| Box::new(error) as PrepareError)
    };
    let mut early = |pid: Pid, process: BorrowedFd<'_>| {
        *called = true;
        state.pid = pid.as_raw_nonzero().get();
        call_early(bundle, state, process).map_err(|error| Box::new(error) as PrepareError)
    };
    let hooked = ["prestart", "createRuntime", "createContainer"]
        .iter()
        .any(|kind| !hooks::named(bundle.hooks(), kind).is_empty());
    let processes = match &prepared.processes {
        Some(Some(other)) => Processes::Join(other.as_fd()),
        Some(None) => Processes::Own,
        None => Processes::Host,
    };
    let linux = spec.linux().as_ref();
    let held = Held {
        listen: Some(&mut listen),
        prepare: if hooked { Some(&mut early) } else { None },
        seen_at: &bundle.rootfs,
        own: prepared.own,
        joined: std::mem::take(&mut prepared.joined),
        mappings: prepared.mappings.take(),
        hostname: spec.hostname().as_deref().unwrap_or_default(),
        domainname: spec.domainname().as_deref().unwrap_or_default(),
        time_offsets: offsets(linux),
        propagation: propagation(linux)?,
        pivot: asked.pivot,
        extras: Extras {
            personality: personality(linux)?,
            memory: crate::numbers::memory(linux)?,
            preserved: asked.preserved,
            fresh_keyring: asked.fresh_keyring,
            ..Extras::default()
        },
        ..Held::new(opened.as_fd())
    };
    let request = CreateRequest {
        spec,
        rootfs: &Rootfs::Directory(bundle.rootfs.clone()),
        namespaces: &prepared.namespaces,
        processes,
        mapping: None,
        user: None,
        cgroup: Some(cgroup),
        seccomp: prepared.seccomp.take(),
        stdio: prepared.stdio.take().ok_or_else(|| OciError::Usage("no streams".to_owned()))?,
    };
    let container = Container::create_held(request, held).map_err(crate::told)?;
    let pid = container.pid.as_raw_nonzero().get();
    state.pid = pid;
    let finished = note(folder, asked, state, &container);
    if finished.is_err() {
        // It may end by itself at this moment; the cgroup is emptied after this anyway, but may not be ours alone.
        let _ended =
            rustix::process::pidfd_send_signal(&container.pidfd, rustix::process::Signal::KILL);
    }
    finished.map(|()| container)
}

fn note(
    folder: &Path,
    asked: &Make,
    state: &mut State,
    container: &Container,
) -> Result<(), OciError> {
    hand_over(container, asked.console.as_deref())?;
    state.began = state::began(state.pid).unwrap_or_default();
    state.save(folder)?;
    if let Some(path) = &asked.pid_file {
        state::write_whole(path, &state.pid.to_string())?;
    }
    Ok(())
}

/// The hooks before the root is entered.
fn call_early(bundle: &Bundle, state: &State, process: BorrowedFd<'_>) -> Result<(), OciError> {
    let outside = state.to_value_as("creating", state.pid);
    for kind in ["prestart", "createRuntime"] {
        let hooks = hooks::named(bundle.hooks(), kind);
        hooks::call(kind, hooks, &outside, Place::Outside(&state.bundle))?;
    }
    let inside = state.to_value_as("creating", state.pid_inside());
    let hooks = hooks::named(bundle.hooks(), "createContainer");
    hooks::call("createContainer", hooks, &inside, Place::Inside(process, state.mapped))
}

fn offsets(linux: Option<&Linux>) -> String {
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref()).into_iter().flatten();
    let line = |(clock, offset): (&String, &LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
    };
    offsets.map(line).collect()
}

fn propagation(linux: Option<&Linux>) -> Result<u64, OciError> {
    let said = linux.and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    let name = if said.is_empty() { "private" } else { said };
    let known = berth_runtime::propagation(name);
    known.map(|(_, kind)| kind).ok_or_else(|| {
        OciError::Invalid(format!("`{name}` is no way in which mounts spread from the root"))
    })
}

pub(crate) fn personality(linux: Option<&Linux>) -> Result<Option<u64>, OciError> {
    let Some(asked) = linux.and_then(|linux| linux.personality().as_ref()) else {
        return Ok(None);
    };
    if asked.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(OciError::Unsupported("a personality with flags".to_owned()));
    }
    Ok(Some(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

pub(crate) fn asks_for_terminal(process: &Process) -> bool {
    process.terminal().unwrap_or(false)
}

/// The streams of a process: ours, or a terminal of its own that somebody waits for.
pub(crate) fn stdio(
    process: Option<&Process>,
    terminal: bool,
    console: bool,
) -> Result<Stdio, OciError> {
    match (terminal, console) {
        (true, false) => Err(OciError::Usage("a terminal needs --console-socket".to_owned())),
        (false, true) => Err(OciError::Usage("--console-socket is for a terminal".to_owned())),
        (true, true) => {
            let size = process.and_then(Process::console_size);
            let number =
                |value: Option<u64>| value.and_then(|it| u16::try_from(it).ok()).unwrap_or(0);
            Ok(Stdio::Terminal {
                rows: number(size.map(|size| size.height())),
                columns: number(size.map(|size| size.width())),
            })
        }
        (false, false) => {
            let failed = OciError::file("share", "the standard streams");
            let streams = [
                rustix::io::dup(rustix::stdio::stdin()),
                rustix::io::dup(rustix::stdio::stdout()),
                rustix::io::dup(rustix::stdio::stderr()),
            ];
            match streams {
                [Ok(input), Ok(output), Ok(error)] => {
                    Ok(Stdio::Descriptors([input, output, error]))
                }
                _ => Err(failed(std::io::ErrorKind::NotConnected.into())),
            }
        }
    }
}

/// Gives the terminal to whoever listens at the socket.
pub(crate) fn hand_over(container: &Container, socket: Option<&Path>) -> Result<(), OciError> {
    let (Some(terminal), Some(path)) = (&container.terminal, socket) else { return Ok(()) };
    let stream = UnixStream::connect(path).map_err(OciError::file("connect to", path))?;
    berth_sys::socket::send(&stream, b"/dev/ptmx", &[terminal.as_fd()])
        .map(drop)
        .map_err(OciError::file("send the terminal to", path))
}

/// Gives what a filter asks to whoever answers: one message on a connection of its own.
pub(crate) fn tell_listener(
    spec: &Spec,
    pid: Pid,
    listener: BorrowedFd<'_>,
    state: &Value,
) -> Result<(), OciError> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let path = profile.and_then(|profile| profile.listener_path().as_ref());
    let Some(path) = path else { return Ok(()) };
    let metadata = profile.and_then(|profile| LinuxSeccomp::listener_metadata(profile).as_deref());
    let message = json!({
        "ociVersion": bundle::VERSION,
        "fds": ["seccompFd"],
        "pid": pid.as_raw_nonzero().get(),
        "metadata": metadata.unwrap_or_default(),
        "state": state,
    })
    .to_string();
    let mut stream = UnixStream::connect(path).map_err(OciError::file("connect to", path))?;
    let sent = berth_sys::socket::send(&stream, message.as_bytes(), &[listener])
        .map_err(OciError::file("send the listener to", path))?;
    stream
        .write_all(&message.as_bytes()[sent..])
        .map_err(OciError::file("send the listener to", path))
}

pub(crate) fn seccomp(spec: &Spec) -> Result<Option<Program>, OciError> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(Program::compile).transpose().map_err(OciError::Seccomp)
}
