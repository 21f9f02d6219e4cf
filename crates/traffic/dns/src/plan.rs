//! What to answer to a question, from the index alone: no clock, no socket, no await.
//!
//! Surprising: a name that is absent from a pod's own namespace is looked up along the rest of the pod's search list, at
//! last outside the cluster, and comes back as an alias of whatever was found. A name of one label never leaves the
//! node that way, because asking the world for `db` on every start of an application would be slow and tell too much;
//! resolvers ask for it as it is in the end.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom;

use crate::TTL;
use crate::index::{Found, Index, below};

/// How many aliases are followed before somebody is taken to lead us in circles.
const ALIASES: usize = 8;
/// The version of the Kubernetes DNS schema that the zone follows.
const SCHEMA: &str = "1.1.0";

/// An answer without its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub code: ResponseCode,
    /// It comes from our own zones.
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    pub(crate) fn of(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

/// What to do about a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Say this.
    Say(Reply),
    /// Ask the host's resolvers for this name, and put the aliases that led there in front.
    Forward { name: Name, aliases: Vec<Record> },
}

enum Step {
    Say(Reply),
    Follow(Name),
    Forward,
}

pub(crate) fn plan(index: &Index, asked: &Name, kind: RecordType, from: IpAddr) -> Plan {
    let mut name = asked.clone();
    let mut aliases = Vec::new();
    while aliases.len() <= ALIASES {
        // Only what the client asked came through its search list, not what an alias led to.
        let searcher = aliases.is_empty().then_some(from);
        match step(index, &name, kind, searcher) {
            Step::Say(mut reply) => {
                aliases.append(&mut reply.answers);
                reply.answers = aliases;
                return Plan::Say(reply);
            }
            Step::Forward => return Plan::Forward { name, aliases },
            Step::Follow(target) => {
                let alias = RData::CNAME(CNAME(target.clone()));
                aliases.push(Record::from_rdata(name, TTL, alias));
                name = target;
            }
        }
    }
    Plan::Say(Reply::of(ResponseCode::ServFail))
}

fn step(index: &Index, name: &Name, kind: RecordType, searcher: Option<IpAddr>) -> Step {
    let lower = name.to_lowercase();
    // Names of ours are all ASCII, so this placeholder matches none of them.
    let labels: Vec<&str> =
        lower.iter().map(|label| std::str::from_utf8(label).unwrap_or("\u{fffd}")).collect();
    if index.zone.zone_of(&lower) {
        let inner = &labels[..labels.len() - usize::from(index.zone.num_labels())];
        return inside(index, name, inner, kind, searcher);
    }
    match labels.as_slice() {
        [.., "localhost"] => Step::Say(local_host(name, kind)),
        [octets @ .., "in-addr", "arpa"] => reverse_v4(index, name, octets, kind),
        [.., "ip6", "arpa"] => match reverse_v6(&labels) {
            Some(address) if !index.pointers(address).is_empty() => {
                Step::Say(pointers(index, name, address, kind))
            }
            _ => Step::Forward,
        },
        _ => Step::Forward,
    }
}

fn inside(
    index: &Index,
    name: &Name,
    labels: &[&str],
    kind: RecordType,
    searcher: Option<IpAddr>,
) -> Step {
    if !index.ready {
        return Step::Say(Reply::of(ResponseCode::ServFail));
    }
    let found = index.find(labels);
    match found {
        Found::Alias(target) if kind != RecordType::CNAME => Step::Follow(target.clone()),
        Found::Absent => match searcher.and_then(|from| search(index, name, labels, from)) {
            Some(target) => Step::Follow(target),
            None => Step::Say(say(index, name, kind, found)),
        },
        _ => Step::Say(say(index, name, kind, found)),
    }
}

/// Where the rest of the search list leads, if this came through its first entry and leads anywhere.
fn search(index: &Index, name: &Name, labels: &[&str], from: IpAddr) -> Option<Name> {
    let [bare @ .., namespace, "svc"] = labels else { return None };
    if bare.is_empty() || !index.searches(from, namespace) {
        return None;
    }
    let own = |labels: &[&str]| match index.find(labels) {
        // Only a name with something behind it: stopping at `shop.svc` because a namespace is called `shop` would hide
        // the host `shop`.
        Found::Addresses(_) | Found::Alias(_) | Found::Targets(_) | Found::Silent => {
            below(&index.zone, labels)
        }
        Found::Absent | Found::Hollow | Found::Apex | Found::Version => None,
    };
    let in_services: Vec<&str> = bare.iter().copied().chain(["svc"]).collect();
    if let Some(target) = own(&in_services).or_else(|| own(bare)) {
        return Some(target);
    }
    let target = Name::from_labels(name.iter().take(bare.len())).ok()?;
    (bare.len() > 1).then_some(target)
}

