//! How overlayfs writes deletions down: character device 0:0 for a removed name, an xattr for a
//! directory that hides everything below it.
//!
//! The xattr has two spellings. `trusted.overlay.*` needs CAP_SYS_ADMIN in the first user namespace;
//! `user.overlay.*` works everywhere when the mount says `userxattr`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// What a whiteout in a tar layer begins with (OCI image-spec, layer.md).
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The name that makes its directory opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of aufs; carries no content.
pub(crate) const AUFS: &[u8] = b".wh..wh.";

/// Which namespace of extended attributes overlayfs is told to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayForm {
    /// `trusted.overlay.*`, for mounts made by root of the machine.
    Trusted,
    /// `user.overlay.*`, for mounts with `userxattr` inside a user namespace.
    User,
}

impl OverlayForm {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    pub(crate) fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// What the unpacking process may do to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Owners, device nodes and `trusted.*` attributes are applied; failing to is an error.
    Root,
    /// Owners and device nodes are dropped, and reported; opaque directories use `user.overlay.*`.
    Rootless,
}

impl Privilege {
    /// What this process has: [`Privilege::Root`] for user 0 of the first user namespace.
    pub fn detect() -> Self {
        let first_namespace = std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
        if rustix::process::geteuid().is_root() && first_namespace {
            Self::Root
        } else {
            Self::Rootless
        }
    }

    /// The overlay form that goes with it.
    pub fn overlay_form(self) -> OverlayForm {
        match self {
            Self::Root => OverlayForm::Trusted,
            Self::Rootless => OverlayForm::User,
        }
    }
}

/// Whether `name` belongs to overlayfs itself, in either spelling.
pub(crate) fn is_overlay_xattr(name: &str) -> bool {
    [OverlayForm::Trusted, OverlayForm::User].iter().any(|form| name.starts_with(form.prefix()))
}

pub(crate) fn set_opaque(directory: BorrowedFd<'_>, form: OverlayForm) -> io::Result<()> {
    Ok(fsetxattr(directory, form.opaque(), b"y", XattrFlags::empty())?)
}

pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    for form in [OverlayForm::Trusted, OverlayForm::User] {
        let mut value = [0; 8];
        match fgetxattr(directory, form.opaque(), &mut value) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// All extended attribute names of an open file.
pub(crate) fn xattr_names(file: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = vec![0; 4096];
    loop {
        match flistxattr(file, &mut names) {
            Ok(length) => {
                return Ok(names[..length]
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(|name| String::from_utf8_lossy(name).into_owned())
                    .collect());
            }
            Err(Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The value of one extended attribute of an open file.
pub(crate) fn xattr_value(file: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 64 * 1024];
    let length = fgetxattr(file, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// Removes the marks an overlay mount leaves in its upper directory (`origin`, `impure`, `nlink` …),
/// except the opaque mark, so that the directory can serve as a lower layer of other mounts.
///
/// # Errors
///
/// When a directory cannot be read or an attribute cannot be removed.
pub fn strip_overlay_traces(directory: &Path) -> io::Result<()> {
    for child in std::fs::read_dir(directory)? {
        let child = child?;
        let kind = child.file_type()?;
        if kind.is_dir() {
            strip_overlay_traces(&child.path())?;
        } else if kind.is_file() {
            strip_one(std::fs::File::open(child.path())?.as_fd())?;
        }
    }
    strip_one(std::fs::File::open(directory)?.as_fd())
}

fn strip_one(file: BorrowedFd<'_>) -> io::Result<()> {
    for name in xattr_names(file)? {
        if is_overlay_xattr(&name) && !name.ends_with(".opaque") {
            fremovexattr(file, name.as_str())?;
        }
    }
    Ok(())
}
