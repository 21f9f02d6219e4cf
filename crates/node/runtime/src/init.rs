//! The first process of a pid namespace that several containers share: it reaps what they leave, and does nothing else.
//!
//! Containers see it as process 1 and may come near it with `ptrace` and `/proc/1`, so there must be nothing to find: it
//! has an empty read-only root of its own, no open files, no capabilities, shows none of its caller's arguments and cannot
//! be dumped. It is a fork of its caller and shares all memory with it, since executing even a tiny program would cost more.

use std::os::fd::AsFd;

use berth_sys::exec::{self, ShownArguments};
use berth_sys::mount::{Attributes, set_attributes};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    remove_capability_from_bounding_set,
};

use crate::channel::{Failure, Step};
use crate::child;

/// What lists of processes show.
const NAME: &std::ffi::CStr = c"pause";

/// Child: gives up everything but its place in the namespaces.
pub fn prepare() -> Result<(), Failure> {
    berth_sys::namespace::unshare(libc::CLONE_NEWNS).map_err(Failure::at(Step::Clone, 2))?;
    let old = open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::at(Step::Propagation, 1))?;
    let private =
        Attributes { propagation: libc::MS_PRIVATE, recursive: true, ..Attributes::default() };
    set_attributes(old.as_fd(), c"", private).map_err(Failure::at(Step::Propagation, 1))?;
    let root = empty_root().map_err(Failure::at(Step::Root, 1))?;
    child::pivot(root.as_fd(), old.as_fd(), child::Attached::Nowhere)?;
    rustix::thread::set_name(NAME).map_err(Failure::at(Step::Credentials, 5))?;
    exec::reap_nothing();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(Failure::at(Step::Credentials, 3))?;
    give_up_privileges().map_err(Failure::at(Step::Capabilities, 2))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Failure::at(Step::Credentials, 4))
}

/// Child: forgets its caller's arguments, closes every file and waits to be killed.
pub fn stay(arguments: ShownArguments) -> ! {
    // SAFETY: a child has one thread, and this one does nothing more than to wait.
    unsafe { arguments.replace(NAME.to_bytes()) };
    exec::close_from(0);
    loop {
        rustix::event::pause();
    }
}

fn empty_root() -> Result<std::os::fd::OwnedFd, Errno> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"size", c"0")?;
    fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
    fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

fn give_up_privileges() -> Result<(), Errno> {
    rustix::thread::set_no_new_privs(true)?;
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            // Beyond the kernel's last capability.
            Err(_) => break,
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)
}
