//! `clone3(2)`: a child with its own namespaces, a pidfd and, on cgroup v2, its cgroup from the first instruction.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// `libc` declares it too narrow for the value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child gets.
#[derive(Debug, Default, Clone, Copy)]
pub struct CloneOptions<'fd> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// The child becomes a sibling: its parent is the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
    /// Directory of a cgroup v2 the child starts in (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// The two sides of a successful clone.
#[derive(Debug)]
pub enum Cloned {
    /// We are the child.
    Child,
    /// We are the parent. A sibling has no pidfd in the caller: its parent opens one.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: Pid,
        /// The child's pidfd.
        pidfd: OwnedFd,
    },
}

/// Forks with `clone3`.
///
/// # Errors
/// What the kernel says: `EPERM` without privilege, `ENOSPC` at a namespace limit, `EAGAIN` at the pids limit.
///
/// # Safety
/// In the child only async-signal-safe work is allowed until `execve` or [`crate::exec::exit_now`]: other threads of the
/// caller do not exist there and may have held any lock, the allocator's included.
pub unsafe fn clone3(options: CloneOptions<'_>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let mut flags = options.namespaces | libc::CLONE_PIDFD as u64;
    if options.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    if options.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let arguments = libc::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // A sibling inherits its exit signal; the kernel refuses another one.
        exit_signal: if options.sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: options.cgroup.map_or(0, |fd| fd.as_raw_fd().unsigned_abs().into()),
    };
    // SAFETY: the structure lives through the call and has the size we pass; without CLONE_VM the child has its own
    // copy of this stack. The caller promises to keep the child async-signal-safe.
    let pid = crate::check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    })?;
    match Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?) {
        None => Ok(Cloned::Child),
        Some(pid) => {
            // SAFETY: the kernel has just stored a new descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}
