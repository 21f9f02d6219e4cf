//! Everything the zone holds, ready to be looked up: by name, and by address.
//!
//! Surprising: a name has three ways of not being there. [`Found::Absent`] may mean something elsewhere and is worth
//! looking for along the search list; [`Found::Silent`] is a name of ours that has nothing to say just now, such as a
//! headless Service without ready endpoints. Both read as NXDOMAIN, but only the first may leave the node.
//! [`Found::Hollow`] exists only because names below it do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use berth_client::Key;
use hickory_proto::rr::Name;

use crate::facts::{Kind, PodFacts, Port, ServiceFacts, SliceFacts};

/// What a name inside the zone stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// No such name.
    Absent,
    /// No such name at the moment, but nobody else's either.
    Silent,
    /// A name that exists only for those below it.
    Hollow,
    /// The zone itself.
    Apex,
    /// Addresses of both families, possibly none.
    Addresses(Vec<IpAddr>),
    /// Another name.
    Alias(&'a Name),
    /// Ports at hosts.
    Targets(Vec<Target<'a>>),
    /// The version of the schema.
    Version,
}

/// One place to reach a named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub host: &'a Name,
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

/// One address behind a headless Service.
#[derive(Debug)]
struct Endpoint {
    /// Its hostname, or its address with dashes.
    label: String,
    name: Name,
    address: IpAddr,
    ports: Vec<Port>,
}

/// A Service with its slices; either may come first.
#[derive(Debug, Default)]
struct Entry {
    name: Name,
    service: Option<ServiceFacts>,
    slices: BTreeMap<String, SliceFacts>,
    /// Derived from the two above; empty unless headless.
    endpoints: Vec<Endpoint>,
    /// What this entry has put into the index by address.
    pointers: Vec<(IpAddr, Name)>,
}

/// The zone.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) zone: Name,
    /// Whether the first lists are in. Until then, nothing can be said to be absent.
    pub(crate) ready: bool,
    namespaces: HashMap<String, HashMap<String, Entry>>,
    slice_owners: HashMap<Key, String>,
    pointers: HashMap<IpAddr, Vec<Name>>,
    pods: HashMap<Key, PodFacts>,
    pod_addresses: HashMap<IpAddr, Key>,
    pod_namespaces: HashMap<String, usize>,
    networks: Vec<(Ipv4Addr, u8)>,
    /// The first three octets of every pod and Service ever seen.
    surroundings: HashSet<[u8; 3]>,
}

impl Index {
    pub(crate) fn new(zone: Name, networks: Vec<(Ipv4Addr, u8)>) -> Self {
        Self {
            zone,
            ready: false,
            namespaces: HashMap::new(),
            slice_owners: HashMap::new(),
            pointers: HashMap::new(),
            pods: HashMap::new(),
            pod_addresses: HashMap::new(),
            pod_namespaces: HashMap::new(),
            networks,
            surroundings: HashSet::new(),
        }
    }

    /// Takes in a Service, or its absence.
    pub(crate) fn set_service(&mut self, key: &Key, facts: Option<ServiceFacts>) {
        if let Some(ServiceFacts { kind: Kind::Cluster(addresses), .. }) = &facts {
            for address in addresses {
                note_surroundings(&mut self.surroundings, *address);
            }
        }
        self.change(key, |entry| entry.service = facts);
    }

    /// Takes in a slice, or its absence. A slice may change its Service.
    pub(crate) fn set_slice(&mut self, key: &Key, facts: Option<SliceFacts>) {
        let owner = facts.as_ref().map(|facts| facts.service.clone());
        let before = match &owner {
            Some(owner) => self.slice_owners.insert(key.clone(), owner.clone()),
            None => self.slice_owners.remove(key),
        };
        if let Some(before) = before.filter(|before| Some(before) != owner.as_ref()) {
            self.change(&Key::new(key.namespace.clone(), before), |entry| {
                entry.slices.remove(&key.name);
            });
        }
        if let (Some(owner), Some(facts)) = (owner, facts) {
            self.change(&Key::new(key.namespace.clone(), owner), |entry| {
                entry.slices.insert(key.name.clone(), facts);
            });
        }
    }

