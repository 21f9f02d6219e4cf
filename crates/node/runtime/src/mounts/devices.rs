//! The devices of a container: a small directory of its own at `/dev`, and nodes elsewhere if they are asked for.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mkdirat, mknodat, statat,
    symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::{MountError, PreparedMount, Setting, Target, What, options, refuse, settings};
use crate::mapping::IdMappings;

/// A node that only the child can make, since it lies in the image.
#[derive(Debug)]
pub struct PreparedNode {
    pub target: Target,
    pub kind: FileType,
    pub mode: Mode,
    pub device: u64,
    pub owner: (u32, u32),
    /// Whether it may be made, or has to be there.
    pub make: bool,
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

/// The device directory: a small detached tmpfs with the nodes every container has and those asked for. `listed` is what the
/// configuration says of it, `label` what SELinux is to say; `console` makes a place for the terminal.
///
/// It is made here, by the host's root, because a user namespace may make no device nodes. What lies outside of it is returned for the
/// child.
pub fn devices(
    extra: &[LinuxDevice],
    mapping: Option<&IdMappings>,
    listed: Option<&Mount>,
    label: Option<&str>,
    console: bool,
) -> Result<Prepared, MountError> {
    let options = listed.map(said_of).transpose()?;
    let (inside, outside): (Vec<&LinuxDevice>, Vec<&LinuxDevice>) =
        extra.iter().partition(|device| device.path().starts_with("/dev"));
    let directory = directory(&inside, mapping, options.as_ref(), label, console)
        .map_err(MountError::Devices)?;
    if mapping.is_some() && !outside.is_empty() {
        let reason = "in a user namespace devices lie below /dev alone";
        return Err(MountError::Devices(io::Error::new(io::ErrorKind::Unsupported, reason)));
    }
    let nodes = nodes(outside, true)?;
    let target = Target::new(Path::new("/dev"), true)?;
    let mut changes = options.map_or_else(Vec::new, |options| settings(&options, true));
    let last = take_readonly(&mut changes);
    let mount = PreparedMount { what: What::Detached(directory), target, settings: changes };
    let target = Target::new(Path::new("/dev"), true)?;
    let last =
        last.map(|setting| PreparedMount { what: What::Present, target, settings: vec![setting] });
    Ok(Prepared { mount, last, nodes })
}

/// What the device directory comes to.
pub struct Prepared {
    pub mount: PreparedMount,
    /// That nothing can be written there comes once all is mounted that lies in it.
    pub last: Option<PreparedMount>,
    pub nodes: Vec<PreparedNode>,
}

/// The options of the directory. Those that would say nothing of it are refused.
fn said_of(mount: &Mount) -> Result<options::Options, MountError> {
    let kind = mount.typ().as_deref().unwrap_or_default();
    if kind != "tmpfs" {
        return Err(MountError::Kind { kind: kind.to_owned() });
    }
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    let mapped = options.idmap.is_some() || mount.uid_mappings().is_some();
    let wrong = [(options.copy_up, "tmpcopyup"), (mapped, "idmap")];
    let wrong = wrong.into_iter().filter(|(said, _)| *said).map(|(_, name)| name);
    refuse(mount, wrong, "is not for the device directory")?;
    Ok(options)
}

/// Takes out of the changes what forbids to write to the mount itself.
fn take_readonly(changes: &mut [Setting]) -> Option<Setting> {
    let top = changes.iter_mut().find(|setting| !setting.recursive)?;
    let said = top.set & libc::MOUNT_ATTR_RDONLY;
    top.set &= !libc::MOUNT_ATTR_RDONLY;
    (said != 0).then_some(Setting { set: said, ..Setting::default() })
}

/// Nodes for the child: to make, or only to look for.
pub fn nodes<'a>(
    devices: impl IntoIterator<Item = &'a LinuxDevice>,
    make: bool,
) -> Result<Vec<PreparedNode>, MountError> {
    let node = |device: &LinuxDevice| {
        let (kind, device_number) = numbers(device).map_err(MountError::Devices)?;
        Ok(PreparedNode {
            target: Target::new(device.path(), false)?,
            kind,
            mode: mode(device),
            device: device_number,
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
            make,
        })
    };
    devices.into_iter().map(node).collect()
}

fn mode(device: &LinuxDevice) -> Mode {
    Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o777)
}

fn numbers(device: &LinuxDevice) -> io::Result<(FileType, u64)> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => return Ok((FileType::Fifo, 0)),
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::A => return Err(io::Error::other("`a` is no type of a device")),
    };
    match (u32::try_from(device.major()), u32::try_from(device.minor())) {
        (Ok(major), Ok(minor)) => Ok((kind, makedev(major, minor))),
        _ => Err(io::Error::other("a device number is out of range")),
    }
}

