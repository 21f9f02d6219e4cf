//! What the child does between the clone and `execve`.
//!
//! No allocation, no lock, no panic on any path: another thread of the parent may have held the allocator's lock at the
//! clone. Everything here walks lists that were prepared before.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use berth_sys::exec;
use berth_sys::mount::{Attributes, set_attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, mknodat, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};

use crate::channel::{self, Failure, Step};
use crate::mounts::{PreparedMount, Target, What};
use crate::process::PreparedProcess;

/// The container's view of the file system, prepared.
#[derive(Debug)]
pub struct PreparedRoot {
    pub root: OwnedFd,
    pub mounts: Vec<PreparedMount>,
    /// One slot a mount, filled by the child.
    pub opened: Vec<Option<OwnedFd>>,
    pub masked: Vec<std::ffi::CString>,
    pub readonly: Vec<std::ffi::CString>,
    pub readonly_root: bool,
    /// Kernel settings of this container alone: path and value.
    pub sysctls: Vec<(std::ffi::CString, std::ffi::CString)>,
}

/// Where standard input, output and error come from.
#[derive(Debug, Clone, Copy)]
pub enum ChildStdio {
    Descriptors([i32; 3]),
    Terminal { rows: u16, columns: u16 },
}

/// Builds the container's file system around the child and enters it.
pub fn enter_root(prepared: &mut PreparedRoot) -> Result<(), Failure> {
    exec_unshare_cgroup()?;
    let root = open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::at(Step::Propagation, 0))?;
    let private =
        Attributes { propagation: libc::MS_SLAVE, recursive: true, ..Attributes::default() };
    set_attributes(root.as_fd(), c"", private).map_err(Failure::at(Step::Propagation, 0))?;
    // Opened while the host's /proc and /sys are still in sight: the kernel lets a user namespace mount its own only then.
    for (index, mount) in prepared.mounts.iter().enumerate() {
        if let What::Filesystem { kind, parameters, flags } = &mount.what {
            let opened = open_filesystem(kind, parameters, *flags)
                .map_err(Failure::at(Step::Filesystem, index))?;
            prepared.opened[index] = Some(opened);
        }
    }
    pivot(prepared.root.as_fd(), root.as_fd())?;
    for (index, mount) in prepared.mounts.iter().enumerate() {
        make_target(&mount.target).map_err(Failure::at(Step::Target, index))?;
        let tree = match (&mount.what, &prepared.opened[index]) {
            (What::Detached(tree), _) | (What::Filesystem { .. }, Some(tree)) => tree,
            (What::Filesystem { .. }, None) => {
                return Err(Failure::at(Step::Mount, index)(Errno::BADF));
            }
        };
        attach(tree.as_fd(), &mount.target.path).map_err(Failure::at(Step::Mount, index))?;
    }
    for (index, (path, value)) in prepared.sysctls.iter().enumerate() {
        let file = open(path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::at(Step::Sysctl, index))?;
        rustix::io::write(&file, value.to_bytes()).map_err(Failure::at(Step::Sysctl, index))?;
    }
    for (index, path) in prepared.readonly.iter().enumerate() {
        make_readonly(path).map_err(Failure::at(Step::Mask, index))?;
    }
    for (index, path) in prepared.masked.iter().enumerate() {
        mask(path).map_err(Failure::at(Step::Mask, index))?;
    }
    if prepared.readonly_root {
        let readonly = Attributes {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
            ..Attributes::default()
        };
        set_attributes(prepared.root.as_fd(), c"", readonly)
            .map_err(Failure::at(Step::ReadOnlyRoot, 0))?;
    }
    Ok(())
}

/// Moves the calling process into its cgroup of version 1. A caller with several threads would leave the others behind.
pub fn enter_cgroup(entries: &[OwnedFd]) -> Result<(), Failure> {
    for (index, entry) in entries.iter().enumerate() {
        rustix::io::write(entry, b"0").map_err(Failure::at(Step::Cgroup, index))?;
    }
    Ok(())
}

/// The cgroup namespace is rooted at the cgroup the process is in, so it can only be made once we have moved there.
fn exec_unshare_cgroup() -> Result<(), Failure> {
    berth_sys::namespace::unshare(libc::CLONE_NEWCGROUP)
        .map_err(Failure::at(Step::CgroupNamespace, 0))
}

