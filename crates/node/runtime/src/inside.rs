//! Paths of a container, walked by its own root's descriptor while the container is made.
//!
//! The image may have put links anywhere. Ordinary ones lead within the root; those of `/proc/self/fd`, which would lead to whatever
//! the runtime still has open, lead nowhere. Like all that a child does, this allocates nothing.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, mkdirat, mknodat, open, openat2,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::mounts::Target;

/// The root directory of the container, as it is seen from within.
#[derive(Debug)]
pub struct Inside(OwnedFd);

/// The number of a device as the kernel says it of files: major 1, minor 3.
const NULL_DEVICE: u64 = (1 << 8) | 3;
/// `PROC_SUPER_MAGIC`, see statfs(2).
const PROC: i64 = 0x9fa0;
/// `DEVPTS_SUPER_MAGIC`, see the same.
const TERMINALS: i64 = 0x1cd1;

impl Inside {
    /// For a process that has entered the root.
    pub fn new() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(c"/", flags, Mode::empty()).map(Self)
    }

    fn open(&self, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// What is at a path.
    pub fn find(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH)
    }

    /// The place of a mount. What is masked below `/proc` and `/sys` is looked for by those names, so they may not lead elsewhere.
    fn place(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        if path != c"/proc" && path != c"/sys" {
            return self.find(path);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        openat2(&self.0, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// The directory that a path's last part is in. It has to be there.
    pub fn parent(&self, target: &Target) -> Result<OwnedFd, Errno> {
        let parent = target.parents.last().map_or(c"/", |parent| parent.as_c_str());
        self.open(parent, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Makes a directory and those above it, where they are missing. `parents` are the paths above, the highest first.
    pub fn make_directory<'p>(
        &self,
        parents: impl Iterator<Item = &'p CStr>,
        path: &'p CStr,
    ) -> Result<(), Errno> {
        let mut above = self.0.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        for path in parents.chain([path]) {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let found = match self.open(path, flags) {
                Err(Errno::NOENT) => {
                    match mkdirat(&above, last(path), Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    self.open(path, flags)?
                }
                found => found?,
            };
            above = found;
        }
        Ok(())
    }

    /// Makes the place a mount goes to, and what is above it.
    pub fn make_target(&self, target: &Target) -> Result<(), Errno> {
        let mut parents = target.parents.iter().map(|parent| parent.as_c_str());
        if target.directory {
            return self.make_directory(parents, &target.path);
        }
        if let Some(parent) = parents.next_back() {
            self.make_directory(parents, parent)?;
        }
        match self.find(&target.path) {
            Err(Errno::NOENT) => {
                let (kind, mode) = (FileType::RegularFile, Mode::from_raw_mode(0o644));
                match mknodat(self.parent(target)?, last(&target.path), kind, mode, 0) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            found => found.map(drop),
        }
    }

    /// Attaches a tree at a path.
    pub fn attach(&self, tree: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
        attach_to(tree, self.place(path)?.as_fd())
    }

    /// The null device, and nothing that an image has put in its place.
    pub fn null_device(&self) -> Result<OwnedFd, Errno> {
        let found = self.find(c"/dev/null")?;
        let stat = fstat(&found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::CharacterDevice || stat.st_rdev != NULL_DEVICE {
            return Err(Errno::NODEV);
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&found, c"", flags)
    }

    /// The controlling side of a new terminal, and nothing that an image has put in its place.
    pub fn terminal(&self) -> Result<OwnedFd, Errno> {
        let controller = self.open(c"/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?;
        if fstatfs(&controller)?.f_type != TERMINALS {
            return Err(Errno::NODEV);
        }
        Ok(controller)
    }

    /// Writes a kernel setting, in `/proc` and nowhere else.
    pub fn set(&self, path: &CStr, value: &CStr) -> Result<(), Errno> {
        let file = self.open(path, OFlags::WRONLY)?;
        if fstatfs(&file)?.f_type != PROC {
            return Err(Errno::NODEV);
        }
        rustix::io::write(&file, value.to_bytes()).map(drop)
    }
}

/// Attaches a tree to what is open.
pub fn attach_to(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", place, c"", flags)
}

/// The last part of a path.
pub fn last(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    CStr::from_bytes_with_nul(&bytes[start..]).unwrap_or(path)
}
