//! The root filesystem as a detached mount: overlay layers, identity-mapped into the pod's user namespace.
//!
//! Layers stay on disk with the ids their image gave them and are shared by all pods; only the view differs. The mount is
//! never attached on the host, so it vanishes with the container's last process and nothing can be left mounted.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::namespaces::IdMapping;
use berth_sys::mount::{Attributes, set_attributes};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

/// Where a container's files come from.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// Image layers under a writable one.
    Overlay {
        /// Layer directories, lowest first.
        lower: Vec<PathBuf>,
        /// The writable layer; made if missing.
        upper: PathBuf,
        /// Overlayfs's own directory on the same file system; made if missing.
        work: PathBuf,
    },
    /// A plain directory, used as it is.
    Directory(PathBuf),
}

/// Why a root filesystem cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A layer or the scratch directory.
    #[error("cannot use `{}` in the root filesystem", path.display())]
    Layer {
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The overlay as a whole.
    #[error("cannot mount the overlay of {layers} layers{complaint}")]
    Overlay {
        /// Number of lower layers.
        layers: usize,
        /// What the file system itself said, if anything.
        complaint: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

const NOTHING: &CStr = c"";

impl Rootfs {
    /// Mounts the root filesystem, detached, as seen from `user` and its mapping if given. What is mounted in a plain directory outside
    /// shows inside if `propagation` is `MS_SLAVE` rather than `MS_PRIVATE`. With a `label` of SELinux the files of layers have that;
    /// those of a plain directory have what they have.
    ///
    /// # Errors
    /// See [`RootfsError`].
    pub(crate) fn mount(
        &self,
        user: Option<(BorrowedFd<'_>, IdMapping)>,
        propagation: u64,
        label: Option<&str>,
    ) -> Result<OwnedFd, RootfsError> {
        match self {
            Self::Directory(path) => directory(path, user.map(|(user, _)| user), propagation)
                .map_err(|source| layer(path, source)),
            Self::Overlay { lower, upper, work } => overlay(lower, upper, work, user, label),
        }
    }
}

/// A directory may lie on a mount that the host shares: its copy would hand the container's mounts on to the host.
fn directory(path: &Path, user: Option<BorrowedFd<'_>>, propagation: u64) -> io::Result<OwnedFd> {
    let tree = clone_tree(path, true, user)?;
    let alone = Attributes { propagation, recursive: true, ..Attributes::default() };
    set_attributes(tree.as_fd(), NOTHING, alone)?;
    Ok(tree)
}

fn layer(path: &Path, source: io::Error) -> RootfsError {
    RootfsError::Layer { path: path.to_owned(), source }
}

fn overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    user: Option<(BorrowedFd<'_>, IdMapping)>,
    label: Option<&str>,
) -> Result<OwnedFd, RootfsError> {
    for directory in [upper, work] {
        match std::fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(layer(directory, error));
            }
            _ => {}
        }
    }
    // The writable layer alone carries the pod's host ids on disk: the kernel fills it with the ids of the mounter, who
    // has none in the mapping. It is thrown away with the container.
    let root = user.map_or(0, |(_, mapping)| mapping.host);
    if user.is_some() {
        std::os::unix::fs::chown(upper, Some(root), Some(root))
            .map_err(|source| layer(upper, source))?;
    }
    stack(lower, Some((upper, work)), user.map(|(user, _)| user), label)
}

/// Layers, lowest first, as one detached tree that nobody can write to.
///
/// # Errors
/// See [`RootfsError`].
pub(crate) fn read_only(
    lower: &[PathBuf],
    user: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, RootfsError> {
    match lower {
        // An overlay that nobody writes to wants two.
        [only] => clone_tree(only, false, user).map_err(|source| layer(only, source)),
        _ => stack(lower, None, user, None),
    }
}

fn stack(
    lower: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    user: Option<BorrowedFd<'_>>,
    label: Option<&str>,
) -> Result<OwnedFd, RootfsError> {
    let unheard = |error: rustix::io::Errno| RootfsError::Overlay {
        layers: lower.len(),
        complaint: String::new(),
        source: error.into(),
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(unheard)?;
    let failed = |error: rustix::io::Errno| RootfsError::Overlay {
        layers: lower.len(),
        complaint: complaint(context.as_fd()),
        source: error.into(),
    };
    fsconfig_set_string(context.as_fd(), "source", "berth").map_err(failed)?;
    // A detached mount lives as long as its descriptor, and the overlay takes its own copies only when it is created.
    let mut trees = Vec::with_capacity(lower.len());
    for path in lower.iter().rev() {
        let tree = clone_tree(path, false, user).map_err(|source| layer(path, source))?;
        fsconfig_set_fd(context.as_fd(), "lowerdir+", tree.as_fd())
            .map_err(|error| layer(path, error.into()))?;
        trees.push(tree);
    }
    let places = writable.map(|(upper, work)| [("upperdir", upper), ("workdir", work)]);
    for (key, path) in places.into_iter().flatten() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            open(path, flags, Mode::empty()).map_err(|error| layer(path, error.into()))?;
        fsconfig_set_fd(context.as_fd(), key, directory.as_fd())
            .map_err(|error| layer(path, error.into()))?;
    }
    // A writable layer may become an image layer, which knows neither redirects nor metadata-only copies.
    for option in ["redirect_dir", "metacopy"] {
        fsconfig_set_string(context.as_fd(), option, "off").map_err(failed)?;
    }
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label).map_err(failed)?;
    }
    if writable.is_some() {
        // What a container wrote is gone with it, so nothing is synced for it at its end.
        fsconfig_set_flag(context.as_fd(), "volatile").map_err(failed)?;
    }
    fsconfig_create(context.as_fd()).map_err(failed)?;
    drop(trees);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(failed)
}

/// What a file system wrote into its context about a failure: the kernel's errno alone rarely says enough.
fn complaint(context: BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut buffer = [0_u8; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        text.push_str(": ");
        text.push_str(String::from_utf8_lossy(&buffer[..length]).trim());
    }
    text
}

/// Gives a file system that is being made its parameters, and makes it. An empty value stands for a flag.
pub(crate) fn configure(
    context: BorrowedFd<'_>,
    parameters: &[(CString, CString)],
) -> Result<(), rustix::io::Errno> {
    for (key, value) in parameters {
        if value.is_empty() {
            fsconfig_set_flag(context, key.as_c_str())?;
        } else {
            fsconfig_set_string(context, key.as_c_str(), value.as_c_str())?;
        }
    }
    fsconfig_create(context)
}

/// A detached copy of the mount at `path`, optionally with everything mounted below, seen from `user` if given.
pub(crate) fn clone_tree(
    path: &Path,
    recursive: bool,
    user: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let place = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    clone_opened(place.as_fd(), recursive, user)
}

/// The same of what is already open, so that nobody can put something else into its place.
pub(crate) fn clone_opened(
    place: BorrowedFd<'_>,
    recursive: bool,
    user: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(place, "", flags)?;
    if let Some(user) = user {
        set_attributes(
            tree.as_fd(),
            NOTHING,
            Attributes { idmap: Some(user), recursive, ..Attributes::default() },
        )?;
    }
    Ok(tree)
}
