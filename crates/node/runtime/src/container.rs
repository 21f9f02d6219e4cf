//! Starting a container's first process, and further ones beside it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use berth_sys::clone::{CloneOptions, Cloned, clone3};
use oci_spec::runtime::{Process, Spec};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::cgroup::{Cgroup, CgroupError};
use crate::channel::{self, Failure, Message, Step};
use crate::child::{self, ChildStdio, PreparedRoot};
use crate::held::{self, Extras, Held, Listen, Prepare, PrepareError, Way};
use crate::mapping::IdMappings;
use crate::mounts::{self, MountError, PreparedMount, View};
use crate::namespaces::{IdMapping, Namespaces, sysctl_path};
use crate::process::{PreparedProcess, ProcessError};
use crate::rootfs::{Rootfs, RootfsError};
use crate::sealed;
use crate::seccomp::Program;

/// Standard streams of a process.
#[derive(Debug)]
pub enum Stdio {
    /// Input, output, error.
    Descriptors([OwnedFd; 3]),
    /// A new terminal of the container; its controlling side is handed to the parent.
    Terminal {
        /// Height, 0 to leave it.
        rows: u16,
        /// Width, 0 to leave it.
        columns: u16,
    },
}

/// The pid namespace of a container.
#[derive(Debug, Clone, Copy)]
pub enum Processes<'a> {
    /// A new one: its first process is number 1, and whatever is left dies with it.
    Own,
    /// That of the process behind a pidfd, or the one a descriptor names. Who starts the container ends what it leaves.
    Join(BorrowedFd<'a>),
    /// The caller's, which is the host's. Who starts the container ends what it leaves.
    Host,
}

/// A container to start.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The OCI runtime configuration. Its root and namespaces are given by the fields below instead.
    pub spec: &'a Spec,
    /// The root filesystem.
    pub rootfs: &'a Rootfs,
    /// The namespaces shared with the other containers of the pod. Mount and cgroup namespaces are always new; the pid
    /// namespace is the business of `processes`.
    pub namespaces: &'a Namespaces,
    /// Which processes it sees, and who sees its own.
    pub processes: Processes<'a>,
    /// The mapping of `namespaces.user`.
    pub mapping: Option<IdMapping>,
    /// User or group by name, from the image; stands above the ids in the configuration.
    pub user: Option<&'a str>,
    /// The cgroup, created and limited already.
    pub cgroup: Option<&'a Cgroup>,
    /// The compiled filter.
    pub seccomp: Option<Program>,
    /// Standard streams.
    pub stdio: Stdio,
}

/// A further process in a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The process.
    pub process: &'a Process,
    /// User or group by name, from the image.
    pub user: Option<&'a str>,
    /// The container's first process.
    pub container: BorrowedFd<'a>,
    /// Whether the container has its own user namespace.
    pub mapped: bool,
    /// The container's cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// The compiled filter.
    pub seccomp: Option<Program>,
    /// Standard streams.
    pub stdio: Stdio,
}

