//! An image as a volume: its layers as one tree that nobody can write to or execute from.
//!
//! The identity mapping lies on each layer, since an overlay cannot be mapped as a whole.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use berth_sys::mount::{Attributes, set_attributes};
use oci_spec::runtime::Mount;
use rustix::fs::{FileType, fstat};
use rustix::mount::MountAttrFlags;

use crate::mounts::{MountError, PreparedMount, SUB_PATH, Target, What, beneath};
use crate::rootfs::{clone_opened, read_only};

/// The type of such a mount in a configuration.
pub const LAYERS: &str = "berth.layers";
/// The option that names a layer's directory, lowest first.
pub const LAYER: &str = "berth.layer=";

/// Prepares one.
pub fn prepare(mount: &Mount, user: Option<BorrowedFd<'_>>) -> Result<PreparedMount, MountError> {
    let destination = mount.destination().clone();
    let options = mount.options().as_deref().unwrap_or_default();
    let with =
        |prefix: &'static str| options.iter().filter_map(move |option| option.strip_prefix(prefix));
    let layers: Vec<PathBuf> = with(LAYER).map(PathBuf::from).collect();
    let inside = with(SUB_PATH).next();
    let failed = |source: std::io::Error| MountError::Bind {
        source_path: inside.map(PathBuf::from).unwrap_or_default(),
        destination: destination.clone(),
        source,
    };
    let whole = read_only(&layers, user)
        .map_err(|source| MountError::Layers { destination: destination.clone(), source })?;
    let tree = match inside {
        None => whole,
        Some(inside) => {
            let place = beneath(whole.as_fd(), inside).map_err(failed)?;
            // The mapping is that of the tree it lies in.
            clone_opened(place.as_fd(), false, None).map_err(failed)?
        }
    };
    let kind = fstat(&tree).map_err(|error| failed(error.into()))?.st_mode;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let attributes = Attributes {
        set: set.bits().into(),
        propagation: libc::MS_PRIVATE,
        ..Attributes::default()
    };
    set_attributes(tree.as_fd(), c"", attributes).map_err(failed)?;
    let directory = FileType::from_raw_mode(kind) == FileType::Directory;
    let target = Target::new(&destination, directory)?;
    Ok(PreparedMount { what: What::Detached(tree), target, settings: Vec::new() })
}
