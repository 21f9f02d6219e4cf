//! What the kernel shall do, as a value: Services, published ports and policies.
//!
//! Policies are sets of addresses and pairs of addresses. Numbers for groups of pods would need fewer elements, but the `nft` of
//! Debian 12 aborts on set keys that hold the result of a map, and with it every listing of the host's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

/// What clients connect to. The address `0.0.0.0` stands for every address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// ClusterIP, listen address, or unspecified.
    pub address: Ipv4Addr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Where a connection ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address of a pod.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// What is allowed towards isolated pods, or from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Pods that some policy selects: what is not allowed below is dropped.
    pub isolated: BTreeSet<Ipv4Addr>,
    /// Selected pod and peer: everything.
    pub peers: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    /// Selected pod, peer, protocol and port.
    pub peer_ports: BTreeSet<(Ipv4Addr, Ipv4Addr, Protocol, u16)>,
    /// Selected pod: everything from or to anybody.
    pub anybody: BTreeSet<Ipv4Addr>,
    /// Selected pod, protocol and port: from or to anybody.
    pub anybody_ports: BTreeSet<(Ipv4Addr, Protocol, u16)>,
}

/// The whole desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Services and published ports with their ready endpoints. Without any, connections are refused.
    pub services: BTreeMap<Frontend, Vec<Backend>>,
    /// Towards pods.
    pub inbound: PolicySet,
    /// From pods.
    pub outbound: PolicySet,
}

/// Which map or set an element lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Frontend to the chain for its number of endpoints.
    Service,
    /// Frontend and number to backend.
    Endpoint,
    /// Frontends without endpoints.
    Refused,
    /// Pairs of a pod with itself, for connections that come back through a Service.
    Hairpin,
    /// The sets of one policy direction.
    Policy(Direction, Table),
}

/// Towards pods or from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards pods.
    Inbound,
    /// From pods.
    Outbound,
}

/// The sets of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// See [`PolicySet::isolated`].
    Isolated,
    /// See [`PolicySet::peers`].
    Peers,
    /// See [`PolicySet::peer_ports`].
    PeerPorts,
    /// See [`PolicySet::anybody`].
    Anybody,
    /// See [`PolicySet::anybody_ports`].
    AnybodyPorts,
}

impl Place {
    /// Every place, in the order they are created.
    pub const ALL: [Self; 14] = {
        use Direction::{Inbound, Outbound};
        use Table::{Anybody, AnybodyPorts, Isolated, PeerPorts, Peers};
        [
            Self::Service,
            Self::Endpoint,
            Self::Refused,
            Self::Hairpin,
            Self::Policy(Inbound, Isolated),
            Self::Policy(Inbound, Peers),
            Self::Policy(Inbound, PeerPorts),
            Self::Policy(Inbound, Anybody),
            Self::Policy(Inbound, AnybodyPorts),
            Self::Policy(Outbound, Isolated),
            Self::Policy(Outbound, Peers),
            Self::Policy(Outbound, PeerPorts),
            Self::Policy(Outbound, Anybody),
            Self::Policy(Outbound, AnybodyPorts),
        ]
    };

    /// Its name in the kernel.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Endpoint => "endpoint",
            Self::Refused => "refused",
            Self::Hairpin => "hairpin",
            Self::Policy(Direction::Inbound, table) => match table {
                Table::Isolated => "in-isolated",
                Table::Peers => "in-peer",
                Table::PeerPorts => "in-peer-port",
                Table::Anybody => "in-any",
                Table::AnybodyPorts => "in-any-port",
            },
            Self::Policy(Direction::Outbound, table) => match table {
                Table::Isolated => "out-isolated",
                Table::Peers => "out-peer",
                Table::PeerPorts => "out-peer-port",
                Table::Anybody => "out-any",
                Table::AnybodyPorts => "out-any-port",
            },
        }
    }
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Membership alone.
    Nothing,
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// A chain to go to.
    Chain(String),
}

/// The state as the kernel holds it: elements by place and key.
pub type Elements = BTreeMap<(Place, Vec<u8>), Value>;

/// The longest list of endpoints for which a chain exists from the start.
pub const CHAINS: usize = 64;

/// The chain that chooses among `count` endpoints of a frontend.
pub fn chain(frontend: &Frontend, count: usize) -> String {
    if frontend.address.is_unspecified() { format!("any{count}") } else { format!("one{count}") }
}