/// A started process. Dropping it neither ends nor reaps the process.
#[derive(Debug)]
pub struct Container {
    /// Pid in the caller's pid namespace.
    pub pid: Pid,
    /// Its pidfd: readable once it has ended.
    pub pidfd: OwnedFd,
    /// The controlling side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// Why a container did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The root filesystem.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The command is not in the image: exit code 127.
    #[error("`{command}` is not in the image, or not in its PATH")]
    NotFound {
        /// The command.
        command: String,
    },
    /// The command is there but cannot be executed: exit code 126.
    #[error("cannot execute `{command}`")]
    NotExecutable {
        /// The command.
        command: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A step of the child failed.
    #[error("cannot {step}{detail}")]
    Child {
        /// What was being done.
        step: &'static str,
        /// To what.
        detail: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused to create the process.
    #[error("cannot create the container's process")]
    Clone(#[source] io::Error),
    /// What the caller does before the root is entered.
    #[error("the container was ended before it began")]
    Prepare(#[source] PrepareError),
    /// The child vanished before it could say why.
    #[error("the container's process was killed while it was being set up")]
    Died,
}

impl CreateError {
    /// The exit code that docker and the shell use for this failure.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Rootfs(_)
            | Self::Mount(_)
            | Self::Process(_)
            | Self::Cgroup(_)
            | Self::Child { .. }
            | Self::Clone(_)
            | Self::Prepare(_)
            | Self::Died => 128,
        }
    }
}

impl Container {
    /// Starts the container and returns once its program runs.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create(request: CreateRequest<'_>) -> Result<Self, CreateError> {
        refuse_asking(request.seccomp.as_ref())?;
        let spec = request.spec;
        let user = request.namespaces.user.as_ref().map(AsFd::as_fd);
        let root =
            request.rootfs.mount(user.zip(request.mapping), libc::MS_PRIVATE, label(spec))?;
        let process = spec.process().as_ref().ok_or(ProcessError::NoCommand)?;
        let process = PreparedProcess::new(process, root.as_fd(), request.user, request.seccomp)?;
        let birth = Birth::of(spec, &process, request.processes)?;
        let mapping = request.mapping.map(IdMappings::from);
        let mut prepared = prepare_root(spec, root, (user, None), mapping.as_ref(), false)?;
        let mut namespaces = raw_namespaces(request.namespaces);
        let user = user.map(|fd| fd.as_raw_fd());
        let mut own = libc::CLONE_NEWNS;
        let mut joins = user.is_some();
        match request.processes {
            Processes::Own => own |= libc::CLONE_NEWPID,
            Processes::Join(of) => {
                namespaces.push((of.as_raw_fd(), libc::CLONE_NEWPID));
                joins = true;
            }
            Processes::Host => {}
        }
        let (stdio, keep) = child_stdio(request.stdio);
        // A pid namespace, too, is only entered by a child.
        let started = start(
            joins,
            own.unsigned_abs().into(),
            request.cgroup,
            |end| {
                child::enter_root(&mut prepared, end)?;
                child::make_working_directory(&process)?;
                child::become_process(&process, stdio, None, &Extras::default(), end)
            },
            || child::join_pod(user, &namespaces),
            &birth,
            Calls::default(),
        );
        drop(keep);
        started.map_err(|error| error.explain(&process, Some(&prepared)))
    }

    /// Makes the container and returns once all is in place but its program, which runs when the gate says so. The caller may be gone
    /// by then.
    ///
    /// # Errors
    /// See [`CreateError`]; but that the program cannot be executed only shows later, as exit code 128.
    pub fn create_held(
        request: CreateRequest<'_>,
        mut held: Held<'_>,
    ) -> Result<Self, CreateError> {
        let spec = request.spec;
        let user = request.namespaces.user.as_ref().map(AsFd::as_fd);
        let spread =
            if held.propagation == libc::MS_SHARED { libc::MS_PRIVATE } else { held.propagation };
        let root = request.rootfs.mount(user.zip(request.mapping), spread, label(spec))?;
        let process = spec.process().as_ref().ok_or(ProcessError::NoCommand)?;
        let process = PreparedProcess::new(process, root.as_fd(), request.user, request.seccomp)?;
        let birth = Birth { held: true, ..Birth::of(spec, &process, request.processes)? };
        let mappings = held.mappings.take().or(request.mapping.map(IdMappings::from));
        let every = user.filter(|_| request.mapping.is_some());
        let console = matches!(request.stdio, Stdio::Terminal { .. });
        let mut prepared = prepare_root(spec, root, (every, user), mappings.as_ref(), console)?;
        prepared.cgroup_namespace = held.own.cgroup;
        prepared.pivot = held.pivot;
        prepared.shared = held.propagation == libc::MS_SHARED;
        let calls = Calls { prepare: held.prepare.take(), listen: held.listen.take() };
        if calls.prepare.is_some() {
            prepared.pause = Some(held::path(held.seen_at).map_err(CreateError::Clone)?);
        }
        let mut others = raw_namespaces(request.namespaces);
        let mut own = libc::CLONE_NEWNS | held.own.flags();
        match request.processes {
            Processes::Own => own |= libc::CLONE_NEWPID,
            Processes::Join(of) => others.push((of.as_raw_fd(), libc::CLONE_NEWPID)),
            Processes::Host => {}
        }
        held.extras.console = console;
        let way = Way::new(&held, others, user.map(|fd| fd.as_raw_fd()));
        let (stdio, keep) = child_stdio(request.stdio);
        let started = start(
            way.is_needed(),
            own.unsigned_abs().into(),
            request.cgroup,
            |end| {
                child::name_host(held.hostname.as_bytes(), held.domainname.as_bytes())?;
                child::enter_root(&mut prepared, end)?;
                child::make_working_directory(&process)?;
                child::become_process(&process, stdio, Some(held.gate), &held.extras, end)
            },
            || way.take(),
            &birth,
            calls,
        );
        drop(keep);
        started.map_err(|error| error.explain(&process, Some(&prepared)))
    }

    /// Starts a further process in a running container and returns once its program runs.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn exec(request: ExecRequest<'_>) -> Result<Self, CreateError> {
        refuse_asking(request.seccomp.as_ref())?;
        Self::exec_with(request, &Extras::default(), None)
    }

