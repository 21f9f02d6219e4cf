//! Raw system calls that no library wraps, each with its safety argument.
//!
//! Everything here is usable between `clone3` and `execve` in a threaded program: nothing allocates, locks or
//! touches the C library's state. That is why the functions take C strings and prepared pointer arrays.

pub mod attributes;
pub mod bpf;
pub mod clone;
pub mod exec;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod trace;

use std::io;

/// Turns the return value of a raw system call into a result.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
