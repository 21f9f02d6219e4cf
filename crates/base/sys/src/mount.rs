//! `mount_setattr(2)`, for identity-mapped and read-only mounts.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What changes on a mount.
#[derive(Debug, Default, Clone, Copy)]
pub struct Attributes<'fd> {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear.
    pub clear: u64,
    /// The user namespace whose mapping the mount gets (`MOUNT_ATTR_IDMAP`).
    pub idmap: Option<BorrowedFd<'fd>>,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, or 0 to leave it.
    pub propagation: u64,
    /// Apply to all mounts below as well.
    pub recursive: bool,
}

/// Changes the mount that `path`, relative to `directory`, lies on; an empty path means `directory` itself.
///
/// # Errors
/// `EINVAL` where the file system cannot be identity-mapped, `EPERM` without privilege over the mount.
pub fn set_attributes(
    directory: BorrowedFd<'_>,
    path: &CStr,
    attributes: Attributes<'_>,
) -> io::Result<()> {
    let mut arguments = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    if let Some(namespace) = attributes.idmap {
        arguments.attr_set |= libc::MOUNT_ATTR_IDMAP;
        arguments.userns_fd = namespace.as_raw_fd().unsigned_abs().into();
    }
    let mut flags = 0;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if attributes.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the structure lives through the call and has the size we pass; the path is a C string.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const arguments,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
