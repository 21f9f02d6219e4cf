//! Following a process from outside until it has executed a program, see ptrace(2).

use std::io;
use std::ptr;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// What has become of a followed process. But for an end it stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has executed a program, of which no instruction has run.
    Executed,
    /// A signal is to be delivered, or 0 for none.
    Signalled(i32),
    /// It was stopped, as by a terminal.
    Stopped,
    /// It has ended. Nobody has been told yet: its parent reaps it.
    Ended,
}

/// Takes hold of a process, which goes on. It will stand still when it has executed a program, and is killed if the caller ends before
/// it is let go.
///
/// # Errors
/// `EPERM` without the right to trace it, or when it is traced already; `ESRCH` when it is gone.
pub fn seize(pid: Pid) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, pid, libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL)
}

/// Lets a process that stands still go on, with the signal it was about to get or with 0.
///
/// # Errors
/// `ESRCH` when it does not stand still.
pub fn resume(pid: Pid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, pid, signal)
}

/// Leaves a process that was stopped as it is, until it is continued.
///
/// # Errors
/// `ESRCH` when it does not stand still.
pub fn listen(pid: Pid) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, pid, 0)
}

/// Lets go of a process that stands still. It goes on, untraced.
///
/// # Errors
/// `ESRCH` when it does not stand still.
pub fn release(pid: Pid) -> io::Result<()> {
    request(libc::PTRACE_DETACH, pid, 0)
}

fn request(request: libc::c_uint, pid: Pid, data: i32) -> io::Result<()> {
    let (nowhere, data) = (ptr::null_mut::<libc::c_void>(), i64::from(data));
    // SAFETY: none of the requests that are made here reads or writes memory of ours.
    crate::check(unsafe { libc::ptrace(request, pid.as_raw_nonzero().get(), nowhere, data) })?;
    Ok(())
}

/// Waits for the next event of a process that the calling thread has seized.
///
/// # Errors
/// When it is not the calling thread's to wait for.
pub fn wait(pid: Pid) -> io::Result<Event> {
    let next = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
    loop {
        // Looked at and left there: an end is for its parent.
        let seen = retry_on_intr(|| waitid(WaitId::Pid(pid), next | WaitIdOptions::NOWAIT));
        if !matches!(seen, Ok(Some(status)) if status.trapped()) {
            return match seen {
                // Reaped by the kernel, where the caller ignores the ends of its children.
                Ok(_) | Err(Errno::CHILD) => Ok(Event::Ended),
                Err(error) => Err(error.into()),
            };
        }
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let taken = waitid(WaitId::Pid(pid), options)?;
        // Nothing is taken of one that was killed between the two.
        if let Some(status) = taken.and_then(|status| status.trapping_signal()) {
            return Ok(match (status >> 8, status & 0x7f) {
                (libc::PTRACE_EVENT_EXEC, _) => Event::Executed,
                (libc::PTRACE_EVENT_STOP, signal) if signal != libc::SIGTRAP => Event::Stopped,
                (libc::PTRACE_EVENT_STOP, _) => Event::Signalled(0),
                (_, signal) => Event::Signalled(signal),
            });
        }
    }
}
