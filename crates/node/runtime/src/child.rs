//! What the child does between the clone and `execve`.
//!
//! No allocation, no lock, no panic on any path: another thread of the parent may have held the allocator's lock at the
//! clone. Everything here walks lists that were prepared before.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use berth_sys::attributes;
use berth_sys::exec::{self, StringArray};
use berth_sys::mount::{Attributes, set_attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};

use crate::channel::{self, Failure, Step};
use crate::held::Extras;
use crate::inside::{Inside, attach_to, last};
use crate::mounts::{PreparedMount, PreparedNode, Setting, What, copy};
use crate::process::PreparedProcess;
use crate::seccomp::Program;

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
    /// Devices outside of its device directory.
    pub nodes: Vec<PreparedNode>,
    /// A cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The parent has something to do before the root is entered; meanwhile it is seen at this path.
    pub pause: Option<std::ffi::CString>,
    /// Whether the old root is dropped, rather than only left behind.
    pub pivot: bool,
    /// `MS_SHARED` or 0: what the root becomes once all is there.
    pub shared: bool,
}

/// Where standard input, output and error come from.
#[derive(Debug, Clone, Copy)]
pub enum ChildStdio {
    Descriptors([i32; 3]),
    Terminal { rows: u16, columns: u16 },
}

/// Builds the container's file system around the child and enters it.
pub fn enter_root(prepared: &mut PreparedRoot, end: BorrowedFd<'_>) -> Result<(), Failure> {
    if prepared.cgroup_namespace {
        exec_unshare_cgroup()?;
    }
    let root = open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::at(Step::Propagation, 0))?;
    let private =
        Attributes { propagation: libc::MS_SLAVE, recursive: true, ..Attributes::default() };
    set_attributes(root.as_fd(), c"", private).map_err(Failure::at(Step::Propagation, 0))?;
    // Opened while the host's /proc and /sys are still in sight: the kernel lets a user namespace mount its own only then.
    for (index, mount) in prepared.mounts.iter().enumerate() {
        if let What::Filesystem { kind, parameters, flags, filled } = &mount.what {
            let at_first = if *filled { MountAttrFlags::empty() } else { *flags };
            let opened = open_filesystem(kind, parameters, at_first)
                .map_err(Failure::at(Step::Filesystem, index))?;
            if *filled {
                // Here, since memory counts for who writes to it first: the container, which is limited.
                copy::fill(prepared.root.as_fd(), &mount.target.path, opened.as_fd())
                    .map_err(Failure::at(Step::Copy, index))?;
                let setting = Setting { set: flags.bits().into(), ..Setting::default() };
                setting.apply(opened.as_fd()).map_err(Failure::at(Step::Filesystem, index))?;
            }
            prepared.opened[index] = Some(opened);
        }
    }
    let at = if let Some(seen) = &prepared.pause {
        attach(prepared.root.as_fd(), seen).map_err(Failure::at(Step::Root, 1))?;
        channel::pause(end)?;
        Attached::Elsewhere
    } else {
        Attached::Nowhere
    };
    if prepared.pivot {
        pivot(prepared.root.as_fd(), root.as_fd(), at)?;
    } else {
        leave(prepared.root.as_fd())?;
    }
    // Nothing of the host is in reach any more when the image's paths are walked.
    drop(root);
    let inside = Inside::new().map_err(Failure::at(Step::Pivot, 8))?;
    attach_all(prepared, &inside)?;
    make_nodes(&prepared.nodes, &inside)?;
    for (index, (path, value)) in prepared.sysctls.iter().enumerate() {
        inside.set(path, value).map_err(Failure::at(Step::Sysctl, index))?;
    }
    for (index, path) in prepared.readonly.iter().enumerate() {
        make_readonly(path, &inside).map_err(Failure::at(Step::Mask, index))?;
    }
    for (index, path) in prepared.masked.iter().enumerate() {
        mask(path, &inside).map_err(Failure::at(Step::Mask, index))?;
    }
    if prepared.shared {
        let shared =
            Attributes { propagation: libc::MS_SHARED, recursive: true, ..Attributes::default() };
        set_attributes(prepared.root.as_fd(), c"", shared)
            .map_err(Failure::at(Step::Propagation, 1))?;
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

/// In the listed order, since one may lie on another.
fn attach_all(prepared: &PreparedRoot, inside: &Inside) -> Result<(), Failure> {
    for (index, mount) in prepared.mounts.iter().enumerate() {
        let path = &mount.target.path;
        let tree = match (&mount.what, &prepared.opened[index]) {
            (What::Detached(tree), _) | (What::Filesystem { .. }, Some(tree)) => tree,
            (What::Filesystem { .. }, None) => {
                return Err(Failure::at(Step::Mount, index)(Errno::BADF));
            }
            (What::Present, _) => {
                let present = inside.find(path).map_err(Failure::at(Step::Target, index))?;
                change(mount, present.as_fd()).map_err(Failure::at(Step::Mount, index))?;
                continue;
            }
        };
        inside.make_target(&mount.target).map_err(Failure::at(Step::Target, index))?;
        change(mount, tree.as_fd()).map_err(Failure::at(Step::Mount, index))?;
        inside.attach(tree.as_fd(), path).map_err(Failure::at(Step::Mount, index))?;
    }
    Ok(())
}

fn change(mount: &PreparedMount, tree: BorrowedFd<'_>) -> Result<(), std::io::Error> {
    mount.settings.iter().try_for_each(|setting| setting.apply(tree))
}

/// Devices in the image itself. What is there already has to be the same.
fn make_nodes(nodes: &[PreparedNode], inside: &Inside) -> Result<(), Failure> {
    // The mode is the node's from the start: there is no second step for which somebody could put something else there.
    let mask = rustix::process::umask(Mode::empty());
    let made = nodes.iter().enumerate().try_for_each(|(index, node)| {
        make_node(node, inside).map_err(Failure::at(Step::Node, index))
    });
    rustix::process::umask(mask);
    made
}

fn make_node(node: &PreparedNode, inside: &Inside) -> Result<(), Errno> {
    let name = last(&node.target.path);
    let found = match inside.parent(&node.target) {
        Ok(parent) => rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW),
        Err(error) => Err(error),
    };
    match found {
        Ok(found) => {
            let same =
                FileType::from_raw_mode(found.st_mode) == node.kind && found.st_rdev == node.device;
            return if same { Ok(()) } else { Err(Errno::EXIST) };
        }
        Err(Errno::NOENT) if node.make => {}
        Err(error) => return Err(error),
    }
    let mut parents = node.target.parents.iter().map(|parent| parent.as_c_str());
    if let Some(parent) = parents.next_back() {
        inside.make_directory(parents, parent)?;
    }
    let parent = inside.parent(&node.target)?;
    mknodat(&parent, name, node.kind, node.mode, node.device)?;
    let (user, group) = node.owner;
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    rustix::fs::chownat(&parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
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
    crate::rootfs::configure(context.as_fd(), parameters)?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Where the new root is before it becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    Nowhere,
    Elsewhere,
}

/// Attaches the new root over the old, swaps them, and drops the old one with everything below it.
pub fn pivot(root: BorrowedFd<'_>, old: BorrowedFd<'_>, at: Attached) -> Result<(), Failure> {
    if at == Attached::Nowhere {
        attach(root, c"/").map_err(Failure::at(Step::Root, 0))?;
    }
    rustix::process::fchdir(root).map_err(Failure::at(Step::Pivot, 0))?;
    rustix::process::pivot_root(c".", c".").map_err(Failure::at(Step::Pivot, 1))?;
    rustix::process::fchdir(old).map_err(Failure::at(Step::Pivot, 2))?;
    unmount(c".", UnmountFlags::DETACH).map_err(Failure::at(Step::Pivot, 3))?;
    rustix::process::chdir(c"/").map_err(Failure::at(Step::Pivot, 4))
}

/// Moves the new root over the old and changes to it, for hosts whose root is the kernel's first one, which cannot be swapped. The old
/// one stays below, covered.
fn leave(root: BorrowedFd<'_>) -> Result<(), Failure> {
    attach(root, c"/").map_err(Failure::at(Step::Root, 2))?;
    rustix::process::fchdir(root).map_err(Failure::at(Step::Pivot, 5))?;
    rustix::process::chroot(c".").map_err(Failure::at(Step::Pivot, 6))?;
    rustix::process::chdir(c"/").map_err(Failure::at(Step::Pivot, 7))
}

fn attach(tree: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, c"", CWD, path, flags)
}

