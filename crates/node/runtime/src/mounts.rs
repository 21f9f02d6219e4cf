//! The mounts of an OCI configuration, resolved to descriptors and prepared parameters before the clone.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use berth_sys::mount::{Attributes, set_attributes};
use oci_spec::runtime::Mount;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::mount::MountAttrFlags;

use crate::mapping::IdMappings;
use crate::rootfs::clone_opened;

pub mod copy;
mod devices;
mod options;

pub use devices::{PreparedNode, devices, nodes};
use options::{Change, Options};
pub use options::{known as known_options, propagation};

/// Why a mount of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The source of a bind mount.
    #[error("cannot bind `{}` to `{}`", source_path.display(), destination.display())]
    Bind {
        /// On the host.
        source_path: PathBuf,
        /// In the container.
        destination: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The layers of an image.
    #[error("cannot mount an image at `{}`", destination.display())]
    Layers {
        /// In the container.
        destination: PathBuf,
        /// The reason.
        source: crate::rootfs::RootfsError,
    },
    /// Destination not absolute, or with `..`, or within `/proc`.
    #[error("mount destination `{}` is not allowed", .0.display())]
    Destination(PathBuf),
    /// Ids are to be mapped, and nothing says how.
    #[error("the mount of `{}` asks for other ids, and neither it nor a user namespace says which", .0.display())]
    Mapping(PathBuf),
    /// Users without groups, or the other way round.
    #[error("the mount of `{}` maps users or groups alone", .0.display())]
    HalfMapped(PathBuf),
    /// An option that would change nothing.
    #[error("the mount of `{}` has the option `{option}`, which {reason}", destination.display())]
    Option {
        /// In the container.
        destination: PathBuf,
        /// The option.
        option: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The device directory is ours to make, once.
    #[error("`{}` is mounted twice", .0.display())]
    Twice(PathBuf),
    /// The same, of a kind that is the host's.
    #[error("a file system of the type `{kind}` cannot be the device directory: tmpfs, or bind")]
    Kind {
        /// Its type.
        kind: String,
    },
    /// A text with a zero byte.
    #[error("mount of `{}` has a zero byte in its options", .0.display())]
    ZeroByte(PathBuf),
    /// The device directory.
    #[error("cannot prepare the devices of the container")]
    Devices(#[source] io::Error),
}

/// A mount the child attaches.
#[derive(Debug)]
pub struct PreparedMount {
    pub what: What,
    /// Where, with the directories that may have to be made on the way.
    pub target: Target,
    /// What the child changes before it attaches it.
    pub settings: Vec<Setting>,
}

/// Detached already, or a file system only the child can open, since it shows the child's namespaces.
#[derive(Debug)]
pub enum What {
    Detached(OwnedFd),
    Filesystem {
        kind: CString,
        parameters: Vec<(CString, CString)>,
        flags: MountAttrFlags,
        /// It begins with what it covers.
        filled: bool,
    },
    /// Nothing new: what is there is changed.
    Present,
}

/// One change of a mount, or of all below it too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setting {
    pub set: u64,
    pub clear: u64,
    /// `MS_*`, or 0.
    pub propagation: u64,
    pub recursive: bool,
}

impl Setting {
    /// Applies it.
    pub fn apply(self, tree: BorrowedFd<'_>) -> io::Result<()> {
        let Self { set, clear, propagation, recursive } = self;
        set_attributes(tree, c"", Attributes { set, clear, idmap: None, propagation, recursive })
    }
}

/// A destination and its parents, as C strings.
#[derive(Debug)]
pub struct Target {
    pub path: CString,
    pub parents: Vec<CString>,
    pub directory: bool,
}

impl Target {
    pub fn new(path: &Path, directory: bool) -> Result<Self, MountError> {
        let normal = path.is_absolute()
            && path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !normal {
            return Err(MountError::Destination(path.to_owned()));
        }
        let text = |path: &Path| {
            CString::new(path.as_os_str().as_bytes())
                .map_err(|_| MountError::ZeroByte(path.to_owned()))
        };
        let mut parents: Vec<CString> = path
            .ancestors()
            .skip(1)
            .filter(|path| *path != Path::new("/"))
            .map(text)
            .collect::<Result<_, _>>()?;
        parents.reverse();
        Ok(Self { path: text(path)?, parents, directory })
    }
}

/// The option of a bind mount that says which path below its source is meant.
pub const SUB_PATH: &str = "berth.subpath=";

/// Files of `/proc` that may be covered: they tell of the machine, and file systems exist that tell of the container instead.
const COVERED: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
];