fn open_filesystem(
    kind: &CStr,
    parameters: &[(std::ffi::CString, std::ffi::CString)],
    flags: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in parameters {
        if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), key.as_c_str())?;
        } else {
            fsconfig_set_string(context.as_fd(), key.as_c_str(), value.as_c_str())?;
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Attaches the new root over the old, swaps them, and drops the old one with everything below it.
pub fn pivot(root: BorrowedFd<'_>, old: BorrowedFd<'_>) -> Result<(), Failure> {
    attach(root, c"/").map_err(Failure::at(Step::Root, 0))?;
    rustix::process::fchdir(root).map_err(Failure::at(Step::Pivot, 0))?;
    rustix::process::pivot_root(c".", c".").map_err(Failure::at(Step::Pivot, 1))?;
    rustix::process::fchdir(old).map_err(Failure::at(Step::Pivot, 2))?;
    unmount(c".", UnmountFlags::DETACH).map_err(Failure::at(Step::Pivot, 3))?;
    rustix::process::chdir(c"/").map_err(Failure::at(Step::Pivot, 4))
}

fn attach(tree: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, c"", CWD, path, flags)
}

fn make_target(target: &Target) -> Result<(), Errno> {
    for parent in &target.parents {
        make_directory(parent)?;
    }
    if target.directory {
        return make_directory(&target.path);
    }
    match mknodat(CWD, &target.path, FileType::RegularFile, Mode::from_raw_mode(0o644), 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => exists_or(&target.path, error),
    }
}

fn make_directory(path: &CStr) -> Result<(), Errno> {
    match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => exists_or(path, error),
    }
}

/// A read-only or foreign file system answers `EROFS` or `EACCES` also for what is there already.
fn exists_or(path: &CStr, error: Errno) -> Result<(), Errno> {
    rustix::fs::statat(CWD, path, AtFlags::empty()).map(drop).map_err(|_| error)
}

fn make_readonly(path: &CStr) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = match open_tree(CWD, path, flags) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let readonly = Attributes {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
        recursive: true,
        ..Attributes::default()
    };
    set_attributes(tree.as_fd(), c"", readonly)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    attach(tree.as_fd(), path)
}

fn mask(path: &CStr) -> Result<(), Errno> {
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = if FileType::from_raw_mode(stat.st_mode).is_dir() {
        let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), c"size", c"0")?;
        fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        open_tree(
            CWD,
            c"/dev/null",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )?
    };
    attach(tree.as_fd(), path)
}