    /// The same, with more than a pod's processes have. `listen` is called if the filter asks about calls.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn exec_with(
        request: ExecRequest<'_>,
        extras: &Extras,
        listen: Option<&mut Listen<'_>>,
    ) -> Result<Self, CreateError> {
        let root = container_root(request.container)?;
        let mut process =
            PreparedProcess::new(request.process, root.as_fd(), request.user, request.seccomp)?;
        drop(root);
        if let Some(program) = &extras.program {
            process.candidates = vec![held::path(program).map_err(CreateError::Clone)?];
        }
        let (target, kinds) = (request.container.as_raw_fd(), kinds());
        let mapped = request.mapped;
        let (stdio, keep) = child_stdio(request.stdio);
        // A pid namespace is only entered by a child, so the joining process always clones once more.
        let started = start(
            true,
            0,
            request.cgroup,
            |end| child::become_process(&process, stdio, None, extras, end),
            || enter(target, kinds, mapped),
            &Birth { score: process.out_of_memory_score, ..Birth::default() },
            Calls { prepare: None, listen },
        );
        drop(keep);
        started.map_err(|error| error.explain(&process, None))
    }
}

/// A filter that asks needs somebody who answers, and whoever starts a pod's processes does not.
fn refuse_asking(program: Option<&Program>) -> Result<(), CreateError> {
    if program.is_some_and(Program::asks) {
        return Err(CreateError::Child {
            step: "install the seccomp filter",
            detail: " that asks about calls".into(),
            source: io::ErrorKind::Unsupported.into(),
        });
    }
    Ok(())
}

/// All kinds of namespaces that this kernel has, but those of users.
pub(crate) fn kinds() -> i32 {
    let clocks = rustix::fs::access("/proc/self/ns/time", rustix::fs::Access::EXISTS).is_ok();
    let all = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if clocks { all | libc::CLONE_NEWTIME } else { all }
}

/// Joins these namespaces of the process behind a pidfd. Its user namespace comes last: some of the others may belong to the host.
pub(crate) fn enter(target: i32, kinds: i32, mapped: bool) -> Result<(), Failure> {
    child::join(&[(target, kinds)])?;
    if mapped { child::join_user(target) } else { Ok(()) }
}

/// The SELinux label of the container's files.
fn label(spec: &Spec) -> Option<&str> {
    let linux = spec.linux().as_ref()?;
    linux.mount_label().as_deref().filter(|label| !label.is_empty())
}