/// From where mounts are seen.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The user namespace from which every bind mount is seen.
    pub every: Option<BorrowedFd<'a>>,
    /// The one for mounts that ask to be mapped and do not say how.
    pub asked: Option<BorrowedFd<'a>>,
    /// The SELinux label of new file systems.
    pub label: Option<&'a str>,
}

/// File systems of the kernel, whose files it labels itself.
const LABELLED: [&str; 5] = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];

/// The mount of the device directory, if there is one.
pub fn of_devices(mounts: &[Mount]) -> Result<Option<&Mount>, MountError> {
    let mut found = mounts.iter().filter(|mount| {
        let options = options::parse(mount.options().as_deref().unwrap_or_default());
        mount.destination() == Path::new("/dev") && !options.remount
    });
    let first = found.next();
    match found.next() {
        Some(second) => Err(MountError::Twice(second.destination().clone())),
        None => Ok(first),
    }
}

/// An error about the first option that is there.
fn refuse<'o>(
    mount: &Mount,
    mut options: impl Iterator<Item = &'o str>,
    reason: &'static str,
) -> Result<(), MountError> {
    let destination = mount.destination().clone();
    options.next().map_or(Ok(()), |option| {
        Err(MountError::Option { destination, option: option.to_owned(), reason })
    })
}

/// Prepares the mounts of the configuration, in order.
pub fn prepare(mounts: &[Mount], view: View<'_>) -> Result<Vec<PreparedMount>, MountError> {
    mounts.iter().map(|mount| prepare_one(mount, view)).collect()
}

/// Whether a mount binds something that is there.
pub fn is_bind(mount: &Mount) -> bool {
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    options.bind || mount.typ().as_deref().unwrap_or("bind") == "bind"
}

fn prepare_one(mount: &Mount, view: View<'_>) -> Result<PreparedMount, MountError> {
    let destination = mount.destination();
    let covered = COVERED.iter().any(|path| destination == Path::new(path));
    if destination.starts_with("/proc") && destination != Path::new("/proc") && !covered {
        return Err(MountError::Destination(destination.clone()));
    }
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    if options.remount {
        refuse(
            mount,
            options.data.iter().map(String::as_str),
            "is not one of a mount that is there",
        )?;
        let settings = settings(&options, true);
        return Ok(PreparedMount {
            what: What::Present,
            target: Target::new(destination, true)?,
            settings,
        });
    }
    let kind = mount.typ().as_deref().unwrap_or("bind");
    if kind == crate::layers::LAYERS {
        return crate::layers::prepare(mount, view.every);
    }
    if options.bind || kind == "bind" {
        return bind(mount, &options, view);
    }
    if options.idmap.is_some() || mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(MountError::Mapping(destination.clone()));
    }
    let text =
        |text: &str| CString::new(text).map_err(|_| MountError::ZeroByte(destination.clone()));
    let mut parameters = Vec::new();
    if let Some(source) = mount.source() {
        parameters.push((text("source")?, text(&source.to_string_lossy())?));
    }
    for flag in &options.superblock {
        parameters.push((text(flag)?, CString::default()));
    }
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => parameters.push((text(key)?, text(value)?)),
            // An empty value stands for a flag.
            None => parameters.push((text(option)?, CString::default())),
        }
    }
    let said = options.data.iter().any(|option| option.starts_with("context="));
    if let Some(label) = view.label.filter(|_| !said && !LABELLED.contains(&kind)) {
        parameters.push((text("context")?, text(label)?));
    }
    if options.copy_up && kind != "tmpfs" {
        refuse(mount, ["tmpcopyup"].into_iter(), "is for a tmpfs")?;
    }
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(options.top.set).unwrap_or(0));
    Ok(PreparedMount {
        what: What::Filesystem { kind: text(kind)?, parameters, flags, filled: options.copy_up },
        target: Target::new(destination, true)?,
        settings: settings(&options, false),
    })
}

/// What a mount is changed by once it is there; with `whole` also what could have been said when it was made.
fn settings(options: &Options, whole: bool) -> Vec<Setting> {
    let change = |change: Change, recursive| {
        let setting = Setting { set: change.set, clear: change.clear, propagation: 0, recursive };
        (!change.is_empty()).then_some(setting)
    };
    let top = if whole { change(options.top, false) } else { None };
    let spread = options.propagation.map(|(propagation, recursive)| Setting {
        propagation,
        recursive,
        ..Setting::default()
    });
    [top, change(options.below, true), spread].into_iter().flatten().collect()
}