/// Session, standard streams, limits, identity and filter; then the program.
pub fn become_process(
    process: &PreparedProcess,
    stdio: ChildStdio,
    gate: Option<BorrowedFd<'_>>,
    end: BorrowedFd<'_>,
) -> Result<Infallible, Failure> {
    rustix::process::setsid().map_err(Failure::at(Step::Session, 0))?;
    match stdio {
        ChildStdio::Descriptors(descriptors) => redirect(descriptors)?,
        ChildStdio::Terminal { rows, columns } => {
            let peer = open_terminal(rows, columns, process.uid, end)
                .map_err(Failure::at(Step::Terminal, 0))?;
            // Moved out of the way of 0 to 2, which it may be itself if the caller had them closed.
            redirect([peer.into_raw_fd(); 3])?;
        }
    }
    // What is open leads to the host: nothing of it may be left when the container can look, or be a working directory.
    // The one that reports a failure closes with a successful execve.
    exec::close_on_exec_from(3).map_err(Failure::at(Step::Stdio, 3))?;
    let number = |file: BorrowedFd<'_>| file.as_raw_fd().cast_unsigned();
    exec::close_from_but(3, [number(end), number(gate.unwrap_or(end))]);
    for (index, (resource, limit)) in process.limits.iter().enumerate() {
        rustix::process::setrlimit(*resource, *limit).map_err(Failure::at(Step::Limit, index))?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    let filter = |index| {
        let Some(program) = &process.seccomp else { return Ok(()) };
        berth_sys::seccomp::install(program.instructions())
            .map_err(Failure::at(Step::Seccomp, index))
    };
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter, and the next step gives that up.
    if !process.no_new_privileges {
        filter(0)?;
    }
    take_identity(process)?;
    rustix::process::chdir(process.directory.as_c_str())
        .map_err(Failure::at(Step::Directory, 1))?;
    if !exec::is_inside_root().map_err(Failure::at(Step::Directory, 2))? {
        return Err(Failure::at(Step::Directory, 3)(Errno::XDEV));
    }
    exec::reset_signals();
    if let Some(gate) = gate {
        hold(gate, end)?;
    }
    // Last, since the filter may forbid what came before.
    if process.no_new_privileges {
        filter(1)?;
    }
    let mut worst = libc::ENOENT;
    for candidate in &process.candidates {
        let Err(error) = exec::execve(candidate, &process.args, &process.env);
        match error.raw_os_error().unwrap_or(libc::EIO) {
            libc::ENOENT | libc::ENOTDIR => {}
            errno => worst = errno,
        }
    }
    Err(Failure { step: Step::Exec, index: 0, errno: worst })
}

/// Waits at the gate for a byte, however long that takes.
fn hold(gate: BorrowedFd<'_>, end: BorrowedFd<'_>) -> Result<(), Failure> {
    channel::send_held(end).map_err(Failure::at(Step::Gate, 0))?;
    let mut byte = [0_u8; 1];
    match rustix::io::retry_on_intr(|| rustix::io::read(gate, &mut byte)) {
        Ok(1) => Ok(()),
        Ok(_) => Err(Failure::at(Step::Gate, 1)(Errno::PIPE)),
        Err(error) => Err(Failure::at(Step::Gate, 1)(error)),
    }
}

/// Creates the working directory if the image lacks it. Only the first process of a container does, as root.
pub fn make_working_directory(process: &PreparedProcess) -> Result<(), Failure> {
    for path in &process.directory_parents {
        make_directory(path).map_err(Failure::at(Step::Directory, 0))?;
    }
    Ok(())
}

fn redirect(descriptors: [i32; 3]) -> Result<(), Failure> {
    for (target, source) in (0_i32..).zip(descriptors) {
        exec::duplicate_onto(source, target).map_err(Failure::at(Step::Stdio, 0))?;
    }
    Ok(())
}

fn open_terminal(
    rows: u16,
    columns: u16,
    uid: u32,
    end: BorrowedFd<'_>,
) -> Result<OwnedFd, std::io::Error> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let controller = open(c"/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&controller)?;
    let peer = rustix::pty::ioctl_tiocgptpeer(
        &controller,
        rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC,
    )?;
    if rows > 0 && columns > 0 {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&controller, size)?;
    }
    if uid != 0 {
        rustix::fs::fchown(&peer, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    rustix::process::ioctl_tiocsctty(&peer)?;
    channel::send_terminal(end, controller.as_fd())?;
    Ok(peer)
}

fn take_identity(process: &PreparedProcess) -> Result<(), Failure> {
    let credentials = |index| Failure::at(Step::Credentials, index);
    let capabilities = Failure::at::<Errno>(Step::Capabilities, 0);
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(Failure::at(Step::Capabilities, 1))?;
    }
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            // Beyond the kernel's last capability.
            Err(_) => break,
            Ok(true) if !process.bounding.contains(capability) => {
                rustix::thread::remove_capability_from_bounding_set(capability)
                    .map_err(Failure::at(Step::Capabilities, number))?;
            }
            Ok(_) => {}
        }
    }
    rustix::thread::set_keep_capabilities(true).map_err(&capabilities)?;
    exec::set_groups(&process.groups).map_err(credentials(1))?;
    exec::set_ids(process.uid, process.gid).map_err(credentials(2))?;
    rustix::thread::set_keep_capabilities(false).map_err(&capabilities)?;
    rustix::thread::set_capabilities(None, process.capabilities).map_err(&capabilities)?;
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if process.ambient.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(Failure::at(Step::Capabilities, number))?;
        }
    }
    Ok(())
}

/// Joins the namespaces of a pod, the user namespace first: privilege over the others comes from it.
pub fn join(user: Option<i32>, others: &[(i32, i32)]) -> Result<(), Failure> {
    if let Some(user) = user {
        join_one(user, libc::CLONE_NEWUSER, Step::JoinUser, 0)?;
        exec::set_ids(0, 0).map_err(Failure::at(Step::JoinUser, 1))?;
    }
    for (index, (descriptor, flag)) in others.iter().enumerate() {
        join_one(*descriptor, *flag, Step::JoinNamespace, index)?;
    }
    Ok(())
}

fn join_one(descriptor: i32, flag: i32, step: Step, index: usize) -> Result<(), Failure> {
    // SAFETY: the descriptor is held open by the parent's `Namespaces`, of which we have a copy.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    berth_sys::namespace::join(descriptor, flag).map_err(Failure::at(step, index))
}

/// The raw numbers of three descriptors, which the caller keeps open.
pub fn raw(descriptors: &[OwnedFd; 3]) -> [i32; 3] {
    [descriptors[0].as_raw_fd(), descriptors[1].as_raw_fd(), descriptors[2].as_raw_fd()]
}
