//! Making a container, up to the point where only its program is missing.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_runtime::namespaces::NamespacesRequest;
use berth_runtime::seccomp::Program;
use berth_runtime::{Container, CreateRequest, Namespaces, Processes, Rootfs, Stdio};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use crate::bundle::{self, Bundle};
use crate::flags::{Global, Make};
use crate::state::{self, State};
use crate::{OciError, act};

/// Makes a container that waits for `start`.
pub(crate) fn create(global: &Global, asked: &Make) -> Result<(), OciError> {
    make(global, asked).map(drop)
}

/// The same, for who also wants to wait for its end.
pub(crate) fn make(global: &Global, asked: &Make) -> Result<Container, OciError> {
    let folder = state::claim(&global.root, &asked.name)?;
    let made = begin(&folder, asked);
    if made.is_err() {
        // The failure is what people need to hear; a name that stays taken will be told when it is used again.
        let _left = fs::remove_dir_all(&folder);
    }
    made
}

fn begin(folder: &Path, asked: &Make) -> Result<Container, OciError> {
    let place = fs::canonicalize(&asked.bundle).map_err(OciError::file("open", &asked.bundle))?;
    let hierarchies = Hierarchies::detect()?;
    let bundle = bundle::load(&place, &asked.name, &hierarchies)?;
    let cgroup = Cgroup::create(&hierarchies, &bundle.cgroup)?;
    let made = inside(folder, asked, &place, &bundle, &cgroup);
    if made.is_err() {
        let _already_failed = act::clear(&cgroup);
    }
    made
}

fn inside(
    folder: &Path,
    asked: &Make,
    place: &Path,
    bundle: &Bundle,
    cgroup: &Cgroup,
) -> Result<Container, OciError> {
    let spec = &bundle.spec;
    if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        cgroup.limit(resources)?;
    }
    let gate = state::gate(folder);
    mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|error| OciError::file("create", &gate)(error.into()))?;
    // For both directions, so that opening waits for nobody and reading never finds an end.
    let opened = open(&gate, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| OciError::file("open", &gate)(error.into()))?;
    let (namespaces, processes) = namespaces(spec)?;
    let terminal = spec.process().as_ref().is_some_and(asks_for_terminal);
    let container = Container::create_held(
        CreateRequest {
            spec,
            rootfs: &Rootfs::Directory(bundle.rootfs.clone()),
            namespaces: &namespaces,
            processes: match &processes {
                Some(Some(other)) => Processes::Join(other.as_fd()),
                Some(None) => Processes::Own,
                None => Processes::Host,
            },
            mapping: None,
            user: None,
            cgroup: Some(cgroup),
            seccomp: seccomp(spec)?,
            stdio: stdio(spec.process().as_ref(), terminal, asked.console.is_some())?,
        },
        opened.as_fd(),
    )?;
    hand_over(&container, asked.console.as_deref())?;
    let pid = container.pid.as_raw_nonzero().get();
    let state = State {
        name: asked.name.clone(),
        bundle: place.to_owned(),
        rootfs: bundle.rootfs.clone(),
        pid,
        began: state::began(pid).unwrap_or_default(),
        created: jiff::Timestamp::now().to_string(),
        annotations: bundle.annotations.clone(),
        cgroup: bundle.cgroup.clone(),
    };
    state.save(folder)?;
    if let Some(path) = &asked.pid_file {
        state::write_whole(path, &pid.to_string())?;
    }
    Ok(container)
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

pub(crate) fn seccomp(spec: &Spec) -> Result<Option<Program>, OciError> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(Program::compile).transpose().map_err(OciError::Seccomp)
}

/// The namespaces a bundle asks for, new or of others; and its pid namespace: none, a new one, or that of another.
#[expect(clippy::option_option, reason = "the host's, one of its own, one that is there")]
fn namespaces(spec: &Spec) -> Result<(Namespaces, Option<Option<OwnedFd>>), OciError> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let find = |kind| listed.iter().find(|namespace| namespace.typ() == kind);
    let is_new = |kind| find(kind).is_some_and(|namespace| namespace.path().is_none());
    let other = |kind| -> Result<Option<OwnedFd>, OciError> {
        let Some(path) = find(kind).and_then(|namespace| namespace.path().as_ref()) else {
            return Ok(None);
        };
        let opened = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map(Some).map_err(|error| OciError::file("open", path)(error.into()))
    };
    let hostname = spec.hostname().clone().unwrap_or_default();
    if !hostname.is_empty() && !is_new(LinuxNamespaceType::Uts) {
        return Err(OciError::Unsupported("a host name without a UTS namespace".to_owned()));
    }
    let mut namespaces = Namespaces::create(&NamespacesRequest {
        user: None,
        network: is_new(LinuxNamespaceType::Network),
        ipc: is_new(LinuxNamespaceType::Ipc),
        processes: false,
        hostname: is_new(LinuxNamespaceType::Uts).then_some(hostname),
        sysctls: Vec::new(),
    })?;
    namespaces.network = namespaces.network.or(other(LinuxNamespaceType::Network)?);
    namespaces.ipc = namespaces.ipc.or(other(LinuxNamespaceType::Ipc)?);
    namespaces.uts = namespaces.uts.or(other(LinuxNamespaceType::Uts)?);
    let processes = match find(LinuxNamespaceType::Pid) {
        None => None,
        Some(_) => Some(other(LinuxNamespaceType::Pid)?),
    };
    Ok((namespaces, processes))
}