/// Opens what is to be mounted. A path within a volume is followed without any link, and by the kernel itself: whoever may write
/// to the volume can put a link there at any moment.
fn place(source: &Path, options: &Options) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(source, flags, Mode::empty())?;
    let Some(inside) = options.data.iter().find_map(|option| option.strip_prefix(SUB_PATH)) else {
        return Ok(root);
    };
    beneath(root.as_fd(), inside)
}

/// Opens a path below what is open, through no link.
pub fn beneath(root: BorrowedFd<'_>, inside: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, inside, flags, Mode::empty(), resolve)?)
}

fn bind(mount: &Mount, options: &Options, view: View<'_>) -> Result<PreparedMount, MountError> {
    let destination = mount.destination();
    let source_path = mount.source().clone().unwrap_or_default();
    let failed = |source: io::Error| MountError::Bind {
        source_path: source_path.clone(),
        destination: destination.clone(),
        source,
    };
    let mapped = match (mount.uid_mappings(), mount.gid_mappings()) {
        (Some(users), Some(groups)) => {
            Some(IdMappings::new(users, groups).create().map_err(failed)?)
        }
        (None, None) => None,
        _ => return Err(MountError::HalfMapped(destination.clone())),
    };
    let asked = mapped.as_ref().map(AsFd::as_fd);
    let recursive_map = match (options.idmap, asked.or(view.asked)) {
        (Some(_), None) => return Err(MountError::Mapping(destination.clone())),
        (Some(recursive), Some(_)) => Some(recursive),
        (None, _) => asked.map(|_| false),
    };
    let unknown = options.data.iter().filter(|option| !option.starts_with(SUB_PATH));
    refuse(mount, unknown.map(String::as_str), "is not known of what is bound")?;
    refuse(mount, options.copy_up.then_some("tmpcopyup").into_iter(), "is for a tmpfs")?;
    let place = place(&source_path, options).map_err(failed)?;
    let directory = FileType::from_raw_mode(fstat(&place).map_err(|it| failed(it.into()))?.st_mode)
        == FileType::Directory;
    // Kernel file systems cannot be identity-mapped and gain nothing from it: their ids are the kernel's.
    let kernel = ["/proc", "/sys", "/dev"].iter().any(|root| source_path.starts_with(root));
    let every = view.every.filter(|_| !kernel && recursive_map.is_none());
    let tree = clone_opened(place.as_fd(), options.recursive, every).map_err(failed)?;
    if let (Some(recursive), Some(user)) = (recursive_map, asked.or(view.asked)) {
        let mapping = Attributes { idmap: Some(user), recursive, ..Attributes::default() };
        set_attributes(tree.as_fd(), c"", mapping).map_err(failed)?;
    }
    change_bind(tree.as_fd(), options).map_err(failed)?;
    Ok(PreparedMount {
        what: What::Detached(tree),
        target: Target::new(destination, directory)?,
        settings: Vec::new(),
    })
}

/// What is forbidden is forbidden below too; what is allowed again, only where it was asked for.
fn change_bind(tree: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    let Options { top, below, propagation, recursive, .. } = options;
    let times = |change: &Change| change.clear & libc::MOUNT_ATTR__ATIME;
    let first = Setting {
        set: top.set,
        clear: times(top),
        propagation: propagation.map_or(libc::MS_PRIVATE, |(kind, _)| kind),
        recursive: *recursive,
    };
    first.apply(tree)?;
    let cleared = Setting { clear: top.clear & !libc::MOUNT_ATTR__ATIME, ..Setting::default() };
    if cleared.clear != 0 {
        cleared.apply(tree)?;
    }
    if !below.is_empty() {
        let Change { set, clear } = *below;
        Setting { set, clear, propagation: 0, recursive: true }.apply(tree)?;
    }
    Ok(())
}

/// What lies at a masked or read-only path is only known in the container; these are the paths as C strings.
pub fn paths(list: Option<&Vec<String>>) -> Result<Vec<CString>, MountError> {
    list.into_iter()
        .flatten()
        .map(|path| {
            CString::new(path.as_str()).map_err(|_| MountError::ZeroByte(PathBuf::from(path)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_that_could_lead_elsewhere_are_refused() {
        for path in ["relative", "/a/../b", "/./a", ""] {
            let refused = Target::new(Path::new(path), true);
            // A leading `/./` is normalised away by the path parser and is harmless.
            assert_eq!(refused.is_err(), path != "/./a", "{path}");
        }
        let target = Target::new(Path::new("/a/b/c"), false).unwrap();
        let parents: Vec<_> = target.parents.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(parents, ["/a", "/a/b"]);
    }
}
