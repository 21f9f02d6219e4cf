//! Signals by their number, real-time ones included, which libraries that list signals by name leave out.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends a signal to a held process, and to nobody who has its pid after it.
///
/// # Errors
/// `EINVAL` for what is no signal, `ESRCH` when it has ended, `EPERM` without the right.
pub fn send(process: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let (nothing, flags) = (std::ptr::null::<libc::siginfo_t>(), 0_u32);
    // SAFETY: no memory is passed; the descriptor is borrowed for the call.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), number, nothing, flags)
    };
    crate::check(sent).map(drop)
}