fn say(index: &Index, name: &Name, kind: RecordType, found: Found<'_>) -> Reply {
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    let any = kind == RecordType::ANY;
    let mut reply = Reply::of(ResponseCode::NoError);
    reply.authoritative = true;
    match found {
        Found::Absent | Found::Silent => reply.code = ResponseCode::NXDomain,
        Found::Hollow => {}
        Found::Apex => {
            if any || kind == RecordType::SOA {
                reply.answers.push(start(index, &index.zone));
            }
            if (any || kind == RecordType::NS)
                && let Some(server) = below(&index.zone, &["dns", "ns"])
            {
                reply.answers.push(record(RData::NS(NS(server))));
            }
        }
        Found::Version if any || kind == RecordType::TXT => {
            reply.answers.push(record(RData::TXT(TXT::new(vec![SCHEMA.to_owned()]))));
        }
        Found::Version => {}
        Found::Alias(target) => reply.answers.push(record(RData::CNAME(CNAME(target.clone())))),
        Found::Addresses(addresses) => {
            reply.answers = address_records(name, addresses, kind);
        }
        Found::Targets(mut targets) if any || kind == RecordType::SRV => {
            targets.shuffle(&mut rand::rng());
            for target in targets {
                let data = RData::SRV(SRV::new(0, 100, target.port, target.host.clone()));
                reply.answers.push(record(data));
                let addresses = address_records(target.host, target.addresses, RecordType::ANY);
                reply.additionals.extend(addresses);
            }
        }
        Found::Targets(_) => {}
    }
    if reply.answers.is_empty() {
        reply.authorities.push(start(index, &index.zone));
    }
    reply
}

/// Each address once, in a new order every time, so that clients which take the first one spread.
fn address_records(name: &Name, addresses: Vec<IpAddr>, kind: RecordType) -> Vec<Record> {
    let mut seen = HashSet::with_capacity(addresses.len());
    let any = kind == RecordType::ANY;
    let data =
        addresses.into_iter().filter(|address| seen.insert(*address)).filter_map(|address| {
            match address {
                IpAddr::V4(address) if any || kind == RecordType::A => Some(RData::A(A(address))),
                IpAddr::V6(address) if any || kind == RecordType::AAAA => {
                    Some(RData::AAAA(AAAA(address)))
                }
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            }
        });
    let mut records: Vec<Record> =
        data.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
    records.shuffle(&mut rand::rng());
    records
}

/// The record that tells how long a "no" holds (RFC 2308).
fn start(index: &Index, owner: &Name) -> Record {
    let host = |label| below(&index.zone, &[label]).unwrap_or_else(|| index.zone.clone());
    let primary = below(&index.zone, &["dns", "ns"]).unwrap_or_else(|| index.zone.clone());
    let data = SOA::new(primary, host("hostmaster"), 1, 7200, 1800, 86400, TTL);
    Record::from_rdata(owner.clone(), TTL, RData::SOA(data))
}

/// RFC 6761, section 6.3: never asked of anybody.
fn local_host(name: &Name, kind: RecordType) -> Reply {
    let addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut reply = Reply::of(ResponseCode::NoError);
    reply.answers = address_records(name, addresses, kind);
    reply
}

fn reverse_v4(index: &Index, name: &Name, octets: &[&str], kind: RecordType) -> Step {
    let parsed: Option<Vec<u8>> = octets.iter().rev().map(|label| label.parse().ok()).collect();
    let Some(known) = parsed.filter(|known| (1..=4).contains(&known.len())) else {
        return Step::Forward;
    };
    if let Ok(octets) = <[u8; 4]>::try_from(known.as_slice()) {
        let address = IpAddr::V4(octets.into());
        if index.owns(&known) || !index.pointers(address).is_empty() {
            return Step::Say(pointers(index, name, address, kind));
        }
    } else if index.owns(&known) {
        let mut reply = Reply::of(ResponseCode::NoError);
        reply.authoritative = true;
        reply.authorities.push(start(index, name));
        return Step::Say(reply);
    }
    Step::Forward
}

fn pointers(index: &Index, name: &Name, address: IpAddr, kind: RecordType) -> Reply {
    let names = index.pointers(address);
    let mut reply = Reply::of(ResponseCode::NoError);
    reply.authoritative = true;
    if names.is_empty() {
        reply.code = if index.ready { ResponseCode::NXDomain } else { ResponseCode::ServFail };
    } else if matches!(kind, RecordType::PTR | RecordType::ANY) {
        let data = names.iter().map(|target| RData::PTR(PTR(target.clone())));
        reply.answers = data.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
    }
    if reply.answers.is_empty() && reply.code != ResponseCode::ServFail {
        reply.authorities.push(start(index, &name.base_name()));
    }
    reply
}

/// The address of a full `ip6.arpa` name: thirty-two digits, the last first.
fn reverse_v6(labels: &[&str]) -> Option<IpAddr> {
    let digits = labels.get(..labels.len() - 2).filter(|digits| digits.len() == 32)?;
    let mut bits = 0_u128;
    for digit in digits.iter().rev() {
        let value = u128::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
        bits = bits << 4 | value;
    }
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