/// `users` are the user namespace from which every mount is seen, and the one for mounts that ask for it.
fn prepare_root(
    spec: &Spec,
    root: OwnedFd,
    users: (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>),
    mapping: Option<&IdMappings>,
    console: bool,
) -> Result<PreparedRoot, CreateError> {
    let linux = spec.linux().as_ref();
    let extra = linux.and_then(|linux| linux.devices().clone()).unwrap_or_default();
    let listed = spec.mounts().as_deref().unwrap_or_default();
    let label = label(spec);
    let view = View { every: users.0, asked: users.1, label };
    let of_devices = mounts::of_devices(listed)?;
    // A change of what is there comes in its place.
    let is_devices = |mount: &&oci_spec::runtime::Mount| {
        of_devices.is_some_and(|devices| std::ptr::eq(devices, *mount))
    };
    // The host's devices may be asked for; else the directory is ours to make, as the configuration says.
    let bound = of_devices.is_some_and(mounts::is_bind);
    // /proc comes first and /dev second, since later mounts lie on them.
    let (early, late): (Vec<_>, Vec<_>) = listed
        .iter()
        .filter(|mount| bound || !is_devices(mount))
        .cloned()
        .partition(|mount| mount.destination() == std::path::Path::new("/proc"));
    let mut prepared: Vec<PreparedMount> = mounts::prepare(&early, view)?;
    let (nodes, last) = if bound {
        (mounts::nodes(&extra, false)?, None)
    } else {
        let devices = mounts::devices(&extra, mapping, of_devices, label, console)?;
        prepared.push(devices.mount);
        (devices.nodes, devices.last)
    };
    prepared.extend(mounts::prepare(&late, view)?);
    prepared.extend(last);
    let sysctls = linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten();
    let sysctls = sysctls
        .filter(|(name, _)| !sealed::is_meant(name))
        .map(|(name, value)| Ok((sysctl_path(name)?, std::ffi::CString::new(value.as_str())?)))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|source| CreateError::Child {
            step: "read",
            detail: " the sysctls".into(),
            source,
        })?;
    Ok(PreparedRoot {
        root,
        opened: prepared.iter().map(|_| None).collect(),
        mounts: prepared,
        masked: mounts::paths(linux.and_then(|linux| linux.masked_paths().as_ref()))?,
        readonly: mounts::paths(linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
        readonly_root: spec
            .root()
            .as_ref()
            .and_then(oci_spec::runtime::Root::readonly)
            .unwrap_or(false),
        sysctls,
        nodes,
        cgroup_namespace: true,
        pause: None,
        pivot: true,
        shared: false,
    })
}

fn raw_namespaces(namespaces: &Namespaces) -> Vec<(i32, i32)> {
    [
        (&namespaces.network, libc::CLONE_NEWNET),
        (&namespaces.ipc, libc::CLONE_NEWIPC),
        (&namespaces.uts, libc::CLONE_NEWUTS),
    ]
    .into_iter()
    .filter_map(|(descriptor, flag)| Some((descriptor.as_ref()?.as_raw_fd(), flag)))
    .collect()
}

fn child_stdio(stdio: Stdio) -> (ChildStdio, Option<[OwnedFd; 3]>) {
    match stdio {
        Stdio::Descriptors(descriptors) => {
            (ChildStdio::Descriptors(child::raw(&descriptors)), Some(descriptors))
        }
        Stdio::Terminal { rows, columns } => (ChildStdio::Terminal { rows, columns }, None),
    }
}

/// The root directory of a running process, for its account files.
fn container_root(container: BorrowedFd<'_>) -> Result<OwnedFd, CreateError> {
    let pid = pid_of(container).map_err(CreateError::Clone)?;
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}/root"), flags, rustix::fs::Mode::empty())
        .map_err(|error| CreateError::Clone(error.into()))
}

/// The pid behind a pidfd, from `/proc/self/fdinfo`.
fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// A failure before it is put into words.
pub(crate) enum StartError {
    Child(Failure),
    Prepare(PrepareError),
    Clone(io::Error),
    Cgroup(CgroupError),
    Died,
}

/// What the caller does while the child is under way.
#[derive(Default)]
pub(crate) struct Calls<'c, 'a> {
    pub prepare: Option<&'c mut Prepare<'a>>,
    pub listen: Option<&'c mut Listen<'a>>,
}

impl Calls<'_, '_> {
    fn prepared(&mut self, pid: Pid, process: BorrowedFd<'_>) -> Result<(), PrepareError> {
        self.prepare.as_mut().map_or(Ok(()), |prepare| prepare(pid, process))
    }

    /// A listener without anybody to take it would leave the child waiting for good.
    fn listen(&mut self, pid: Pid, listener: BorrowedFd<'_>) -> Result<(), PrepareError> {
        match &mut self.listen {
            Some(listen) => listen(pid, listener),
            None => Err("its filter asks about calls, and nobody answers".into()),
        }
    }
}

/// What only the parent can do for a process before it goes on.
#[derive(Debug, Default)]
pub(crate) struct Birth {
    /// The kernel's preference for it as a victim of memory pressure.
    pub score: Option<i32>,
    /// Whether programs may be executed from memory in its pid namespace, which is new.
    pub memory: Option<std::ffi::CString>,
    /// It waits at a gate before its program.
    pub held: bool,
}

