//! The mounts of an OCI configuration, resolved to descriptors and prepared parameters before the clone.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use berth_sys::mount::{Attributes, set_attributes};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use rustix::fs::{
    FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mknodat, open, openat2,
    symlinkat,
};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::namespaces::IdMapping;
use crate::rootfs::clone_opened;

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
}

/// Detached already, or a file system only the child can open, since it shows the child's namespaces.
#[derive(Debug)]
pub enum What {
    Detached(OwnedFd),
    Filesystem { kind: CString, parameters: Vec<(CString, CString)>, flags: MountAttrFlags },
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

#[derive(Debug)]
struct Options {
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: u64,
    bind: bool,
    recursive: bool,
    data: Vec<String>,
}

fn parse_options(options: &[String]) -> Options {
    let mut parsed = Options {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        propagation: 0,
        bind: false,
        recursive: false,
        data: Vec::new(),
    };
    for option in options {
        let flag = |name: &str| match name {
            "ro" => Some(MountAttrFlags::MOUNT_ATTR_RDONLY),
            "nosuid" => Some(MountAttrFlags::MOUNT_ATTR_NOSUID),
            "nodev" => Some(MountAttrFlags::MOUNT_ATTR_NODEV),
            "noexec" => Some(MountAttrFlags::MOUNT_ATTR_NOEXEC),
            "noatime" => Some(MountAttrFlags::MOUNT_ATTR_NOATIME),
            "strictatime" => Some(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
            "nodiratime" => Some(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
            _ => None,
        };
        let opposite = |name: &str| match name {
            "rw" => flag("ro"),
            "suid" => flag("nosuid"),
            "dev" => flag("nodev"),
            "exec" => flag("noexec"),
            "atime" => flag("noatime"),
            "diratime" => flag("nodiratime"),
            _ => None,
        };
        match option.as_str() {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "private" | "rprivate" => parsed.propagation = libc::MS_PRIVATE,
            "slave" | "rslave" => parsed.propagation = libc::MS_SLAVE,
            "shared" | "rshared" => parsed.propagation = libc::MS_SHARED,
            "relatime" | "defaults" => {}
            name => {
                if let Some(flag) = flag(name) {
                    parsed.set |= flag;
                    parsed.clear &= !flag;
                } else if let Some(flag) = opposite(name) {
                    parsed.clear |= flag;
                    parsed.set &= !flag;
                } else {
                    parsed.data.push(name.to_owned());
                }
            }
        }
    }
    parsed
}

/// The option of a bind mount that says which path below its source is meant.
pub const SUB_PATH: &str = "berth.subpath=";

/// Prepares the mounts of the configuration, in order.
pub fn prepare(
    mounts: &[Mount],
    user: Option<BorrowedFd<'_>>,
) -> Result<Vec<PreparedMount>, MountError> {
    mounts.iter().map(|mount| prepare_one(mount, user)).collect()
}

fn prepare_one(mount: &Mount, user: Option<BorrowedFd<'_>>) -> Result<PreparedMount, MountError> {
    let destination = mount.destination();
    if destination.starts_with("/proc") && destination != Path::new("/proc") {
        return Err(MountError::Destination(destination.clone()));
    }
    let options = parse_options(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or("bind");
    if kind == crate::layers::LAYERS {
        return crate::layers::prepare(mount, user);
    }
    if options.bind || kind == "bind" {
        return bind(mount, &options, user);
    }
    let text =
        |text: &str| CString::new(text).map_err(|_| MountError::ZeroByte(destination.clone()));
    let mut parameters = Vec::new();
    if let Some(source) = mount.source() {
        parameters.push((text("source")?, text(&source.to_string_lossy())?));
    }
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => parameters.push((text(key)?, text(value)?)),
            // An empty value stands for a flag.
            None => parameters.push((text(option)?, CString::default())),
        }
    }
    Ok(PreparedMount {
        what: What::Filesystem { kind: text(kind)?, parameters, flags: options.set },
        target: Target::new(destination, true)?,
    })
}

/// Opens what is to be mounted. A path within a volume is followed without any link, and by the kernel itself: whoever may write
/// to the volume can put a link there at any moment.
fn place(source: &Path, options: &Options) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(source, flags, Mode::empty())?;
    let Some(inside) = options.data.iter().find_map(|option| option.strip_prefix(SUB_PATH)) else {
        return Ok(root);
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, inside, flags, Mode::empty(), resolve)?)
}

