//! Netlink sockets.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A netlink family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Routes, links, addresses, neighbours.
    Route,
    /// Netfilter: tables, rules, sets, connection tracking.
    Netfilter,
}

/// Opens a netlink socket in the network namespace of the calling thread.
///
/// # Errors
/// When the process is out of descriptors, or the kernel lacks the family.
pub fn open(family: Family) -> io::Result<OwnedFd> {
    let protocol = match family {
        Family::Route => libc::NETLINK_ROUTE,
        Family::Netfilter => libc::NETLINK_NETFILTER,
    };
    // SAFETY: creates a descriptor, nothing else.
    let descriptor =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    crate::check(libc::c_long::from(descriptor))?;
    // SAFETY: the kernel has just returned it and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let on: libc::c_int = 1;
    // Answers to a failed batch would repeat every message; their headers are enough.
    // SAFETY: pointer and length describe a live integer.
    let set = unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_NETLINK,
            libc::NETLINK_CAP_ACK,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?,
        )
    };
    crate::check(libc::c_long::from(set))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 8 << 20))?;
    // One batch carries a whole ruleset; these are upper limits, not allocations.
    rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 64 << 20)
        .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(&socket, 64 << 20))?;
    Ok(socket)
}