impl Birth {
    /// Of a container's first process.
    fn of(
        spec: &Spec,
        process: &PreparedProcess,
        processes: Processes<'_>,
    ) -> Result<Self, CreateError> {
        let settings = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
        let memory = sealed::asked(settings.into_iter().flatten()).map_err(CreateError::Clone)?;
        // Another's pid namespace is set by who made it.
        let memory = memory.filter(|_| matches!(processes, Processes::Own));
        Ok(Self { score: process.out_of_memory_score, memory, held: false })
    }

    fn seal(&self, process: &OwnedFd) -> Result<(), StartError> {
        let Some(value) = &self.memory else { return Ok(()) };
        sealed::set(process.as_fd(), value).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            StartError::Child(Failure { step: Step::Sysctl, index: 0, errno })
        })
    }
}

/// Clones, has the child enter its cgroup, lets it run, and waits until it executes its program.
///
/// With `two_stage` a first child runs `join` and makes the real one as its sibling.
pub(crate) fn start(
    two_stage: bool,
    namespaces: u64,
    cgroup: Option<&Cgroup>,
    mut run: impl FnMut(BorrowedFd<'_>) -> Result<std::convert::Infallible, Failure>,
    join: impl Fn() -> Result<(), Failure>,
    birth: &Birth,
    calls: Calls<'_, '_>,
) -> Result<Container, StartError> {
    let (ours, theirs) = channel::pair().map_err(StartError::Clone)?;
    let unified = match cgroup {
        Some(cgroup) => cgroup.unified().map_err(StartError::Cgroup)?,
        None => None,
    };
    let entries = match cgroup {
        Some(cgroup) => cgroup.entries().map_err(StartError::Cgroup)?,
        None => Vec::new(),
    };
    let into = unified.as_ref().map(AsFd::as_fd);
    let others = if two_stage { children().map_err(StartError::Clone)? } else { Vec::new() };
    let first = CloneOptions {
        namespaces: if two_stage { 0 } else { namespaces },
        sibling: false,
        cgroup: into,
    };
    // SAFETY: the child runs prepared system calls only and never returns from this block.
    let cloned = unsafe { clone3(first) }.map_err(StartError::Clone)?;
    let (pid, pidfd) = match cloned {
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
        Cloned::Child => {
            // Else it would keep the channel open for itself, and wait for a parent that has gone.
            drop(ours);
            let end = theirs.as_fd();
            let hidden = child::hide();
            let outcome = hidden.and_then(|()| child::enter_cgroup(&entries)).and_then(|()| {
                if two_stage {
                    // What it clones starts in its cgroup.
                    return intermediate(end, namespaces, &join, &mut run);
                }
                channel::wait(end).and_then(|()| join()).and_then(|()| run(end).map(|_| ()))
            });
            if let Err(failure) = outcome {
                channel::report(end, failure);
            }
            berth_sys::exec::exit_now(128);
        }
    };
    drop(theirs);
    if !two_stage {
        let settled = birth.seal(&pidfd).and_then(|()| settle(pid, &ours, birth.score));
        settled.inspect_err(|_| discard(&pidfd))?;
        return finish(pid, pidfd, &ours, birth, calls);
    }
    let moved = settle(pid, &ours, birth.score).and_then(|()| match channel::receive(&ours) {
        Ok(Message::Pid(sibling)) => Ok(sibling),
        Ok(Message::Failed(failure)) => Err(StartError::Child(failure)),
        Ok(
            Message::Terminal(_)
            | Message::Listener(_)
            | Message::Held
            | Message::Prepared
            | Message::Closed,
        ) => Err(StartError::Died),
        Err(error) => Err(StartError::Clone(error)),
    });
    discard(&pidfd);
    // The first child may have been killed after it made the second, and before it could tell.
    let moved = moved.inspect_err(|_| discard_all_but(&others))?;
    let pid = Pid::from_raw(moved).ok_or(StartError::Died)?;
    // Not yet reaped and our own child, so the pid cannot be another's.
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            // It waits to be let on, and goes when that cannot come any more.
            drop(ours);
            let options = WaitIdOptions::EXITED;
            let _reaped = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options));
            return Err(StartError::Clone(error.into()));
        }
    };
    let released =
        birth.seal(&pidfd).and_then(|()| channel::release(ours.as_fd()).map_err(StartError::Clone));
    released.inspect_err(|_| discard(&pidfd))?;
    finish(pid, pidfd, &ours, birth, calls)
}

