//! A directory tree being filled, reached only through directory handles.
//!
//! Folders are opened with openat2 and RESOLVE_IN_ROOT: a link that an earlier entry of the same layer
//! made is followed, as other engines do, but `/` and `..` end at the root of the layer. The last
//! component is never followed. Handles are cached, because layers list a folder's files together and
//! opening the path for each of them dominated the time of unpacking.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::overlay::{OverlayForm, set_opaque};

const CACHED: usize = 256;

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    /// A deletion mark, written earlier by the same layer.
    Whiteout,
    Other,
}

pub(crate) struct Root {
    directory: OwnedFd,
    form: OverlayForm,
    open: HashMap<PathBuf, Rc<OwnedFd>>,
    /// Folders that the layer used without listing them.
    pub(crate) implicit: Vec<PathBuf>,
}

impl Root {
    pub(crate) fn open(path: &Path, form: OverlayForm) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { directory, form, open: HashMap::new(), implicit: Vec::new() })
    }

    /// An existing folder.
    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if let Some(open) = self.open.get(path) {
            return Ok(open.clone());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let open = Rc::new(openat2(&self.directory, name, flags, Mode::empty(), resolve)?);
        if self.open.len() == CACHED {
            self.open.clear();
        }
        self.open.insert(path.to_owned(), open.clone());
        Ok(open)
    }

    /// A folder, made with its parents where the layer did not list it.
    pub(crate) fn ensure(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        match self.directory(path) {
            Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::NOTDIR) => {}
            outcome => return outcome,
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOTDIR.into());
        };
        let parent = self.ensure(above)?;
        let hidden = match found(parent.as_fd(), name)? {
            Found::Nothing => false,
            Found::Whiteout => {
                unlinkat(&*parent, name, AtFlags::empty())?;
                true
            }
            // A file, or a link whose target is missing.
            Found::Directory | Found::Other => return Err(Errno::NOTDIR.into()),
        };
        mkdirat(&*parent, name, Mode::from_raw_mode(0o755))?;
        let directory = self.directory(path)?;
        fchmod(&*directory, Mode::from_raw_mode(0o755))?;
        if hidden {
            set_opaque(directory.as_fd(), self.form)?;
        }
        self.implicit.push(path.to_owned());
        Ok(directory)
    }

    /// Removes whatever stands at `name`, and says what it was.
    pub(crate) fn clear(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Found> {
        let found = found(parent, name)?;
        match found {
            Found::Nothing => {}
            Found::Directory => {
                remove_tree(parent, name)?;
                self.open.clear();
            }
            Found::Whiteout | Found::Other => {
                unlinkat(parent, name, AtFlags::empty())?;
                // It may have been a link through which cached handles were reached.
                self.open.clear();
            }
        }
        Ok(found)
    }
}

/// What stands at `name`, without following it.
pub(crate) fn found(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Found> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
            _ => Found::Other,
        }),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(error) => Err(error.into()),
    }
}

fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for child in Dir::read_from(&directory)? {
        let child = child?;
        let bytes = child.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            names.push(OsStr::from_bytes(bytes).to_owned());
        }
    }
    for child in names {
        match unlinkat(&directory, &child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(directory.as_fd(), &child)?,
            outcome => outcome?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
