//! What the zone of the cluster says to a question, by the Kubernetes DNS specification 1.1.0.

use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom;

use crate::index::{Contents, EndpointEntry, Reach, SliceEntry};

/// How long answers may be kept, in seconds.
pub const TTL: u32 = 5;

/// What is said to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// These records; further ones are for the additional section.
    Records(Vec<Record>, Vec<Record>),
    /// The name is there, but has no such records.
    NoData,
    /// The name is not there.
    NoName,
    /// The name stands for another one, which is to be asked for.
    Alias(Name),
    /// Not for this zone to say.
    NotOurs,
}

/// The zone.
#[derive(Debug, Clone)]
pub struct Zone {
    name: Name,
    labels: Vec<String>,
}

/// The labels of a name in lower case, the most significant last.
pub fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_lowercase()).collect()
}

/// A name from labels; nothing when they make none.
pub fn join(labels: &[String]) -> Option<Name> {
    let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
    Some(name)
}

fn pool(mut endpoints: Vec<EndpointEntry>) -> Vec<EndpointEntry> {
    endpoints.sort_by(|a, b| (a.address, &a.label).cmp(&(b.address, &b.label)));
    endpoints.dedup();
    endpoints.shuffle(&mut rand::rng());
    endpoints
}

impl Zone {
    /// The zone of that name. A text that is no name makes the zone of the root's `invalid`.
    pub fn new(text: &str) -> Self {
        let name = Name::from_ascii(format!("{}.", text.trim_end_matches('.')));
        let name = name.unwrap_or_else(|_| Name::root());
        let labels = labels(&name);
        Self { name, labels }
    }

    /// The part of a name below the zone, when it is in the zone.
    pub fn below(&self, name: &[String]) -> Option<Vec<String>> {
        name.strip_suffix(self.labels.as_slice()).map(<[String]>::to_vec)
    }

    /// A name below the zone.
    pub fn name(&self, below: &[&str]) -> Option<Name> {
        let own = self.labels.iter().map(String::as_str);
        let all: Vec<_> = below.iter().copied().chain(own).map(str::to_owned).collect();
        join(&all)
    }

    /// The record that goes with a denial: how long it may be kept.
    pub fn authority(&self) -> Record {
        let host = |label: &str| {
            let name = Name::from_ascii(label).and_then(|name| name.append_domain(&self.name));
            name.unwrap_or_else(|_| self.name.clone())
        };
        // The serial says nothing: nobody transfers this zone.
        let soa = SOA::new(host("ns.dns"), host("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.name.clone(), TTL, RData::SOA(soa))
    }

    /// What is said to a question.
    pub fn say(&self, index: &Contents, name: &Name, kind: RecordType) -> Said {
        let all = labels(name);
        if let Some(address) = reversed(&all) {
            return self.pointer(index, name, address, kind);
        }
        let Some(below) = self.below(&all) else { return Said::NotOurs };
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        match below.as_slice() {
            [] => self.apex(kind),
            ["dns-version"] if matches!(kind, RecordType::TXT | RecordType::ANY) => {
                let text = RData::TXT(TXT::new(vec!["1.1.0".to_owned()]));
                Said::Records(vec![Record::from_rdata(name.clone(), TTL, text)], Vec::new())
            }
            ["dns-version" | "svc" | "pod"] => Said::NoData,
            [namespace, "svc" | "pod"] if index.has_namespace(namespace) => Said::NoData,
            [dashed, namespace, "pod"] => pod(index, name, dashed, namespace, kind),
            [service, namespace, "svc"] => self.service(index, name, namespace, service, kind),
            [label, service, namespace, "svc"] => {
                endpoint(index, name, label, service, namespace, kind)
            }
            [port, protocol, service, namespace, "svc"] => {
                self.port(index, name, (port, protocol), (service, namespace), kind)
            }
            _ => Said::NoName,
        }
    }

    fn apex(&self, kind: RecordType) -> Said {
        match kind {
            RecordType::SOA => Said::Records(vec![self.authority()], Vec::new()),
            RecordType::NS => {
                let Some(host) = self.name(&["ns", "dns"]) else { return Said::NoData };
                let record = Record::from_rdata(self.name.clone(), TTL, RData::NS(NS(host)));
                Said::Records(vec![record], Vec::new())
            }
            _ => Said::NoData,
        }
    }

    fn service(
        &self,
        index: &Contents,
        name: &Name,
        namespace: &str,
        service: &str,
        kind: RecordType,
    ) -> Said {
        let Some(entry) = index.service(namespace, service) else { return Said::NoName };
        match &entry.reach {
            Reach::Elsewhere(target) => alias(target),
            Reach::Address(address) => addresses(name, &[*address], kind),
            Reach::Endpoints if kind == RecordType::SRV => {
                self.port(index, name, ("*", "*"), (service, namespace), kind)
            }
            Reach::Endpoints => {
                let endpoints = index.slices(namespace, service);
                let endpoints = pool(endpoints.flat_map(|slice| slice.endpoints.clone()).collect());
                let mut found: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
                let mut seen = std::collections::HashSet::new();
                found.retain(|address| seen.insert(*address));
                addresses(name, &found, kind)
            }
        }
    }

    /// The records of a named port: `_port._protocol`, or any for `*`.
    fn port(
        &self,
        index: &Contents,
        name: &Name,
        (port, protocol): (&str, &str),
        (service, namespace): (&str, &str),
        kind: RecordType,
    ) -> Said {
        let any = port == "*";
        let (Some(port), Some(protocol)) = (inner(port, any), inner(protocol, any)) else {
            return Said::NoName;
        };
        let Some(entry) = index.service(namespace, service) else { return Said::NoName };
        let matches = |found: &crate::index::NamedPort| {
            any || (found.name == port && found.protocol == protocol)
        };
        let mut records = Vec::new();
        let mut extra = Vec::new();
        match &entry.reach {
            Reach::Elsewhere(target) => return alias(target),
            Reach::Address(address) => {
                let Some(target) = self.name(&[service, namespace, "svc"]) else {
                    return Said::NoName;
                };
                for found in entry.ports.iter().filter(|found| matches(found)) {
                    let srv = RData::SRV(SRV::new(0, 100, found.port, target.clone()));
                    records.push(Record::from_rdata(name.clone(), TTL, srv));
                }
                if !records.is_empty() {
                    extra.push(Record::from_rdata(target, TTL, RData::A(A(*address))));
                }
            }
            Reach::Endpoints => {
                for slice in index.slices(namespace, service) {
                    self.ports_of(slice, name, &matches, &mut records, &mut extra);
                }
                records.shuffle(&mut rand::rng());
            }
        }
        match (records.is_empty(), kind) {
            (true, _) if any => Said::NoData,
            (true, _) => Said::NoName,
            (false, RecordType::SRV | RecordType::ANY) => Said::Records(records, extra),
            (false, _) => Said::NoData,
        }
    }

    fn ports_of(
        &self,
        slice: &SliceEntry,
        name: &Name,
        matches: &dyn Fn(&crate::index::NamedPort) -> bool,
        records: &mut Vec<Record>,
        extra: &mut Vec<Record>,
    ) {
        let (namespace, service) = &slice.service;
        for endpoint in &slice.endpoints {
            let target = self.name(&[&endpoint.label, service, namespace, "svc"]);
            let Some(target) = target else { continue };
            let before = records.len();
            for found in slice.ports.iter().filter(|found| matches(found)) {
                let srv = RData::SRV(SRV::new(0, 100, found.port, target.clone()));
                records.push(Record::from_rdata(name.clone(), TTL, srv));
            }
            if records.len() > before {
                extra.push(Record::from_rdata(target, TTL, RData::A(A(endpoint.address))));
            }
        }
    }

    fn pointer(&self, index: &Contents, name: &Name, address: Ipv4Addr, kind: RecordType) -> Said {
        let mut targets = Vec::new();
        if let Some((namespace, service)) = index.service_at(address) {
            targets.extend(self.name(&[service, namespace, "svc"]));
        }
        for ((namespace, service), label) in index.endpoints_at(address) {
            targets.extend(self.name(&[label, service, namespace, "svc"]));
        }
        if targets.is_empty() {
            return Said::NotOurs;
        }
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Said::NoData;
        }
        let record = |target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)));
        Said::Records(targets.into_iter().map(record).collect(), Vec::new())
    }
}