/// The first of two children: joins, clones the real one as a sibling, tells its pid and goes.
fn intermediate(
    end: BorrowedFd<'_>,
    namespaces: u64,
    join: &impl Fn() -> Result<(), Failure>,
    run: &mut impl FnMut(BorrowedFd<'_>) -> Result<std::convert::Infallible, Failure>,
) -> Result<(), Failure> {
    channel::wait(end)?;
    join()?;
    // SAFETY: as for the first clone.
    let cloned = unsafe { clone3(CloneOptions { namespaces, sibling: true, cgroup: None }) };
    match cloned.map_err(Failure::at(Step::Clone, 0))? {
        // Nothing is heard of it before its pid: what the parent does not know it could not end.
        Cloned::Child => channel::wait(end).and_then(|()| run(end).map(|_| ())),
        Cloned::Parent { pid, .. } => {
            channel::send_pid(end, pid.as_raw_nonzero().get())
                .map_err(Failure::at(Step::Clone, 1))?;
            berth_sys::exec::exit_now(0);
        }
    }
}

/// Does for the waiting child what only its parent may, and lets it go on.
fn settle(pid: Pid, ours: &OwnedFd, score: Option<i32>) -> Result<(), StartError> {
    if let Some(score) = score {
        let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        std::fs::write(path, score.to_string()).map_err(StartError::Clone)?;
    }
    channel::release(ours.as_fd()).map_err(StartError::Clone)
}

fn finish(
    pid: Pid,
    pidfd: OwnedFd,
    ours: &OwnedFd,
    birth: &Birth,
    mut calls: Calls<'_, '_>,
) -> Result<Container, StartError> {
    let mut terminal = None;
    let failed = loop {
        match channel::receive(ours) {
            Ok(Message::Terminal(controller)) => terminal = Some(controller),
            // At once: what the child does next may be what its filter asks about.
            Ok(Message::Listener(listener)) => {
                if let Err(error) = calls.listen(pid, listener.as_fd()) {
                    break StartError::Prepare(error);
                }
            }
            // One that is to be held says so first, if it lives.
            Ok(Message::Closed) if birth.held => break StartError::Died,
            Ok(Message::Closed | Message::Held) => {
                return Ok(Container { pid, pidfd, terminal });
            }
            Ok(Message::Prepared) => {
                if let Err(error) = calls.prepared(pid, pidfd.as_fd()) {
                    break StartError::Prepare(error);
                }
                if let Err(error) = channel::release(ours.as_fd()) {
                    break StartError::Clone(error);
                }
            }
            Ok(Message::Failed(failure)) => break StartError::Child(failure),
            Ok(Message::Pid(_)) => {}
            Err(error) => break StartError::Clone(error),
        }
    };
    discard(&pidfd);
    Err(failed)
}

/// Ends and reaps a child that is of no further use. It may have ended on its own, which is as good.
fn discard(pidfd: &OwnedFd) {
    let options = WaitIdOptions::EXITED;
    let _ended_already = pidfd_send_signal(pidfd, Signal::KILL);
    let _reaped = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options));
}

/// The children of this thread, those of others that were made as its own included.
fn children() -> io::Result<Vec<i32>> {
    let text = std::fs::read_to_string("/proc/thread-self/children")?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Ends and reaps the children that were not there before: nobody else knows of them, and unreaped they would keep their pid
/// namespace from ending.
fn discard_all_but(others: &[i32]) {
    let unknown = children().unwrap_or_default().into_iter().filter(|pid| !others.contains(pid));
    for pid in unknown.filter_map(Pid::from_raw) {
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            discard(&pidfd);
        }
    }
}

impl StartError {
    fn explain(self, process: &PreparedProcess, root: Option<&PreparedRoot>) -> CreateError {
        match self {
            Self::Clone(source) => CreateError::Clone(source),
            Self::Cgroup(source) => CreateError::Cgroup(source),
            Self::Died => CreateError::Died,
            Self::Prepare(source) => CreateError::Prepare(source),
            Self::Child(failure) => explain(failure, process, root),
        }
    }
}

