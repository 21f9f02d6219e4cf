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

/// Has a process stand still at its next chance, for who wants to let go of it.
///
/// # Errors
/// `ESRCH` when it is gone or is not traced by the caller.
pub fn interrupt(pid: Pid) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, pid, 0)
}

/// Waits for the next event of a process that the calling thread has seized.
///
/// # Errors
/// When it is not the calling thread's to wait for.
pub fn wait(pid: Pid) -> io::Result<Event> {
    loop {
        if let Some(event) = observe(pid, WaitIdOptions::empty())? {
            return Ok(event);
        }
    }
}

/// The same, of what has happened by now.
///
/// # Errors
/// As above.
pub fn look(pid: Pid) -> io::Result<Option<Event>> {
    observe(pid, WaitIdOptions::NOHANG)
}

fn observe(pid: Pid, how: WaitIdOptions) -> io::Result<Option<Event>> {
    let next = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    // Looked at and left there: an end is for its parent.
    match retry_on_intr(|| waitid(WaitId::Pid(pid), next | how)) {
        Ok(Some(status)) if status.trapped() => {}
        // Reaped by the kernel, where the caller ignores the ends of its children.
        Ok(Some(_)) | Err(Errno::CHILD) => return Ok(Some(Event::Ended)),
        Ok(None) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let taken = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG)?;
    // Nothing is taken of one that was killed between the two.
    let status = taken.and_then(|status| status.trapping_signal());
    Ok(status.map(|status| match (status >> 8, status & 0x7f) {
        (libc::PTRACE_EVENT_EXEC, _) => Event::Executed,
        (libc::PTRACE_EVENT_STOP, signal) if signal != libc::SIGTRAP => Event::Stopped,
        (libc::PTRACE_EVENT_STOP, _) => Event::Signalled(0),
        (_, signal) => Event::Signalled(signal),
    }))
}