    /// Takes in a pod, or its absence.
    pub(crate) fn set_pod(&mut self, key: &Key, facts: Option<PodFacts>) {
        if let Some(old) = self.pods.remove(key) {
            for address in &old.addresses {
                // A newer pod may have the address by now.
                if self.pod_addresses.get(address) == Some(key) {
                    self.pod_addresses.remove(address);
                }
            }
            if let Some(count) = self.pod_namespaces.get_mut(&key.namespace) {
                *count -= 1;
                if *count == 0 {
                    self.pod_namespaces.remove(&key.namespace);
                }
            }
        }
        let Some(facts) = facts else { return };
        for address in &facts.addresses {
            self.pod_addresses.insert(*address, key.clone());
            note_surroundings(&mut self.surroundings, *address);
        }
        *self.pod_namespaces.entry(key.namespace.clone()).or_default() += 1;
        self.pods.insert(key.clone(), facts);
    }

    /// What a name is, from its labels in lower case without those of the zone.
    pub(crate) fn find(&self, labels: &[&str]) -> Found<'_> {
        match labels {
            [] => Found::Apex,
            ["svc" | "pod"] => Found::Hollow,
            ["dns-version"] => Found::Version,
            [namespace, "svc" | "pod"] if self.knows_namespace(namespace) => Found::Hollow,
            [address, namespace, "pod"] => self.find_pod(address, namespace),
            [below @ .., service, namespace, "svc"] => {
                let found = self.namespaces.get(*namespace).and_then(|all| all.get(*service));
                found.map_or(Found::Absent, |entry| entry.find(below))
            }
            _ => Found::Absent,
        }
    }

    /// The names of an address.
    pub(crate) fn pointers(&self, address: IpAddr) -> &[Name] {
        self.pointers.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Whether addresses here are the cluster's. `known` holds the leading octets, one to four.
    pub(crate) fn owns(&self, known: &[u8]) -> bool {
        let mut octets = [0; 4];
        octets[..known.len()].copy_from_slice(known);
        let address = Ipv4Addr::from(octets).to_bits();
        // Of a name above the network, such as `10.in-addr.arpa`, somebody else holds the rest.
        let within = self.networks.iter().any(|(network, prefix)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
            usize::from(*prefix) <= known.len() * 8 && address & mask == network.to_bits() & mask
        });
        within
            || octets.first_chunk().is_some_and(|first| {
                known.len() >= first.len() && self.surroundings.contains(first)
            })
    }

    /// Whether a question from there, through the first entry of a search list in this namespace, may have the rest of
    /// the list walked for it.
    pub(crate) fn searches(&self, from: IpAddr, namespace: &str) -> bool {
        match self.pod_addresses.get(&from) {
            Some(key) => {
                key.namespace == namespace
                    && self.pods.get(key).is_some_and(|facts| facts.usual_search)
            }
            // Pods that share their node's address, and containers behind address translation.
            None => self.knows_namespace(namespace),
        }
    }

    fn knows_namespace(&self, namespace: &str) -> bool {
        self.pod_namespaces.contains_key(namespace) || self.namespaces.contains_key(namespace)
    }

    fn find_pod(&self, label: &str, namespace: &str) -> Found<'_> {
        let address = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        let address = address.or_else(|| label.replace('-', ":").parse().ok());
        let Some(address) = address else { return Found::Absent };
        match self.pod_addresses.get(&address) {
            Some(key) if key.namespace == namespace => Found::Addresses(vec![address]),
            _ => Found::Silent,
        }
    }

    /// Changes one entry and brings everything derived from it up to date.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Entry)) {
        let Some(name) = below(&self.zone, &[&key.name, &key.namespace, "svc"]) else { return };
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        let entry = namespace.entry(key.name.clone()).or_default();
        entry.name = name;
        change(entry);
        let stale = std::mem::take(&mut entry.pointers);
        entry.derive();
        let fresh = entry.pointers.clone();
        if entry.service.is_none() && entry.slices.is_empty() {
            namespace.remove(&key.name);
            if namespace.is_empty() {
                self.namespaces.remove(&key.namespace);
            }
        }
        for (address, name) in stale {
            if let Some(names) = self.pointers.get_mut(&address) {
                names.retain(|known| *known != name);
                if names.is_empty() {
                    self.pointers.remove(&address);
                }
            }
        }
        for (address, name) in fresh {
            self.pointers.entry(address).or_default().push(name);
        }
    }
}