fn directory(
    extra: &[&LinuxDevice],
    mapping: Option<&IdMappings>,
    listed: Option<&options::Options>,
    label: Option<&str>,
    console: bool,
) -> io::Result<OwnedFd> {
    // Who is nobody outside owns nothing; the kernel then shows the owner as nobody inside.
    let user = |id| mapping.map_or(Some(id), |mapping| mapping.host_user(id)).unwrap_or(0);
    let group = |id| mapping.map_or(Some(id), |mapping| mapping.host_group(id)).unwrap_or(0);
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
    set("mode", "0755")?;
    set("size", "65536k")?;
    set("uid", &user(0).to_string())?;
    set("gid", &group(0).to_string())?;
    let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if let Some(label) = label {
        set("context", label)?;
    }
    if let Some(options) = listed {
        configure(context.as_fd(), options)?;
        let said = options.top.set & !libc::MOUNT_ATTR_RDONLY & !libc::MOUNT_ATTR_NODEV;
        flags = MountAttrFlags::from_bits_retain(u32::try_from(said).unwrap_or(0));
    }
    fsconfig_create(context.as_fd())?;
    let directory = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let own = |name: &str, uid: u32, gid: u32| {
        let owner = (Some(Uid::from_raw(user(uid))), Some(Gid::from_raw(group(gid))));
        chownat(&directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
    };
    let node = |name: &str, kind, mode, device| -> io::Result<()> {
        match mknodat(&directory, name, kind, mode, device) {
            Err(Errno::EXIST) => {
                let found = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let same =
                    FileType::from_raw_mode(found.st_mode) == kind && found.st_rdev == device;
                if !same {
                    return Err(io::Error::other(format!("something else is at `/dev/{name}`")));
                }
            }
            made => made?,
        }
        // The mode above passes through the umask; this does not.
        Ok(chmodat(&directory, name, mode, AtFlags::empty())?)
    };
    for (name, major, minor) in STANDARD {
        let mode = Mode::from_raw_mode(0o666);
        node(name, FileType::CharacterDevice, mode, makedev(major, minor))?;
        own(name, 0, 0)?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &directory, name)?;
        own(name, 0, 0)?;
    }
    let mut made: BTreeSet<String> = BTreeSet::new();
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
        own(name, 0, 0)?;
        made.insert(name.to_owned());
    }
    if console {
        mknodat(&directory, "console", FileType::RegularFile, Mode::from_raw_mode(0o600), 0)?;
        own("console", 0, 0)?;
    }
    for device in extra {
        // Every container has the one by its own terminals, and the other if it has a terminal at all.
        let own_terminal = device.path() == Path::new("/dev/ptmx")
            || console && device.path() == Path::new("/dev/console");
        if own_terminal {
            continue;
        }
        let name = below(device.path())?;
        for (at, _) in name.match_indices('/') {
            let parent = &name[..at];
            if made.insert(parent.to_owned()) {
                mkdirat(&directory, parent, Mode::from_raw_mode(0o755))?;
                own(parent, 0, 0)?;
            }
        }
        let (kind, number) = numbers(device)?;
        node(&name, kind, mode(device), number)?;
        own(&name, device.uid().unwrap_or(0), device.gid().unwrap_or(0))?;
    }
    Ok(directory)
}

/// What the configuration says of the file system itself.
fn configure(context: BorrowedFd<'_>, options: &options::Options) -> io::Result<()> {
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context, key, value)?,
            None => fsconfig_set_flag(context, option.as_str())?,
        }
    }
    for flag in &options.superblock {
        fsconfig_set_flag(context, *flag)?;
    }
    Ok(())
}

/// The name of a device below `/dev`.
fn below(path: &Path) -> io::Result<String> {
    let wrong = || io::Error::other(format!("`{}` is no place for a device", path.display()));
    let inside = path.strip_prefix("/dev").map_err(|_| wrong())?;
    let normal = inside.components().all(|part| matches!(part, Component::Normal(_)));
    let links = ["fd", "stdin", "stdout", "stderr", "ptmx"];
    let first = inside.components().next().map(|part| part.as_os_str().to_owned());
    let leads_away = first.is_some_and(|first| links.iter().any(|link| first == *link));
    if !normal || leads_away || inside.as_os_str().is_empty() {
        return Err(wrong());
    }
    inside.to_str().map(str::to_owned).ok_or_else(wrong)
}