fn explain(
    failure: Failure,
    process: &PreparedProcess,
    root: Option<&PreparedRoot>,
) -> CreateError {
    let source = io::Error::from_raw_os_error(failure.errno);
    let index = usize::from(failure.index);
    let command = || {
        process
            .args
            .strings()
            .first()
            .map_or_else(String::new, |text| text.to_string_lossy().into_owned())
    };
    let target = || {
        let mount = root.and_then(|root| root.mounts.get(index));
        mount
            .map_or_else(String::new, |mount| format!(" `{}`", mount.target.path.to_string_lossy()))
    };
    let node = || {
        let node = root.and_then(|root| root.nodes.get(index));
        node.map_or_else(String::new, |node| format!(" `{}`", node.target.path.to_string_lossy()))
    };
    let (step, detail) = match failure.step {
        Step::Exec if failure.errno == libc::ENOENT => {
            return CreateError::NotFound { command: command() };
        }
        Step::Exec => return CreateError::NotExecutable { command: command(), source },
        Step::Directory => {
            ("enter the working directory", format!(" `{}`", process.directory.to_string_lossy()))
        }
        Step::Filesystem => ("open the file system for", target()),
        Step::Target => ("create the mount point", target()),
        Step::Mount => ("mount", target()),
        Step::Wait => ("hear from the parent", String::new()),
        Step::JoinUser => ("join the pod's user namespace", String::new()),
        Step::JoinNamespace => ("join the pod's namespaces", String::new()),
        Step::Clone => ("create the container's namespaces", String::new()),
        Step::CgroupNamespace => ("create the cgroup namespace", String::new()),
        Step::Propagation => ("detach from the host's mounts", String::new()),
        Step::Root => ("attach the root filesystem", String::new()),
        Step::Pivot => ("change to the root filesystem", String::new()),
        Step::Device => ("create the devices", String::new()),
        Step::Mask => ("mask or protect kernel paths", String::new()),
        Step::Sysctl => ("set the kernel parameters", String::new()),
        Step::ReadOnlyRoot => ("make the root filesystem read-only", String::new()),
        Step::Session => ("start a session", String::new()),
        Step::Terminal => ("open a terminal", String::new()),
        Step::Stdio => ("connect the standard streams", String::new()),
        Step::Limit => ("set the resource limits", String::new()),
        Step::Credentials => ("take on the user", format!(" {}:{}", process.uid, process.gid)),
        Step::Capabilities => ("set the capabilities", String::new()),
        Step::Seccomp => ("install the seccomp filter", String::new()),
        Step::Hostname => ("set the host name", String::new()),
        Step::Cgroup => ("enter its cgroup", String::new()),
        Step::Gate => ("wait to be let on", String::new()),
        Step::Time => ("set the clocks", String::new()),
        Step::Node => ("create the device", node()),
        Step::Scheduling if index == 4 => ("set where memory comes from", String::new()),
        Step::Scheduling => ("set the scheduling", String::new()),
        Step::Keyring => ("leave the caller's keyring", String::new()),
        Step::Preserved => ("hand on the caller's descriptors", String::new()),
        Step::Copy => ("copy what lies at", target()),
        Step::Label if index == 0 => ("take on the AppArmor profile", process.labels.named()),
        Step::Label => ("take on the SELinux label", process.labels.named()),
    };
    CreateError::Child { step, detail, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_nobody_knows_of_is_ended_and_reaped() {
        let sleeping = || {
            // SAFETY: the child only waits.
            match unsafe { clone3(CloneOptions::default()) }.unwrap() {
                Cloned::Child => loop {
                    rustix::event::pause();
                },
                Cloned::Parent { pid, pidfd } => (pid.as_raw_nonzero().get(), pidfd),
            }
        };
        let (known, pidfd) = sleeping();
        let others = children().unwrap();
        assert!(others.contains(&known));
        let (unknown, _) = sleeping();
        discard_all_but(&others);
        let left = children().unwrap();
        assert!(left.contains(&known) && !left.contains(&unknown), "{left:?}");
        discard(&pidfd);
        assert_eq!(children().unwrap(), [0_i32; 0]);
    }
}
