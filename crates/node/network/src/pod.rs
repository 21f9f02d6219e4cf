//! A pod's interface.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::node::NodeNetwork;
use crate::route::{Mac, NetworkError, Route, Routing, failed, index};

/// The gateway every pod sees. It exists nowhere: a fixed neighbour entry leads to the host's end of the pair.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The hardware address of every host's end.
const HOST_MAC: Mac = [0xee, 0xee, 0xee, 0xee, 0xee, 0xee];

/// A pod's connection to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Name of the host's end.
    pub interface: String,
}

impl Attachment {
    /// The connection of the pod with this address. The name follows from the address, so that it can be found again.
    #[must_use]
    pub fn of(network: &NodeNetwork, address: Ipv4Addr) -> Self {
        Self { address, interface: format!("{}{:x}", network.prefix, address.to_bits()) }
    }

    /// Connects the network namespace.
    ///
    /// # Errors
    /// When the kernel refuses; what was made is removed again.
    pub fn attach(&self, namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let host = Routing::connect()?;
        // A leftover of the same name belongs to a pod that is gone: addresses are handed out once.
        host.remove_link(&self.interface)
            .map_err(failed(format!("remove the old interface `{}`", self.interface)))?;
        self.connect(&host, namespace).inspect_err(|_| {
            // The first error is what the caller must hear.
            let _left = host.remove_link(&self.interface);
        })
    }

    fn connect(&self, host: &Routing, namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let name = &self.interface;
        let octets = self.address.octets();
        let mac = [0x02, 0x42, octets[0], octets[1], octets[2], octets[3]];
        host.add_pair(name, HOST_MAC, namespace, mac)
            .map_err(failed(format!("create the interfaces of `{name}`")))?;
        let outside = index(name)?;
        // Strict reverse-path check against forged sources; loopback routing for ports published on 127.0.0.1 only.
        for (setting, value) in [("rp_filter", "1"), ("route_localnet", "1")] {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/{setting}");
            std::fs::write(&path, value).map_err(failed(format!("write to `{path}`")))?;
        }
        let (pod, inside) = enter(namespace)?;
        let action = || failed::<std::io::Error>(format!("configure the pod's end of `{name}`"));
        pod.up(1).map_err(action())?;
        pod.up(inside).map_err(action())?;
        pod.add_address(inside, self.address).map_err(action())?;
        pod.add_neighbour(inside, GATEWAY, HOST_MAC).map_err(action())?;
        let default = Route {
            network: Ipv4Addr::UNSPECIFIED,
            length: 0,
            interface: inside,
            gateway: Some(GATEWAY),
            source: None,
        };
        pod.add_route(&default).map_err(action())?;
        host.add_neighbour(outside, self.address, mac)
            .map_err(failed(format!("find the pod behind `{name}`")))?;
        let route = Route {
            network: self.address,
            length: 32,
            interface: outside,
            gateway: None,
            source: None,
        };
        host.add_route(&route).map_err(failed(format!("route {} to `{name}`", self.address)))
    }

    /// Disconnects the pod; one that is not connected is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> Result<(), NetworkError> {
        Routing::connect()?
            .remove_link(&self.interface)
            .map_err(failed(format!("remove interface `{}`", self.interface)))
    }
}

/// A routing socket in another network namespace, and the index of `eth0` there. Sockets stay in the namespace they were
/// opened in, so only a short-lived thread has to enter it.
fn enter(namespace: BorrowedFd<'_>) -> Result<(Routing, u32), NetworkError> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            berth_sys::namespace::join(namespace.as_fd(), libc::CLONE_NEWNET)
                .map_err(failed("enter the pod's network namespace"))?;
            Ok((Routing::connect()?, index("eth0")?))
        });
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
