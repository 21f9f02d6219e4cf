//! The last steps of a child: descriptors, `execve`, or an exit that runs no destructor.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char};
use std::io;
use std::ptr;

/// A null-terminated array of C strings, built before the clone so that the child allocates nothing.
#[derive(Debug)]
pub struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    /// Takes the strings and lays out the pointers `execve` wants.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers =
            strings.iter().map(|text| text.as_ptr()).chain(std::iter::once(ptr::null())).collect();
        Self { strings, pointers }
    }

    /// The strings.
    #[must_use]
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces the process image.
///
/// # Errors
/// Returns only on failure, with the kernel's reason.
pub fn execve(path: &CStr, args: &StringArray, env: &StringArray) -> io::Result<Infallible> {
    // SAFETY: both arrays are null-terminated and their strings are owned by the borrowed values.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Where the kernel finds the arguments that `/proc/PID/cmdline` shows of this process and of its forks.
#[derive(Debug, Clone, Copy)]
pub struct ShownArguments {
    start: usize,
    length: usize,
}

impl ShownArguments {
    /// Finds them in `/proc/self/stat`, see proc_pid_stat(5).
    ///
    /// # Errors
    /// When the file cannot be read or has another form.
    pub fn find() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The second field is in parentheses and may hold anything; fields 48 and 49 are the bounds.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(45);
        let mut bound = || fields.next().and_then(|field| field.parse::<usize>().ok());
        match (bound(), bound()) {
            (Some(start), Some(end)) if start > 0 && end > start => {
                Ok(Self { start, length: end - start })
            }
            _ => Err(io::Error::other("/proc/self/stat does not say where the arguments are")),
        }
    }

    /// Replaces them by `name`, as much of it as fits, in this process alone. Nothing may read the arguments afterwards.
    ///
    /// # Safety
    /// No other thread runs in this process, and it neither reads its arguments again nor has moved them.
    pub unsafe fn replace(self, name: &[u8]) {
        let memory = ptr::with_exposed_provenance_mut::<u8>(self.start);
        for at in 0..self.length {
            // The last byte stays zero, so that the kernel sees an argument that ends.
            let byte = if at + 1 < self.length { name.get(at).copied().unwrap_or(0) } else { 0 };
            // SAFETY: the kernel wrote the arguments to this writable part of the stack, which is never unmapped.
            unsafe { memory.add(at).write_volatile(byte) };
        }
    }
}

/// Goes on as the same program from a mount of its own that nobody can write to, if it does not run from one yet.
///
/// A process that enters a container executes what the container says, and that may be `/proc/self/exe`: through it the program's own
/// file would be within reach of the container's root (CVE-2019-5736).
///
/// # Errors
/// When it cannot be executed again. Without the privilege to mount nothing is done: the file is then not the caller's to write.
pub fn run_from_read_only() -> io::Result<()> {
    let own = rustix::fs::open(
        c"/proc/self/exe",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    if rustix::fs::fstatvfs(&own)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE
        | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC
        | rustix::mount::OpenTreeFlags::AT_EMPTY_PATH;
    let tree = match rustix::mount::open_tree(&own, c"", flags) {
        Err(rustix::io::Errno::PERM) => return Ok(()),
        tree => tree?,
    };
    let readonly = rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY;
    let attributes = crate::mount::Attributes { set: readonly.bits().into(), ..Default::default() };
    crate::mount::set_attributes(std::os::fd::AsFd::as_fd(&tree), c"", attributes)?;
    let bytes = |text: std::ffi::OsString| {
        CString::new(std::os::unix::ffi::OsStringExt::into_vec(text)).map_err(io::Error::other)
    };
    let arguments = std::env::args_os().map(bytes).collect::<io::Result<_>>()?;
    let variables = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        bytes(name)
    });
    let (arguments, variables) =
        (StringArray::new(arguments), StringArray::new(variables.collect::<io::Result<_>>()?));
    // SAFETY: both arrays are null-terminated and their strings live through the call; the descriptor is open.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            std::os::fd::AsRawFd::as_raw_fd(&tree),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            variables.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on as close-on-exec.
///
/// # Errors
/// `ENOSYS` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; closes nothing.
    crate::check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })?;
    Ok(())
}

/// Closes every descriptor from `first` on but two. For a child as below.
pub fn close_from_but(first: u32, kept: [u32; 2]) {
    let mut next = first;
    for kept in [kept[0].min(kept[1]), kept[0].max(kept[1])] {
        if kept > next {
            // SAFETY: as below.
            unsafe { libc::syscall(libc::SYS_close_range, next, kept - 1, 0) };
        }
        next = next.max(kept + 1);
    }
    close_from(next);
}

/// Lets a descriptor be inherited by the program.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn keep_over_exec(descriptor: i32) -> io::Result<()> {
    // SAFETY: F_SETFD changes one flag of one descriptor.
    crate::check(libc::c_long::from(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }))?;
    Ok(())
}

/// Whether the working directory lies within the root directory.
///
/// # Errors
/// When it has been removed, or its path is too long to be told.
pub fn is_inside_root() -> io::Result<bool> {
    let mut path = [0_u8; 4096];
    // SAFETY: the buffer has the length that is passed. The C library's own function would hide that a path is unreachable.
    crate::check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

/// Closes every descriptor from `first` on. For a child that makes system calls on prepared values only: whatever owned
/// them is never run again.
pub fn close_from(first: u32) {
    // SAFETY: the child uses none of them any more; without the call (before Linux 5.9) they merely stay open.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Has the kernel reap every child of this process, adopted ones included.
pub fn reap_nothing() {
    // SAFETY: sets a disposition, no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Makes descriptor `target` a copy of `source`, without close-on-exec, also when both are the same number.
///
/// # Errors
/// `EBADF` if `source` is not open.
pub fn duplicate_onto(source: i32, target: i32) -> io::Result<()> {
    if source == target {
        // SAFETY: F_SETFD changes one flag of one descriptor.
        crate::check(libc::c_long::from(unsafe { libc::fcntl(source, libc::F_SETFD, 0) }))?;
    } else {
        // SAFETY: the child owns its descriptor table; replacing `target` is the purpose.
        crate::check(libc::c_long::from(unsafe { libc::dup2(source, target) }))?;
    }
    Ok(())
}

/// Resets every signal to its default action and unblocks all of them: an `execve` keeps ignored and blocked signals.
pub fn reset_signals() {
    // SAFETY: plain data structures on our own stack, valid for zero bytes; failures for SIGKILL and SIGSTOP are expected.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Sets all three user and group ids of this thread, which is the whole process after a clone.
///
/// # Errors
/// `EINVAL` if the id has no mapping in the user namespace.
pub fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain system calls on the calling thread; the C library's set-all-threads wrapper is avoided on purpose.
    crate::check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    crate::check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets the supplementary groups of this thread.
///
/// # Errors
/// `EPERM` where the user namespace forbids it.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe one live slice.
    crate::check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}
