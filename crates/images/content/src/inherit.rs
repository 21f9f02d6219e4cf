//! Folders that a layer used without listing them.
//!
//! Layers are unpacked alone, so such a folder was made as 0755 and root's, and would hide what it really looks like
//! (`/tmp` with its sticky bit, a home with its owner). Once the layers below are known it takes after the topmost
//! folder of that name among them. A layer shared by images that differ in this keeps the look of the last
//! one added; publishers' tools nearly always list the parents, so this is rare enough.

use std::os::fd::OwnedFd;
use std::path::Path;

use berth_unpack::Privilege;
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, open, openat2};
use rustix::io::Errno;

use crate::error::{ContentError, OnDisk as _};
use crate::image::Image;
use crate::store::ContentStore;

impl ContentStore {
    /// Gives unlisted folders of the image's layers the owner and mode they have below.
    pub(crate) fn inherit_folders(&self, image: &Image) -> Result<(), ContentError> {
        if Privilege::detect() == Privilege::Rootless {
            return Ok(());
        }
        for (position, layer) in image.layers.iter().enumerate() {
            let facts = self.snapshots.facts(layer).unwrap_or_default();
            let Some(root) = self.snapshots.lower(layer) else { continue };
            for path in &facts.implicit {
                let below = image.layers[..position].iter().rev();
                let below = below.filter_map(|layer| self.snapshots.lower(layer));
                for lower in below {
                    if take_after(&root, &lower, path).on_disk("adjust", root.join(path))? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// False if `lower` has no such folder.
fn take_after(root: &Path, lower: &Path, path: &Path) -> rustix::io::Result<bool> {
    let (Some(like), Some(folder)) = (folder(lower, path)?, folder(root, path)?) else {
        return Ok(false);
    };
    let stat = fstat(&like)?;
    fchown(&folder, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(&folder, Mode::from_raw_mode(stat.st_mode))?;
    Ok(true)
}

fn folder(root: &Path, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(&root, path, flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(error) => Err(error),
    }
}