impl Entry {
    fn find(&self, below: &[&str]) -> Found<'_> {
        let Some(service) = &self.service else { return Found::Absent };
        match (below, &service.kind) {
            ([], Kind::Cluster(addresses)) => Found::Addresses(addresses.clone()),
            ([], Kind::External(name)) => Found::Alias(name),
            ([], Kind::Headless) if self.endpoints.is_empty() => Found::Silent,
            ([], Kind::Headless) => {
                Found::Addresses(self.endpoints.iter().map(|each| each.address).collect())
            }
            ([protocol], _) if protocol.starts_with('_') => {
                let mut ports = self.ports();
                let any = ports.any(|port| same(&port.protocol, protocol));
                if any { Found::Hollow } else { Found::Silent }
            }
            ([port, protocol], Kind::Cluster(addresses)) => {
                let port = service.ports.iter().find(|each| matches(each, port, protocol));
                port.map_or(Found::Silent, |port| {
                    let addresses = addresses.clone();
                    Found::Targets(vec![Target { host: &self.name, port: port.number, addresses }])
                })
            }
            ([port, protocol], Kind::Headless) => self.targets(port, protocol),
            ([label], Kind::Headless) => {
                let here = self.endpoints.iter().filter(|endpoint| endpoint.label == *label);
                let addresses: Vec<IpAddr> = here.map(|endpoint| endpoint.address).collect();
                if addresses.is_empty() { Found::Silent } else { Found::Addresses(addresses) }
            }
            (_, Kind::Cluster(_) | Kind::Headless | Kind::External(_)) => Found::Silent,
        }
    }

    /// The ports that have names below this one.
    fn ports(&self) -> impl Iterator<Item = &Port> {
        let own = self.service.as_ref().filter(|facts| matches!(facts.kind, Kind::Cluster(_)));
        let own = own.into_iter().flat_map(|facts| &facts.ports);
        own.chain(self.endpoints.iter().flat_map(|endpoint| &endpoint.ports))
    }

    fn targets(&self, port: &str, protocol: &str) -> Found<'_> {
        let mut targets: Vec<Target<'_>> = Vec::new();
        for endpoint in &self.endpoints {
            let Some(port) = endpoint.ports.iter().find(|each| matches(each, port, protocol))
            else {
                continue;
            };
            let same = targets
                .iter_mut()
                .find(|target| *target.host == endpoint.name && target.port == port.number);
            match same {
                Some(target) => target.addresses.push(endpoint.address),
                None => targets.push(Target {
                    host: &endpoint.name,
                    port: port.number,
                    addresses: vec![endpoint.address],
                }),
            }
        }
        if targets.is_empty() { Found::Silent } else { Found::Targets(targets) }
    }

    fn derive(&mut self) {
        self.endpoints.clear();
        let Some(service) = &self.service else { return };
        match &service.kind {
            Kind::External(_) => {}
            Kind::Cluster(addresses) => {
                self.pointers =
                    addresses.iter().map(|address| (*address, self.name.clone())).collect();
            }
            Kind::Headless => {
                self.endpoints = endpoints(&self.name, &self.slices, service.unready);
                let pairs = self.endpoints.iter();
                self.pointers =
                    pairs.map(|endpoint| (endpoint.address, endpoint.name.clone())).collect();
            }
        }
    }
}

/// The endpoints that count, each address and label once even when a move between slices shows it in two.
fn endpoints(name: &Name, slices: &BTreeMap<String, SliceFacts>, unready: bool) -> Vec<Endpoint> {
    let mut seen: HashSet<(IpAddr, String)> = HashSet::new();
    let mut all = Vec::new();
    for slice in slices.values() {
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready || unready) {
            for address in &endpoint.addresses {
                let dashed = || address.to_string().replace(['.', ':'], "-");
                let label = endpoint.hostname.clone().unwrap_or_else(dashed);
                let Some(name) = below(name, &[&label]) else { continue };
                if seen.insert((*address, label.clone())) {
                    let ports = slice.ports.clone();
                    all.push(Endpoint { label, name, address: *address, ports });
                }
            }
        }
    }
    all
}

fn note_surroundings(surroundings: &mut HashSet<[u8; 3]>, address: IpAddr) {
    if let IpAddr::V4(address) = address
        && let Some(first) = address.octets().first_chunk()
    {
        surroundings.insert(*first);
    }
}

fn same(word: &str, label: &str) -> bool {
    label.strip_prefix('_') == Some(word)
}

fn matches(port: &Port, name: &str, protocol: &str) -> bool {
    same(&port.name, name) && same(&port.protocol, protocol)
}

/// The name of these labels below another; nothing when it would be too long or odd for a name.
pub(crate) fn below(name: &Name, labels: &[&str]) -> Option<Name> {
    let lower = labels.iter().map(|label| label.to_ascii_lowercase().into_bytes());
    let own = name.iter().map(<[u8]>::to_vec);
    Name::from_labels(lower.chain(own).collect::<Vec<_>>().iter().map(Vec::as_slice)).ok()
}
