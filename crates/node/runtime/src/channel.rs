//! The socket between a starting child and its parent: go-ahead, failures, the terminal, and silence for success.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Where a child stood when it failed. The number travels over the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Wait,
    JoinUser,
    JoinNamespace,
    Clone,
    CgroupNamespace,
    Propagation,
    Filesystem,
    Root,
    Pivot,
    Target,
    Mount,
    Device,
    Mask,
    Sysctl,
    ReadOnlyRoot,
    Session,
    Terminal,
    Stdio,
    Limit,
    Directory,
    Credentials,
    Capabilities,
    Seccomp,
    Exec,
    Hostname,
    Cgroup,
    Gate,
    Time,
    Node,
    Scheduling,
    Keyring,
    Preserved,
    Copy,
    Label,
}

const STEPS: [Step; 34] = [
    Step::Wait,
    Step::JoinUser,
    Step::JoinNamespace,
    Step::Clone,
    Step::CgroupNamespace,
    Step::Propagation,
    Step::Filesystem,
    Step::Root,
    Step::Pivot,
    Step::Target,
    Step::Mount,
    Step::Device,
    Step::Mask,
    Step::Sysctl,
    Step::ReadOnlyRoot,
    Step::Session,
    Step::Terminal,
    Step::Stdio,
    Step::Limit,
    Step::Directory,
    Step::Credentials,
    Step::Capabilities,
    Step::Seccomp,
    Step::Exec,
    Step::Hostname,
    Step::Cgroup,
    Step::Gate,
    Step::Time,
    Step::Node,
    Step::Scheduling,
    Step::Keyring,
    Step::Preserved,
    Step::Copy,
    Step::Label,
];

/// One failed step: which, the position in its list where it has one, and the kernel's reason.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub step: Step,
    pub index: u16,
    pub errno: i32,
}

impl Failure {
    /// Builds the closure that `map_err` wants.
    pub fn at<E: Into<io::Error>>(step: Step, index: usize) -> impl Fn(E) -> Failure {
        move |error| Failure {
            step,
            index: u16::try_from(index).unwrap_or(u16::MAX),
            errno: error.into().raw_os_error().unwrap_or(libc::EIO),
        }
    }

    fn to_bytes(self) -> [u8; 8] {
        let (index, errno) = (self.index.to_le_bytes(), self.errno.to_le_bytes());
        [KIND_FAILURE, self.step as u8, index[0], index[1], errno[0], errno[1], errno[2], errno[3]]
    }
}

const KIND_FAILURE: u8 = 1;
const KIND_PID: u8 = 2;
const KIND_TERMINAL: u8 = 3;
const KIND_HELD: u8 = 4;
const KIND_PREPARED: u8 = 5;
const KIND_LISTENER: u8 = 6;

/// What the parent hears.
#[derive(Debug)]
pub enum Message {
    Failed(Failure),
    Pid(i32),
    Terminal(OwnedFd),
    /// All is made; the child waits to be let on to its program.
    Held,
    /// The namespaces are made and nothing is entered; the child waits to be let on.
    Prepared,
    /// Where the calls arrive that its filter wants to be asked about.
    Listener(OwnedFd),
    /// The child's end closed: `execve` succeeded, or the child died.
    Closed,
}

/// A pair of ends, both closed by `execve`.
///
/// # Errors
/// When the process is out of descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Child: waits for the parent's go-ahead.
pub fn wait(end: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut byte = [0_u8; 1];
    match rustix::io::retry_on_intr(|| rustix::io::read(end, &mut byte)) {
        Ok(1) => Ok(()),
        Ok(_) => Err(Failure { step: Step::Wait, index: 0, errno: libc::EPIPE }),
        Err(error) => Err(Failure::at::<Errno>(Step::Wait, 0)(error)),
    }
}

/// Parent: lets the child go on.
pub fn release(end: BorrowedFd<'_>) -> io::Result<()> {
    berth_sys::socket::send(end, &[1], &[]).map(drop)
}

