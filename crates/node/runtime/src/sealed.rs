//! Whether programs may be executed from memory, set for a pid namespace from outside.
//!
//! The setting belongs to the namespace but its file to the host's root, so that nobody in a user namespace can write it, not even
//! while a container is made. A helper in the pid namespace, with our own rights, does it before the container's program runs.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use berth_sys::clone::{CloneOptions, Cloned, clone3};
use berth_sys::exec::exit_now;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// The setting, as configurations name it.
const NAME: &str = "vm.memfd_noexec";
const FILE: &CStr = c"/proc/sys/vm/memfd_noexec";

/// Whether a name, in dotted or slashed form, is that of the setting.
pub fn is_meant(name: &str) -> bool {
    name.replace('/', ".") == NAME
}

/// What is asked for among other settings, if anything is.
pub fn asked<'s>(
    mut settings: impl Iterator<Item = (&'s String, &'s String)>,
) -> io::Result<Option<CString>> {
    let value = settings.find(|(name, _)| is_meant(name)).map(|(_, value)| value.as_str());
    Ok(value.map(CString::new).transpose()?)
}

/// Sets it for the pid namespace of a process behind a pidfd, or the one a descriptor names.
pub fn set(processes: BorrowedFd<'_>, value: &CStr) -> io::Result<()> {
    let own = open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    berth_sys::namespace::join(processes, libc::CLONE_NEWPID)?;
    // SAFETY: the child makes two system calls on prepared values and exits.
    let cloned = unsafe { clone3(CloneOptions::default()) };
    if let Ok(Cloned::Child) = cloned {
        let written = open(FILE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(&file, value.to_bytes()));
        exit_now(written.map_or_else(rustix::io::Errno::raw_os_error, |_| 0));
    }
    // Children made from now on are none of the container's.
    let back = berth_sys::namespace::join(own.as_fd(), libc::CLONE_NEWPID);
    let Cloned::Parent { pidfd, .. } = cloned? else { return Ok(()) };
    let options = WaitIdOptions::EXITED;
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options))?;
    back?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error)),
        None => Err(io::Error::other("the helper process was killed")),
    }
}
