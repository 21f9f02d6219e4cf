//! Loading a seccomp filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of classic BPF, as the kernel lays it out.
pub type Instruction = libc::sock_filter;

/// Installs `program` for the calling thread with the given `SECCOMP_FILTER_FLAG_*`. `no_new_privs` or `CAP_SYS_ADMIN` must hold.
/// Returns the listener, if the flags ask for one.
///
/// # Errors
/// `EINVAL` for a malformed program or an unknown flag, `EACCES` without the precondition, `EBUSY` for a second listener.
pub fn install(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: pointer and length describe one live slice, which the kernel only reads.
    let answer = crate::check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let listener = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: with that flag the kernel answers with a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) }))
}