/// Child: reports the failure. Nothing more can be done if even that fails; the parent then sees the exit.
pub fn report(end: BorrowedFd<'_>, failure: Failure) {
    let _unreachable_parent = berth_sys::socket::send(end, &failure.to_bytes(), &[]);
}

/// Intermediate child: tells the pid of its sibling.
pub fn send_pid(end: BorrowedFd<'_>, pid: i32) -> io::Result<()> {
    let bytes = pid.to_le_bytes();
    let message = [KIND_PID, 0, 0, 0, bytes[0], bytes[1], bytes[2], bytes[3]];
    berth_sys::socket::send(end, &message, &[]).map(drop)
}

/// Child: hands over the terminal's controlling side.
pub fn send_terminal(end: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> io::Result<()> {
    berth_sys::socket::send(end, &[KIND_TERMINAL, 0, 0, 0, 0, 0, 0, 0], &[terminal]).map(drop)
}

/// Child: says that it waits.
pub fn send_held(end: BorrowedFd<'_>) -> io::Result<()> {
    berth_sys::socket::send(end, &[KIND_HELD, 0, 0, 0, 0, 0, 0, 0], &[]).map(drop)
}

/// Child: says that its namespaces are there, and waits to be let on.
pub fn pause(end: BorrowedFd<'_>) -> Result<(), Failure> {
    let sent = berth_sys::socket::send(end, &[KIND_PREPARED, 0, 0, 0, 0, 0, 0, 0], &[]);
    sent.map_err(Failure::at(Step::Wait, 1))?;
    wait(end)
}

/// Child: hands over where its filter asks.
pub fn send_listener(end: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    berth_sys::socket::send(end, &[KIND_LISTENER, 0, 0, 0, 0, 0, 0, 0], &[listener]).map(drop)
}

/// How long a child may be silent. It makes a few dozen system calls between two messages; a container that it has joined may stop
/// it, and whoever waits for it has other things to do.
const PATIENCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };

/// Parent: the next message.
pub fn receive(end: impl AsFd) -> io::Result<Message> {
    let mut polled = [rustix::event::PollFd::new(&end, rustix::event::PollFlags::IN)];
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&PATIENCE)))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "its process is silent, maybe stopped",
        ));
    }
    let mut bytes = [0_u8; 8];
    let (length, descriptors) = match berth_sys::socket::receive(end, &mut bytes) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => (0, Vec::new()),
        other => other?,
    };
    let number = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    match (length, bytes[0]) {
        (0, _) => Ok(Message::Closed),
        (8, KIND_PID) => Ok(Message::Pid(number)),
        (8, KIND_HELD) => Ok(Message::Held),
        (8, KIND_PREPARED) => Ok(Message::Prepared),
        (8, KIND_FAILURE) => Ok(Message::Failed(Failure {
            step: *STEPS.get(usize::from(bytes[1])).unwrap_or(&Step::Wait),
            index: u16::from_le_bytes([bytes[2], bytes[3]]),
            errno: number,
        })),
        (8, KIND_TERMINAL) => match descriptors.into_iter().next() {
            Some(terminal) => Ok(Message::Terminal(terminal)),
            None => Err(io::Error::other("the child sent no terminal descriptor")),
        },
        (8, KIND_LISTENER) => match descriptors.into_iter().next() {
            Some(listener) => Ok(Message::Listener(listener)),
            None => Err(io::Error::other("the child sent no listener")),
        },
        _ => Err(io::Error::other("the child sent a message of unknown form")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_arrives_as_sent() {
        let (ours, theirs) = pair().unwrap();
        for (number, step) in STEPS.iter().enumerate() {
            assert_eq!(*step as usize, number);
            report(theirs.as_fd(), Failure { step: *step, index: 513, errno: libc::EPERM });
            let Message::Failed(failure) = receive(&ours).unwrap() else { panic!("no failure") };
            assert_eq!((failure.step, failure.index, failure.errno), (*step, 513, libc::EPERM));
        }
        drop(theirs);
        assert!(matches!(receive(&ours).unwrap(), Message::Closed));
    }
}
