//! Requests to the kernel's routing family, one at a time, each acknowledged.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use berth_sys::netlink::{Family, open};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::{RecvFlags, SendFlags};

/// A change to the network that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetworkError {
    /// What was being done, to what.
    pub action: String,
    /// The kernel's reason.
    pub source: io::Error,
}

/// Turns a reason into a [`NetworkError`].
pub fn failed<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
    let action = action.into();
    move |error| NetworkError { action, source: error.into() }
}

/// A hardware address.
pub type Mac = [u8; 6];

/// A connection to the routing family of one network namespace.
#[derive(Debug)]
pub struct Routing {
    socket: OwnedFd,
}

const CREATE: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
const ENSURE: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
const REMOVE: u16 = NLM_F_REQUEST | NLM_F_ACK;
const MAIN_TABLE: u8 = 254;

impl Routing {
    /// Connects in the calling thread's network namespace.
    pub fn connect() -> Result<Self, NetworkError> {
        let socket = open(Family::Route).map_err(failed("open a routing socket"))?;
        Ok(Self { socket })
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = 1;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0_u8; 8192];
        let (length, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
        })?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..length])
            .map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) => error.code.map_or(Ok(()), |_| Err(error.to_io())),
            _ => Err(io::Error::other("the kernel sent something else than an acknowledgement")),
        }
    }

    /// Creates a pair of interfaces: `name` here, up, with `mac`, and `eth0` with `peer_mac` in `namespace`. The kernel
    /// refuses to create the far end up: the pair is not yet joined then.
    pub fn add_pair(
        &self,
        name: &str,
        mac: Mac,
        namespace: BorrowedFd<'_>,
        peer_mac: Mac,
    ) -> io::Result<()> {
        let end = |name: &str, mac: Mac| {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName(name.to_owned()));
            link.attributes.push(LinkAttribute::Address(mac.to_vec()));
            link
        };
        let mut peer = end("eth0", peer_mac);
        peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let mut link = end(name, mac);
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.ask(RouteNetlinkMessage::NewLink(link), CREATE)
    }

    /// Brings an interface up.
    pub fn up(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), REMOVE)
    }

    /// Deletes an interface; one that is gone is fine.
    pub fn remove_link(&self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        gone_is_fine(self.ask(RouteNetlinkMessage::DelLink(link), REMOVE), libc::ENODEV)
    }

    /// Gives an interface an address with a full-length prefix.
    pub fn add_address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewAddress(address_message(index, address)), ENSURE)
    }

    /// Takes an address from an interface; none there is fine.
    pub fn remove_address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        gone_is_fine(self.ask(message, REMOVE), libc::EADDRNOTAVAIL)
    }

    /// Adds or replaces a route.
    pub fn add_route(&self, route: &Route) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewRoute(route.message()), ENSURE)
    }

    /// Removes a route; none there is fine.
    pub fn remove_route(&self, route: &Route) -> io::Result<()> {
        gone_is_fine(self.ask(RouteNetlinkMessage::DelRoute(route.message()), REMOVE), libc::ESRCH)
    }

    /// Tells where an address lives, so that nobody has to ask.
    pub fn add_neighbour(&self, index: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.ask(RouteNetlinkMessage::NewNeighbour(message), ENSURE)
    }
}

/// A route through an interface.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub network: Ipv4Addr,
    pub length: u8,
    pub interface: u32,
    pub gateway: Option<Ipv4Addr>,
    pub source: Option<Ipv4Addr>,
}

impl Route {
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = self.length;
        message.header.table = MAIN_TABLE;
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope =
            if self.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if self.length > 0 {
            let network = RouteAddress::Inet(self.network);
            message.attributes.push(RouteAttribute::Destination(network));
        }
        message.attributes.push(RouteAttribute::Oif(self.interface));
        if let Some(gateway) = self.gateway {
            message.header.flags |= RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        }
        message
    }
}

fn address_message(index: u32, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
    message
}

fn gone_is_fine(result: io::Result<()>, gone: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(gone) => Ok(()),
        other => other,
    }
}

/// The index of an interface in the calling thread's network namespace.
pub fn index(name: &str) -> Result<u32, NetworkError> {
    // Through a socket rather than /sys, which shows the namespace it was mounted in.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
            .map_err(failed(format!("find interface `{name}`")))?;
    rustix::net::netdevice::name_to_index(&socket, name)
        .map_err(failed(format!("find interface `{name}`")))
}
