//! What only the command that other engines drive asks for: a container that waits at a gate, and the fields of the runtime
//! specification that no pod has.

use std::error::Error;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::attributes::MemoryPolicy;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Pid;
use rustix::thread::CpuSet;

use crate::channel::{Failure, Step};
use crate::child;
use crate::mapping::IdMappings;

/// What was done between the making of the namespaces and the entering of the root, and failed.
pub type PrepareError = Box<dyn Error + Send + Sync>;

/// Called with the pid and the pidfd of the child.
pub type Prepare<'a> = dyn FnMut(Pid, BorrowedFd<'_>) -> Result<(), PrepareError> + 'a;

/// Called with the pid of the child and where the kernel asks about its calls. The child may already wait for an answer.
pub type Listen<'a> = dyn FnMut(Pid, BorrowedFd<'_>) -> Result<(), PrepareError> + 'a;

/// Of any process, the first or a further one.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// The execution domain and its flags.
    pub personality: Option<u64>,
    /// Where its memory comes from.
    pub memory: Option<MemoryPolicy>,
    /// How many descriptors from 3 on the program inherits from the caller.
    pub preserved: u32,
    /// A session keyring of its own.
    pub fresh_keyring: bool,
    /// The processors it runs on.
    pub processors: Option<CpuSet>,
    /// The terminal is the container's console too.
    pub console: bool,
    /// What is executed, if it is not what the first argument says. Of further processes alone.
    pub program: Option<PathBuf>,
}

/// The namespaces of its own, beside mounts and processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own {
    /// Network.
    pub network: bool,
    /// Messages and shared memory.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Cgroups.
    pub cgroup: bool,
    /// Clocks.
    pub time: bool,
}

impl Own {
    /// The flags for a clone; the others are left on the way.
    pub(crate) fn flags(self) -> i32 {
        [
            (self.network, libc::CLONE_NEWNET),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
        ]
        .iter()
        .filter(|(own, _)| *own)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// A container that waits.
pub struct Held<'a> {
    /// Its program runs when a byte can be read from here.
    pub gate: BorrowedFd<'a>,
    /// Called once the namespaces are there and before the root is entered, if at all.
    pub prepare: Option<&'a mut Prepare<'a>>,
    /// Called if the filter asks about calls.
    pub listen: Option<&'a mut Listen<'a>>,
    /// Where the root is seen meanwhile.
    pub seen_at: &'a Path,
    /// The namespaces of its own.
    pub own: Own,
    /// Namespaces of others beside those of a pod: descriptor and `CLONE_NEW*`.
    pub joined: Vec<(OwnedFd, i32)>,
    /// The mapping of the user namespace.
    pub mappings: Option<IdMappings>,
    /// Empty to leave it.
    pub hostname: &'a str,
    /// Empty to leave it.
    pub domainname: &'a str,
    /// The lines of `/proc/self/timens_offsets`.
    pub time_offsets: String,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`: of the root.
    pub propagation: u64,
    /// Whether the host's root is dropped rather than covered.
    pub pivot: bool,
    /// Of the first process.
    pub extras: Extras,
}

impl<'a> Held<'a> {
    /// A container that waits, with nothing else that a pod's container does not have.
    #[must_use]
    pub fn new(gate: BorrowedFd<'a>) -> Self {
        Self {
            gate,
            prepare: None,
            listen: None,
            seen_at: Path::new("/"),
            own: Own { cgroup: true, ..Own::default() },
            joined: Vec::new(),
            mappings: None,
            hostname: "",
            domainname: "",
            time_offsets: String::new(),
            propagation: libc::MS_PRIVATE,
            pivot: true,
            extras: Extras::default(),
        }
    }
}

impl std::fmt::Debug for Held<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Held").field("own", &self.own).finish_non_exhaustive()
    }
}

/// What the first of two children does for a held container: joins, and leaves the time of the host.
pub(crate) struct Way<'a> {
    others: Vec<(i32, i32)>,
    user: Option<i32>,
    time: Option<&'a [u8]>,
}

impl<'a> Way<'a> {
    pub fn new(held: &'a Held<'_>, mut others: Vec<(i32, i32)>, user: Option<i32>) -> Self {
        others.extend(held.joined.iter().map(|(descriptor, flag)| (descriptor.as_raw_fd(), *flag)));
        Self { others, user, time: held.own.time.then_some(held.time_offsets.as_bytes()) }
    }

    /// Whether there is anything to do that only a child's child can follow.
    pub fn is_needed(&self) -> bool {
        self.user.is_some() || self.time.is_some() || !self.others.is_empty()
    }

    /// In the first child.
    pub fn take(&self) -> Result<(), Failure> {
        // Opened with the host's privilege, which counts when it is written to.
        let offsets = match &self.time {
            Some(_) => Some(
                open(c"/proc/self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(Failure::at(Step::Time, 2))?,
            ),
            None => None,
        };
        // As the host's root: what is joined may belong to the host, over which the container's root has no power.
        child::join(&self.others)?;
        if let Some(user) = self.user {
            child::join_user(user)?;
        }
        match (&self.time, &offsets) {
            (Some(lines), Some(file)) => child::leave_time(file.as_fd(), lines),
            _ => Ok(()),
        }
    }
}

/// A text as the kernel takes it.
pub(crate) fn path(path: &Path) -> std::io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