impl Ruleset {
    /// The elements that express this state.
    #[must_use]
    pub fn elements(&self) -> Elements {
        let mut elements = Elements::new();
        for (frontend, backends) in &self.services {
            let key = frontend_key(frontend);
            if backends.is_empty() {
                elements.insert((Place::Refused, key), Value::Nothing);
                continue;
            }
            let count = backends.len().min(CHAINS);
            elements.insert((Place::Service, key.clone()), Value::Chain(chain(frontend, count)));
            for (number, backend) in (0_u32..).zip(backends.iter().take(count)) {
                let mut key = key.clone();
                key.extend_from_slice(&number.to_ne_bytes());
                let mut value = backend.address.octets().to_vec();
                push_word(&mut value, &backend.port.to_be_bytes());
                elements.insert((Place::Endpoint, key), Value::Bytes(value));
                let mut pair = backend.address.octets().to_vec();
                pair.extend_from_slice(&backend.address.octets());
                elements.insert((Place::Hairpin, pair), Value::Nothing);
            }
        }
        self.inbound.add(Direction::Inbound, &mut elements);
        self.outbound.add(Direction::Outbound, &mut elements);
        elements
    }
}

impl PolicySet {
    fn add(&self, direction: Direction, elements: &mut Elements) {
        let mut add = |table, key| {
            elements.insert((Place::Policy(direction, table), key), Value::Nothing);
        };
        for pod in &self.isolated {
            add(Table::Isolated, pod.octets().to_vec());
        }
        for pod in &self.anybody {
            add(Table::Anybody, pod.octets().to_vec());
        }
        for (pod, peer) in &self.peers {
            add(Table::Peers, [pod.octets(), peer.octets()].concat());
        }
        for (pod, peer, protocol, port) in &self.peer_ports {
            let mut key = [pod.octets(), peer.octets()].concat();
            push_transport(&mut key, *protocol, *port);
            add(Table::PeerPorts, key);
        }
        for (pod, protocol, port) in &self.anybody_ports {
            let mut key = pod.octets().to_vec();
            push_transport(&mut key, *protocol, *port);
            add(Table::AnybodyPorts, key);
        }
    }
}

fn frontend_key(frontend: &Frontend) -> Vec<u8> {
    let mut key = frontend.address.octets().to_vec();
    push_transport(&mut key, frontend.protocol, frontend.port);
    key
}

fn push_transport(key: &mut Vec<u8>, protocol: Protocol, port: u16) {
    push_word(key, &[protocol as u8]);
    push_word(key, &port.to_be_bytes());
}

/// Every field of a concatenation fills whole words.
fn push_word(key: &mut Vec<u8>, value: &[u8]) {
    key.extend_from_slice(value);
    key.resize(key.len().next_multiple_of(4), 0);
}

/// One change to the kernel's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Takes an element away.
    Remove(Place, Vec<u8>),
    /// Puts an element in.
    Add(Place, Vec<u8>, Value),
}

/// The steps from what is to what is wanted. A changed value is removed and added within one transaction.
#[must_use]
pub fn plan(wanted: &Elements, observed: &Elements) -> Vec<Step> {
    let gone = observed
        .iter()
        .filter(|(key, value)| wanted.get(key) != Some(value))
        .map(|((place, key), _)| Step::Remove(*place, key.clone()));
    let new = wanted
        .iter()
        .filter(|(key, value)| observed.get(key) != Some(value))
        .map(|((place, key), value)| Step::Add(*place, key.clone(), value.clone()));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(endpoints: u8) -> Ruleset {
        let frontend =
            Frontend { address: Ipv4Addr::new(10, 43, 0, 9), protocol: Protocol::Tcp, port: 80 };
        let backends = (1..=endpoints)
            .map(|number| Backend { address: Ipv4Addr::new(10, 42, 0, number), port: 8080 })
            .collect();
        Ruleset { services: [(frontend, backends)].into(), ..Ruleset::default() }
    }

    #[test]
    fn one_more_endpoint_is_three_elements_however_many_there_are() {
        for before in [1, 2, 40] {
            let steps = plan(&ruleset(before + 1).elements(), &ruleset(before).elements());
            let count = |place| {
                steps
                    .iter()
                    .filter(|step| matches!(step, Step::Add(at, ..) if *at == place))
                    .count()
            };
            assert_eq!(
                (count(Place::Service), count(Place::Endpoint), count(Place::Hairpin)),
                (1, 1, 1)
            );
            assert_eq!(steps.len(), 4, "and the old number of endpoints goes");
        }
    }

    #[test]
    fn nothing_changed_is_no_step_and_no_endpoint_is_a_refusal() {
        assert!(plan(&ruleset(3).elements(), &ruleset(3).elements()).is_empty());
        let elements = ruleset(0).elements();
        let places: Vec<Place> = elements.keys().map(|(place, _)| *place).collect();
        assert_eq!(places, [Place::Refused]);
    }
}
