//! Programs that decide over the devices of a cgroup, by `bpf(2)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction of extended BPF, as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u8,
    /// Destination register in the lower half, source register in the upper.
    pub registers: u8,
    /// Of a jump or of memory.
    pub offset: i16,
    /// The constant.
    pub value: i32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The start of the kernel's attributes for loading a program; what follows may be left out.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
    token: u32,
}

/// Attributes with room behind them: newer kernels answer beyond the fields that older ones know, whatever size they are told. None has
/// that many, and what they do not know they want to be zero.
#[repr(C)]
struct Roomy<T> {
    attributes: T,
    room: [u64; 32],
}

/// Carries out a command and returns its answer, and the attributes as the kernel left them.
fn call<T>(command: i32, attributes: T) -> io::Result<(i32, T)> {
    const { assert!(size_of::<T>().is_multiple_of(8), "nothing undefined lies before the room") };
    let mut roomy = Roomy { attributes, room: [0; 32] };
    // SAFETY: the attributes live through the call and their size is passed; pointers in them are the callers' to keep valid.
    let answer = crate::check(unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut roomy, size_of::<Roomy<T>>())
    })?;
    Ok((i32::try_from(answer).map_err(io::Error::other)?, roomy.attributes))
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// Loads a program that is asked before a device is opened or made: it answers 1 to allow it and 0 to forbid.
///
/// # Errors
/// `EPERM` without privilege, `EINVAL` or `EACCES` where the kernel's verifier does not accept it.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        // No function of the kernel is called that would ask for another.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let (descriptor, _) = call(PROG_LOAD, attributes)?;
    // SAFETY: the kernel has just made it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The programs that decide over the devices of this very cgroup.
///
/// # Errors
/// What the kernel says.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; 64];
    let query = Query {
        target: number(cgroup),
        kind: CGROUP_DEVICE,
        flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: 64,
        padding: 0,
    };
    let (_, query) = call(PROG_QUERY, query)?;
    let known = ids.iter().take(usize::try_from(query.count).unwrap_or(0));
    known
        .map(|id| {
            let by_id = ById { id: *id, next: 0, flags: 0, token: 0 };
            let (descriptor, _) = call(PROG_GET_FD_BY_ID, by_id)?;
            // SAFETY: as above.
            Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
        })
        .collect()
}

/// Has a program decide over the devices of a cgroup, beside those that do already: all must allow.
///
/// # Errors
/// What the kernel says.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = Attach {
        target: number(cgroup),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        replaced: 0,
        relative: 0,
    };
    call(PROG_ATTACH, attributes).map(drop)
}

/// Takes a program away again.
///
/// # Errors
/// `ENOENT` if it does not decide there.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = Attach {
        target: number(cgroup),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
        relative: 0,
    };
    call(PROG_DETACH, attributes).map(drop)
}
