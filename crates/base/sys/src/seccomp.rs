//! Loading a seccomp filter.

use std::io;

/// One instruction of classic BPF, as the kernel lays it out.
pub type Instruction = libc::sock_filter;

/// Installs `program` for the calling thread. `no_new_privs` or `CAP_SYS_ADMIN` must hold.
///
/// # Errors
/// `EINVAL` for a malformed program, `EACCES` without the precondition.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: pointer and length describe one live slice, which the kernel only reads.
    crate::check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
    })?;
    Ok(())
}