fn bind(
    mount: &Mount,
    options: &Options,
    user: Option<BorrowedFd<'_>>,
) -> Result<PreparedMount, MountError> {
    let destination = mount.destination();
    let source_path = mount.source().clone().unwrap_or_default();
    let failed = |source: io::Error| MountError::Bind {
        source_path: source_path.clone(),
        destination: destination.clone(),
        source,
    };
    let place = place(&source_path, options).map_err(failed)?;
    let directory = FileType::from_raw_mode(fstat(&place).map_err(|it| failed(it.into()))?.st_mode)
        == FileType::Directory;
    // Kernel file systems cannot be identity-mapped and gain nothing from it: their ids are the kernel's.
    let kernel = ["/proc", "/sys", "/dev"].iter().any(|root| source_path.starts_with(root));
    let user = user.filter(|_| !kernel);
    let tree = clone_opened(place.as_fd(), options.recursive, user).map_err(failed)?;
    set_attributes(
        tree.as_fd(),
        c"",
        Attributes {
            set: options.set.bits().into(),
            clear: options.clear.bits().into(),
            idmap: None,
            propagation: if options.propagation == 0 {
                libc::MS_PRIVATE
            } else {
                options.propagation
            },
            recursive: options.recursive,
        },
    )
    .map_err(failed)?;
    Ok(PreparedMount { what: What::Detached(tree), target: Target::new(destination, directory)? })
}

/// The device directory: a small detached tmpfs with the nodes every container has and those asked for.
///
/// It is made here, by the host's root, because a user namespace may make no device nodes.
pub fn devices(
    extra: &[LinuxDevice],
    mapping: Option<IdMapping>,
) -> Result<PreparedMount, MountError> {
    let directory = device_directory(extra, mapping).map_err(MountError::Devices)?;
    Ok(PreparedMount {
        what: What::Detached(directory),
        target: Target::new(Path::new("/dev"), true)?,
    })
}

const STANDARD: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

fn device_directory(extra: &[LinuxDevice], mapping: Option<IdMapping>) -> io::Result<OwnedFd> {
    let host = |id: u32| mapping.map_or(id, |mapping| mapping.host + id);
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key, value: &str| fsconfig_set_string(context.as_fd(), key, value);
    set("mode", "0755")?;
    set("size", "65536k")?;
    set("uid", &host(0).to_string())?;
    set("gid", &host(0).to_string())?;
    fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let directory = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let own = |name: &str, uid: u32, gid: u32| {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        chownat(
            &directory,
            name,
            Some(Uid::from_raw(host(uid))),
            Some(Gid::from_raw(host(gid))),
            flags,
        )
    };
    for (name, major, minor) in STANDARD {
        let device = rustix::fs::makedev(major, minor);
        mknodat(&directory, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
        // The mode above passes through the umask; this does not.
        rustix::fs::chmodat(
            &directory,
            name,
            Mode::from_raw_mode(0o666),
            rustix::fs::AtFlags::empty(),
        )?;
        own(name, 0, 0)?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &directory, name)?;
        own(name, 0, 0)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
        own(name, 0, 0)?;
    }
    for device in extra {
        let name = device
            .path()
            .strip_prefix("/dev")
            .map_err(|_| io::Error::other("a device must lie directly below /dev"))?;
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => {
                FileType::CharacterDevice
            }
        };
        let (Ok(major), Ok(minor)) = (u32::try_from(device.major()), u32::try_from(device.minor()))
        else {
            return Err(io::Error::other("a device number is out of range"));
        };
        let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o777);
        mknodat(&directory, name, kind, mode, rustix::fs::makedev(major, minor))?;
        rustix::fs::chmodat(&directory, name, mode, rustix::fs::AtFlags::empty())?;
        own(&name.to_string_lossy(), device.uid().unwrap_or(0), device.gid().unwrap_or(0))?;
    }
    Ok(directory)
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

    #[test]
    fn the_last_of_two_opposite_options_wins() {
        let parse =
            |text: &str| parse_options(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        let options = parse("ro,nosuid,rw,rbind,size=64m");
        assert_eq!(options.set, MountAttrFlags::MOUNT_ATTR_NOSUID);
        assert_eq!(options.clear, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert!(options.bind && options.recursive);
        assert_eq!(options.data, ["size=64m"]);
    }
}
