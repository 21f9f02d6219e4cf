//! Connecting to a port as a pod's own processes see it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to a port of the loopback interface in a network namespace, or in the host's own. Blocks.
///
/// # Errors
/// What connecting over IPv4 answered, when neither IPv4 nor IPv6 works.
pub fn loopback(namespace: Option<BorrowedFd<'_>>, port: u16) -> io::Result<TcpStream> {
    let connect = || {
        let addresses: [SocketAddr; 2] =
            [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
        let first = TcpStream::connect_timeout(&addresses[0], PATIENCE);
        first
            .or_else(|error| TcpStream::connect_timeout(&addresses[1], PATIENCE).map_err(|_| error))
    };
    let Some(namespace) = namespace else { return connect() };
    // A socket stays in the namespace it was made in, so only a short-lived thread has to enter it.
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            berth_sys::namespace::join(namespace.as_fd(), libc::CLONE_NEWNET)?;
            connect()
        });
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
