//! What a process can say of itself that no library wraps: scheduling, input and output priority, personality, keyring.

use std::io;
use std::ptr;

/// The rules by which the kernel schedules a process, as `sched_setattr(2)` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For policies of ordinary processes.
    pub nice: i32,
    /// For policies of real time.
    pub priority: u32,
    /// For deadlines, in nanoseconds.
    pub runtime: u64,
    /// The same.
    pub deadline: u64,
    /// The same.
    pub period: u64,
}

/// The kernel's form of it, in the first version, which every kernel since 3.14 takes.
#[repr(C)]
struct RawScheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Applies them to the calling thread.
///
/// # Errors
/// `EPERM` without privilege or where the cgroup allows no real time, `EINVAL` for values that do not go together.
pub fn set_scheduling(scheduling: Scheduling) -> io::Result<()> {
    let size = u32::try_from(size_of::<RawScheduling>()).map_err(io::Error::other)?;
    let Scheduling { policy, flags, nice, priority, runtime, deadline, period } = scheduling;
    let raw = RawScheduling { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: the structure lives through the call and says its own size.
    crate::check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })?;
    Ok(())
}

/// Sets the priority of input and output of the calling process's group: class in the upper bits from 13 on, level below.
///
/// # Errors
/// `EPERM` for the class of real time without privilege.
pub fn set_io_priority(priority: i32) -> io::Result<()> {
    const PROCESS_GROUP: i32 = 2;
    // SAFETY: plain numbers.
    crate::check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS_GROUP, 0, priority) })?;
    Ok(())
}

/// Sets the execution domain of the calling process.
///
/// # Errors
/// `EINVAL` for an unknown one.
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: a plain number.
    crate::check(unsafe { libc::syscall(libc::SYS_personality, domain) })?;
    Ok(())
}

/// Leaves the session keyring that was inherited for a new, empty one. A kernel without keys has nothing to leave.
///
/// # Errors
/// `EDQUOT` when the user has too many keys.
pub fn leave_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    let nameless = ptr::null::<libc::c_char>();
    // SAFETY: no name is passed.
    match crate::check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, nameless) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// Where the memory of a process comes from on machines with several nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// `MPOL_*`, with flags.
    pub mode: i32,
    /// A bit for each node.
    pub nodes: [u64; 16],
}

/// Sets the policy of the calling thread, which its program and its children inherit.
///
/// # Errors
/// `EINVAL` for nodes that are not there, or that do not go with the mode.
pub fn set_memory_policy(policy: &MemoryPolicy) -> io::Result<()> {
    let named = policy.nodes.iter().any(|word| *word != 0);
    // The kernel reads one bit less than it is told.
    let (nodes, count) =
        if named { (policy.nodes.as_ptr(), 64 * policy.nodes.len() + 1) } else { (ptr::null(), 0) };
    // SAFETY: the pointer is null, or to as many bits as are told; the kernel only reads them.
    crate::check(unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, nodes, count) })?;
    Ok(())
}
