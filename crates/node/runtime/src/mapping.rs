//! Mappings of user and group ids of any form, and the user namespaces that carry them.
//!
//! A pod's mapping is one range from 0 on; what other engines ask for may be any list of ranges.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use berth_sys::clone::{CloneOptions, Cloned, clone3};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::channel::{self, Failure, Message, Step};
use crate::child;
use crate::namespaces::IdMapping;

/// Ids from `container` on are ids from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// The ranges of users and of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMappings {
    /// Users.
    pub users: Vec<IdRange>,
    /// Groups.
    pub groups: Vec<IdRange>,
}

impl From<IdMapping> for IdMappings {
    fn from(mapping: IdMapping) -> Self {
        let range = IdRange { container: 0, host: mapping.host, size: mapping.size };
        Self { users: vec![range], groups: vec![range] }
    }
}

impl IdMappings {
    /// The mappings of a configuration.
    #[must_use]
    pub fn new(users: &[LinuxIdMapping], groups: &[LinuxIdMapping]) -> Self {
        let range = |mapping: &LinuxIdMapping| IdRange {
            container: mapping.container_id(),
            host: mapping.host_id(),
            size: mapping.size(),
        };
        Self {
            users: users.iter().map(range).collect(),
            groups: groups.iter().map(range).collect(),
        }
    }

    /// Makes a user namespace with these mappings. It lives as long as the descriptor.
    ///
    /// # Errors
    /// When the kernel refuses the ranges: they overlap, or are too many.
    pub fn create(&self) -> io::Result<OwnedFd> {
        let flags = libc::CLONE_NEWUSER.unsigned_abs().into();
        let (users, groups) = (text(&self.users), text(&self.groups));
        beside(flags, None, |pid| {
            std::fs::write(format!("/proc/{pid}/uid_map"), &users)?;
            std::fs::write(format!("/proc/{pid}/gid_map"), &groups)?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(open(format!("/proc/{pid}/ns/user"), flags, Mode::empty())?)
        })
    }

    /// The mappings of a user namespace that is there, as this process sees them.
    ///
    /// # Errors
    /// When the namespace is no user namespace, or may not be joined.
    pub fn of(user: BorrowedFd<'_>) -> io::Result<Self> {
        beside(0, Some(user), |pid| {
            let read = |kind| std::fs::read_to_string(format!("/proc/{pid}/{kind}"));
            Ok(Self { users: parse(&read("uid_map")?), groups: parse(&read("gid_map")?) })
        })
    }

    /// The user outside, if it has one there.
    #[must_use]
    pub fn host_user(&self, id: u32) -> Option<u32> {
        outside(&self.users, id)
    }

    /// The group outside, if it has one there.
    #[must_use]
    pub fn host_group(&self, id: u32) -> Option<u32> {
        outside(&self.groups, id)
    }
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let holds = |range: &&IdRange| id >= range.container && id - range.container < range.size;
    ranges
        .iter()
        .find(holds)?
        .host
        .checked_add(id)?
        .checked_sub(ranges.iter().find(holds)?.container)
}

fn text(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{} {} {}\n", range.container, range.host, range.size);
    ranges.iter().map(line).collect()
}

fn parse(text: &str) -> Vec<IdRange> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().map(|field| field.parse().ok());
        let mut next = || fields.next().flatten();
        Some(IdRange { container: next()?, host: next()?, size: next()? })
    };
    text.lines().filter_map(line).collect()
}

/// Runs `look` beside a child that is in new namespaces, or has joined a user namespace, and ends the child.
fn beside<T>(
    flags: u64,
    joined: Option<BorrowedFd<'_>>,
    look: impl FnOnce(i32) -> io::Result<T>,
) -> io::Result<T> {
    let joined = joined.map(|user| user.as_raw_fd());
    let (ours, theirs) = channel::pair()?;
    // SAFETY: the child makes system calls on prepared values and exits.
    let cloned = unsafe { clone3(CloneOptions { namespaces: flags, ..CloneOptions::default() }) };
    let (pid, pidfd): (Pid, OwnedFd) = match cloned? {
        Cloned::Child => {
            // So that it hears when its parent goes.
            drop(ours);
            let end = theirs.as_fd();
            let hidden = child::hide();
            let outcome = hidden.and_then(|()| match joined {
                Some(user) => child::join(&[(user, libc::CLONE_NEWUSER)]),
                None => Ok(()),
            });
            let told = outcome
                .and_then(|()| channel::send_pid(end, 0).map_err(Failure::at(Step::Wait, 0)));
            if let Err(failure) = told {
                channel::report(end, failure);
                berth_sys::exec::exit_now(1);
            }
            // Stays until it is killed, so that /proc still names its namespaces.
            let _killed = channel::wait(end);
            berth_sys::exec::exit_now(0);
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let seen = match channel::receive(&ours) {
        Ok(Message::Pid(_)) => look(pid.as_raw_nonzero().get()),
        Ok(Message::Failed(failure)) => Err(io::Error::from_raw_os_error(failure.errno)),
        Ok(_) => Err(io::Error::other("the helper process died")),
        Err(error) => Err(error),
    };
    // It may be gone already; reaping it is what counts.
    let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
    let options = WaitIdOptions::EXITED;
    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options))?;
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_the_range_that_holds_them() {
        let range = |container, host, size| IdRange { container, host, size };
        let mappings = IdMappings {
            users: vec![range(0, 1000, 1), range(1, 5000, 10)],
            groups: vec![range(5, 7, u32::MAX - 8)],
        };
        let found = [0, 1, 10, 11].map(|id| mappings.host_user(id));
        assert_eq!(found, [Some(1000), Some(5000), Some(5009), None]);
        assert_eq!((mappings.host_group(4), mappings.host_group(6)), (None, Some(8)));
        assert_eq!(parse(&text(&mappings.users)), mappings.users);
    }
}