fn make_readonly(path: &CStr, inside: &Inside) -> Result<(), Errno> {
    let place = match inside.find(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        found => found?,
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&place, c"", flags)?;
    let readonly = Attributes {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
        recursive: true,
        ..Attributes::default()
    };
    set_attributes(tree.as_fd(), c"", readonly)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    attach_to(tree.as_fd(), place.as_fd())
}

fn mask(path: &CStr, inside: &Inside) -> Result<(), Errno> {
    let place = match inside.find(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        found => found?,
    };
    let tree = if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_dir() {
        let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), c"size", c"0")?;
        fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        inside.null_device()?
    };
    attach_to(tree.as_fd(), place.as_fd())
}

/// Session, standard streams, limits, identity and filter; then the program.
pub fn become_process(
    process: &PreparedProcess,
    stdio: ChildStdio,
    gate: Option<BorrowedFd<'_>>,
    extras: &Extras,
    end: BorrowedFd<'_>,
) -> Result<Infallible, Failure> {
    rustix::process::setsid().map_err(Failure::at(Step::Session, 0))?;
    process.labels.take_on()?;
    streams(process, stdio, extras, end)?;
    close_all_but(extras.preserved, [end, gate.unwrap_or(end)])?;
    ready(process, extras)?;
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter, and the next step gives that up.
    if !process.no_new_privileges {
        install_filter(process, 0, end)?;
    }
    take_identity(process)?;
    rustix::process::chdir(process.directory.as_c_str())
        .map_err(Failure::at(Step::Directory, 1))?;
    if !exec::is_inside_root().map_err(Failure::at(Step::Directory, 2))? {
        return Err(Failure::at(Step::Directory, 3)(Errno::XDEV));
    }
    exec::reset_signals();
    // Who is to be asked by the filter is told of it before the parent goes.
    let asks = process.seccomp.as_ref().is_some_and(Program::asks);
    if process.no_new_privileges && asks {
        install_filter(process, 1, end)?;
    }
    if let Some(gate) = gate {
        find(process)?;
        hold(gate, end)?;
    }
    // Last, since the filter may forbid what came before.
    if process.no_new_privileges && !asks {
        install_filter(process, 1, end)?;
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

fn streams(
    process: &PreparedProcess,
    stdio: ChildStdio,
    extras: &Extras,
    end: BorrowedFd<'_>,
) -> Result<(), Failure> {
    match stdio {
        ChildStdio::Descriptors(descriptors) => redirect(descriptors),
        ChildStdio::Terminal { rows, columns } => {
            let peer = open_terminal(rows, columns, process.uid, end)
                .map_err(Failure::at(Step::Terminal, 0))?;
            if extras.console {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH;
                let tree = open_tree(&peer, c"", flags).map_err(Failure::at(Step::Terminal, 1))?;
                Inside::new()
                    .and_then(|inside| inside.attach(tree.as_fd(), c"/dev/console"))
                    .map_err(Failure::at(Step::Terminal, 2))?;
            }
            // Moved out of the way of 0 to 2, which it may be itself if the caller had them closed.
            redirect([peer.into_raw_fd(); 3])
        }
    }
}

/// What is open leads to the host: nothing of it may be left when the container can look, or be a working directory. What the
/// caller was told to hand on is the exception, and what reports a failure closes with a successful execve.
fn close_all_but(preserved: u32, kept: [BorrowedFd<'_>; 2]) -> Result<(), Failure> {
    let first = 3 + preserved;
    for number in 3..first {
        exec::keep_over_exec(number.cast_signed()).map_err(Failure::at(Step::Preserved, 0))?;
    }
    exec::close_on_exec_from(first).map_err(Failure::at(Step::Stdio, 3))?;
    exec::close_from_but(first, kept.map(|file| file.as_raw_fd().cast_unsigned()));
    Ok(())
}

/// What needs the privilege that is given up afterwards.
fn ready(process: &PreparedProcess, extras: &Extras) -> Result<(), Failure> {
    for (index, (resource, limit)) in process.limits.iter().enumerate() {
        rustix::process::setrlimit(*resource, *limit).map_err(Failure::at(Step::Limit, index))?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    if extras.fresh_keyring {
        attributes::leave_session_keyring().map_err(Failure::at(Step::Keyring, 0))?;
    }
    if let Some(priority) = process.io_priority {
        attributes::set_io_priority(priority).map_err(Failure::at(Step::Scheduling, 0))?;
    }
    if let Some(scheduling) = process.scheduling {
        attributes::set_scheduling(scheduling).map_err(Failure::at(Step::Scheduling, 1))?;
    }
    if let Some(processors) = &extras.processors {
        rustix::thread::sched_setaffinity(None, processors)
            .map_err(Failure::at(Step::Scheduling, 2))?;
    }
    if let Some(policy) = &extras.memory {
        attributes::set_memory_policy(policy).map_err(Failure::at(Step::Scheduling, 4))?;
    }
    if let Some(domain) = extras.personality {
        attributes::set_personality(domain).map_err(Failure::at(Step::Scheduling, 3))?;
    }
    Ok(())
}

fn install_filter(
    process: &PreparedProcess,
    index: usize,
    end: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let Some(program) = &process.seccomp else { return Ok(()) };
    let failed = Failure::at::<std::io::Error>(Step::Seccomp, index);
    let listener =
        berth_sys::seccomp::install(program.instructions(), program.flags()).map_err(&failed)?;
    match listener {
        Some(listener) => channel::send_listener(end, listener.as_fd()).map_err(failed),
        None => Ok(()),
    }
}

/// Becomes a program that is no part of the container: with all privilege, and nothing open but its streams.
pub fn become_hook(
    paths: (&CStr, Option<&CStr>),
    args: &StringArray,
    env: &StringArray,
    stdio: [i32; 3],
    end: BorrowedFd<'_>,
) -> Result<Infallible, Failure> {
    rustix::process::setsid().map_err(Failure::at(Step::Session, 0))?;
    redirect(stdio)?;
    close_all_but(0, [end, end])?;
    let (program, directory) = paths;
    if let Some(directory) = directory {
        rustix::process::chdir(directory).map_err(Failure::at(Step::Directory, 1))?;
    }
    exec::reset_signals();
    let Err(error) = exec::execve(program, args, env);
    Err(Failure::at(Step::Exec, 0)(error))
}

/// Names the container, of which it has a namespace of its own.
pub fn name_host(host: &[u8], domain: &[u8]) -> Result<(), Failure> {
    if !host.is_empty() {
        rustix::system::sethostname(host).map_err(Failure::at(Step::Hostname, 0))?;
    }
    if !domain.is_empty() {
        rustix::system::setdomainname(domain).map_err(Failure::at(Step::Hostname, 1))?;
    }
    Ok(())
}

/// Leaves the time namespace for a new one, and sets its clocks while nobody is in it.
pub fn leave_time(file: BorrowedFd<'_>, offsets: &[u8]) -> Result<(), Failure> {
    berth_sys::namespace::unshare(libc::CLONE_NEWTIME).map_err(Failure::at(Step::Time, 0))?;
    if offsets.is_empty() {
        return Ok(());
    }
    rustix::io::write(file, offsets).map(drop).map_err(Failure::at(Step::Time, 1))
}

/// Whether there is anything to execute, while somebody is there to be told.
fn find(process: &PreparedProcess) -> Result<(), Failure> {
    let mut worst = Errno::NOENT;
    for candidate in &process.candidates {
        match rustix::fs::access(candidate.as_c_str(), rustix::fs::Access::EXEC_OK) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => worst = error,
        }
    }
    Err(Failure::at(Step::Exec, 0)(worst))
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
    let failed = Failure::at::<Errno>(Step::Directory, 0);
    let mut paths = process.directory_parents.iter().map(|path| path.as_c_str());
    let Some(whole) = paths.next_back() else { return Ok(()) };
    Inside::new().and_then(|inside| inside.make_directory(paths, whole)).map_err(failed)
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
    let controller = Inside::new()?.terminal()?;
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
pub fn join_pod(user: Option<i32>, others: &[(i32, i32)]) -> Result<(), Failure> {
    if let Some(user) = user {
        join_user(user)?;
    }
    join(others)
}

/// Nobody in a container may look into a process of ours before it is the program; execve lifts it.
pub fn hide() -> Result<(), Failure> {
    let hidden =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    hidden.map_err(Failure::at(Step::Credentials, 9))
}

/// Joins a user namespace as its root.
pub fn join_user(user: i32) -> Result<(), Failure> {
    join_one(user, libc::CLONE_NEWUSER, Step::JoinUser, 0)?;
    exec::set_ids(0, 0).map_err(Failure::at(Step::JoinUser, 1))?;
    // A change of ids may undo it, as the host is set up.
    hide()
}

/// Joins namespaces, each by its descriptor.
pub fn join(others: &[(i32, i32)]) -> Result<(), Failure> {
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
