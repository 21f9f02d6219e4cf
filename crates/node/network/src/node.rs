//! What the node itself needs once: its own address among the pods, the DNS address, forwarding.

use std::net::Ipv4Addr;

use crate::route::{NetworkError, Route, Routing, failed, index};

/// The node's part of the pod network.
#[derive(Debug, Clone)]
pub struct NodeNetwork {
    /// What the names of the pods' interfaces on the host begin with; at most eight letters.
    pub prefix: String,
    /// Network and prefix length of the pods.
    pub pods: (Ipv4Addr, u8),
    /// Network and prefix length of the Services.
    pub services: (Ipv4Addr, u8),
    /// Address the node answers DNS at.
    pub dns: Ipv4Addr,
}

impl NodeNetwork {
    /// The node's own address: the first of the pods'.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.pods.0.to_bits() + 1)
    }

    /// Sets the node up. Safe to repeat.
    ///
    /// # Errors
    /// When the kernel refuses, for example without privilege.
    pub fn setup(&self) -> Result<(), NetworkError> {
        let routing = Routing::connect()?;
        let loopback = index("lo")?;
        for address in [self.gateway(), self.dns] {
            routing
                .add_address(loopback, address)
                .map_err(failed(format!("give the node the address {address}")))?;
        }
        // Without a route the host could not even try a Service; the real way is set when the packet is redirected.
        routing
            .add_route(&self.service_route(loopback))
            .map_err(failed("route the Service network"))?;
        let path = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(path, "1").map_err(failed(format!("write to `{path}`")))
    }

    /// Takes the node's part away again, interfaces of pods included. Forwarding stays on: others may rely on it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn teardown(&self) -> Result<(), NetworkError> {
        let routing = Routing::connect()?;
        let loopback = index("lo")?;
        for name in self.interfaces()? {
            routing.remove_link(&name).map_err(failed(format!("remove interface `{name}`")))?;
        }
        routing
            .remove_route(&self.service_route(loopback))
            .map_err(failed("remove the route of the Service network"))?;
        for address in [self.gateway(), self.dns] {
            routing
                .remove_address(loopback, address)
                .map_err(failed(format!("take the address {address} from the node")))?;
        }
        Ok(())
    }

    /// The pods' interfaces on the host.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn interfaces(&self) -> Result<Vec<String>, NetworkError> {
        let path = "/proc/thread-self/net/dev";
        let text = std::fs::read_to_string(path).map_err(failed(format!("read `{path}`")))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim().to_owned())
            .filter(|name| name.starts_with(&self.prefix))
            .collect())
    }

    fn service_route(&self, loopback: u32) -> Route {
        Route {
            network: self.services.0,
            length: self.services.1,
            interface: loopback,
            gateway: None,
            source: Some(self.gateway()),
        }
    }
}
