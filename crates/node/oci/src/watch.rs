//! What keeps the file of this program out of a container's reach while its process takes on the container's program.
//!
//! Until then the process runs from our file, and what the container calls its program may be `/proc/self/exe`: executed in the
//! container, our file could be opened there, and overwritten once nobody runs it (CVE-2019-5736). Either this program runs from a
//! mount that nobody can write to, for which it has to be started once more; or, where nobody else is in the container yet, its
//! process is followed into its program and killed before the first instruction if that is ours.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_runtime::CreateError;
use berth_runtime::labels::Modules;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CapabilitySet;

use crate::state::State;
use crate::{OciError, hooks};
use berth_sys::trace::{self, Event};

/// The longest that a program may take to be executed, as from a disk that does not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long one waits before one looks what else has become of the process.
const LOOK: Duration = Duration::from_millis(50);

/// Whether the gate closes within a time, behind the program that takes the place of who waited.
pub(crate) fn is_closed(gate: &OwnedFd, patience: Duration) -> Result<bool, OciError> {
    let patience = Timespec::try_from(patience).ok();
    let mut closed = [PollFd::new(gate, PollFlags::empty())];
    let ready = rustix::io::retry_on_intr(|| poll(&mut closed, patience.as_ref()));
    ready
        .map(|ready| ready > 0)
        .map_err(|error| OciError::file("wait for", "the program")(error.into()))
}

/// Whether watching is enough for a container: it has processes of its own, so that nobody can look at the first one while it stands
/// still, and nothing else of it is executed before. What watches must be allowed to.
pub(crate) fn is_enough(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let of_processes =
        |it: &&oci_spec::runtime::LinuxNamespace| it.typ() == LinuxNamespaceType::Pid;
    let apart = namespaces.iter().find(of_processes).is_some_and(|it| it.path().is_none());
    let before = ["createContainer", "startContainer"];
    let called = before.iter().any(|kind| !hooks::named(spec.hooks().as_ref(), kind).is_empty());
    apart && !called && may_trace()
}

/// Whether this process may trace what it makes.
fn may_trace() -> bool {
    let all = rustix::thread::capabilities(None);
    let capable = all.is_ok_and(|all| all.effective.contains(CapabilitySet::SYS_PTRACE));
    let forbidden = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .is_ok_and(|scope| scope.trim() == "3");
    // Their policies speak about tracing, too, and are not ours to know.
    let modules = Modules::here();
    capable && !forbidden && !modules.app_armor && !modules.se_linux
}

/// A process that is followed from its gate into its program.
pub(crate) struct Watch {
    pid: Pid,
    /// The file that it runs from before.
    ours: (u64, u64),
}

impl Watch {
    /// Takes hold of a container's process, which waits. If the caller ends before the process is let go, so does the process.
    pub fn new(state: &State) -> Result<Self, OciError> {
        let gone = || OciError::file("watch", &state.name)(Errno::SRCH.into());
        let pid = Pid::from_raw(state.pid).ok_or_else(gone)?;
        let ours = executed(pid)?;
        trace::seize(pid).map_err(OciError::file("watch", place(pid)))?;
        if state.lives() {
            return Ok(Self { pid, ours });
        }
        // It ended, and the number is another's by now, who is to go on as before.
        let left = trace::interrupt(pid).and_then(|()| trace::wait(pid));
        if !matches!(left, Ok(Event::Ended) | Err(_)) {
            trace::release(pid).map_err(OciError::file("leave", place(pid)))?;
        }
        Err(gone())
    }

    /// Waits until its program has taken the process over, or has failed to, and lets it go. The gate closes as that happens.
    pub fn follow(self, gate: &OwnedFd) -> Result<(), OciError> {
        let failed = || OciError::file("watch", place(self.pid));
        let until = Instant::now() + PATIENCE;
        loop {
            let event = match is_closed(gate, LOOK)? {
                true => Some(trace::wait(self.pid).map_err(failed())?),
                // Signals on the way stop it, too, of which only a look tells.
                false => trace::look(self.pid).map_err(failed())?,
            };
            match event {
                // Its exit code tells why.
                Some(Event::Ended) => return Ok(()),
                Some(Event::Executed) => break,
                Some(Event::Signalled(signal)) => trace::resume(self.pid, signal),
                Some(Event::Stopped) => trace::listen(self.pid),
                None if Instant::now() > until => Err(std::io::ErrorKind::TimedOut.into()),
                None => Ok(()),
            }
            .or_else(gone)
            .map_err(failed())?;
        }
        if executed(self.pid).is_ok_and(|file| file != self.ours) {
            return trace::release(self.pid).or_else(gone).map_err(failed());
        }
        // Also if nobody can say what it is. It stands still until it is dead.
        let _gone_already = kill_process(self.pid, Signal::KILL);
        Err(OciError::Create(CreateError::NotExecutable {
            command: "the program of the container, which is this runtime itself".to_owned(),
            source: Errno::ACCESS.into(),
        }))
    }
}

/// Whoever was killed meanwhile has no program to be kept from.
fn gone(error: std::io::Error) -> std::io::Result<()> {
    match Errno::from_io_error(&error) {
        Some(Errno::SRCH) => Ok(()),
        _ => Err(error),
    }
}

fn place(pid: Pid) -> String {
    format!("/proc/{}/exe", pid.as_raw_nonzero())
}

/// The file that a process executes: its device and number.
fn executed(pid: Pid) -> Result<(u64, u64), OciError> {
    let path = place(pid);
    let status = openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(fstat);
    let status = status.map_err(|error| OciError::file("look at", path)(error.into()))?;
    Ok((status.st_dev, status.st_ino))
}
