//! Joining namespaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Joins the namespaces of `flags` (`CLONE_NEW*`): those of the process behind a pidfd, or, with a single flag, the one
/// namespace a descriptor names.
///
/// # Errors
/// `EPERM` without privilege over the target, `EINVAL` for a threaded caller and a user namespace.
pub fn join(descriptor: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: changes only the calling thread's own namespaces.
    crate::check(libc::c_long::from(unsafe { libc::setns(descriptor.as_raw_fd(), flags) }))?;
    Ok(())
}

/// Leaves the namespaces of `flags` for new ones.
///
/// # Errors
/// `EPERM` without privilege.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: changes only the calling thread's own namespaces.
    crate::check(libc::c_long::from(unsafe { libc::unshare(flags) }))?;
    Ok(())
}