/// What follows the underscore; when any port will do, there need be none.
fn inner(label: &str, any: bool) -> Option<&str> {
    if any { Some("") } else { label.strip_prefix('_') }
}

fn addresses(name: &Name, addresses: &[Ipv4Addr], kind: RecordType) -> Said {
    if addresses.is_empty() || !matches!(kind, RecordType::A | RecordType::ANY) {
        return Said::NoData;
    }
    let record = |address: &Ipv4Addr| Record::from_rdata(name.clone(), TTL, RData::A(A(*address)));
    Said::Records(addresses.iter().map(record).collect(), Vec::new())
}

fn alias(target: &str) -> Said {
    match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
        Ok(target) => Said::Alias(target),
        // What the API server has let through is no name; then it stands for nothing.
        Err(_) => Said::NoData,
    }
}

/// A record that says a name stands for another.
pub fn alias_record(name: &Name, target: Name) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target)))
}

fn pod(index: &Contents, name: &Name, dashed: &str, namespace: &str, kind: RecordType) -> Said {
    let address = dashed.replace('-', ".").parse::<Ipv4Addr>().ok();
    match address.filter(|address| index.namespace_at(*address) == Some(namespace)) {
        Some(address) => addresses(name, &[address], kind),
        None => Said::NoName,
    }
}

fn endpoint(
    index: &Contents,
    name: &Name,
    label: &str,
    service: &str,
    namespace: &str,
    kind: RecordType,
) -> Said {
    let Some(entry) = index.service(namespace, service) else { return Said::NoName };
    if entry.reach != Reach::Endpoints {
        let protocol = label.strip_prefix('_');
        let has = |protocol| entry.ports.iter().any(|port| port.protocol == protocol);
        return if protocol.is_some_and(has) { Said::NoData } else { Said::NoName };
    }
    let mut found = Vec::new();
    let mut inner = false;
    for slice in index.slices(namespace, service) {
        // With a hostname, the address with dashes is no second name.
        let named = slice.endpoints.iter().filter(|endpoint| endpoint.label == label);
        found.extend(named.cloned());
        inner |= label
            .strip_prefix('_')
            .is_some_and(|protocol| slice.ports.iter().any(|port| port.protocol == protocol));
    }
    match (found.is_empty(), inner) {
        (false, _) => {
            let found: Vec<_> = pool(found).iter().map(|endpoint| endpoint.address).collect();
            addresses(name, &found, kind)
        }
        (true, true) => Said::NoData,
        (true, false) => Said::NoName,
    }
}

/// The address of a name below `in-addr.arpa`.
fn reversed(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, inner, arpa] = labels else { return None };
    if inner != "in-addr" || arpa != "arpa" {
        return None;
    }
    format!("{a}.{b}.{c}.{d}").parse().ok()
}
