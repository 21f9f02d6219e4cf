//! Addresses and node ports of Services: which to offer a Service that asks for none in particular.
//!
//! What is taken is remembered here only so that a free one is found at once. Whether it is really free the store says, when the
//! Service is written together with its records (see `claims`); then another is offered.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use berth_objects::{FieldError, Object, Status};
use berth_store::{Event, Operation, Range, Revision, Store};
use bytes::Bytes;
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::claims::{address_key, port_key, prefixes};
use crate::follow::{Follower, follow};
use crate::status;

/// Which address of the range the DNS of nodes has, counted from its beginning.
pub const DNS: u32 = 10;

pub(crate) struct Addresses {
    network: Ipv4Net,
    ports: RangeInclusive<u16>,
    /// Keys of records that were there when we last looked.
    taken: Mutex<HashSet<Bytes>>,
    kinds: [Kind; 2],
}

/// One kind of records.
struct Kind {
    prefix: Bytes,
    seen: watch::Sender<Revision>,
}

/// The addresses, as one kind of records sees them.
struct Part<'a> {
    addresses: &'a Addresses,
    kind: &'a Kind,
}

impl Follower for Part<'_> {
    const WHAT: &'static str = "addresses";

    fn prefix(&self) -> Bytes {
        self.kind.prefix.clone()
    }

    fn seen(&self) -> &watch::Sender<Revision> {
        &self.kind.seen
    }

    async fn load(&self, store: &dyn Store) -> Result<(), Status> {
        let prefix = &self.kind.prefix;
        let range = Range { prefix: prefix.clone(), ..Range::default() };
        let page = store.range(range).await.map_err(status::store)?;
        let mut taken = self.addresses.lock();
        taken.retain(|key| !key.starts_with(prefix));
        taken.extend(page.records.into_iter().map(|record| record.key));
        drop(taken);
        self.kind.seen.send_replace(page.revision);
        Ok(())
    }

    async fn take(&self, event: &Event) -> Result<(), Status> {
        let mut taken = self.addresses.lock();
        match event {
            Event::Put { record, .. } => drop(taken.insert(record.key.clone())),
            Event::Delete { previous, .. } => drop(taken.remove(&previous.key)),
            Event::Progress(_) | Event::Compacted(_) => {}
        }
        Ok(())
    }
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    service.text(&["spec", "clusterIP"]).parse().ok()
}

impl Addresses {
    pub fn new(network: Ipv4Net, ports: RangeInclusive<u16>) -> Self {
        let kind = |prefix| Kind { prefix, seen: watch::Sender::new(Revision(0)) };
        Self { network, ports, taken: Mutex::default(), kinds: prefixes().map(kind) }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Bytes>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the API server's own Service.
    pub fn first(&self) -> Ipv4Addr {
        self.network.hosts().next().unwrap_or(self.network.addr())
    }

    /// Somebody has what is at this key.
    pub fn taken(&self, key: &Bytes) {
        self.lock().insert(key.clone());
    }

    /// Notes what a commit did, before the watch says it.
    pub fn committed(&self, operations: &[Operation]) {
        let mut taken = self.lock();
        for operation in operations {
            match operation {
                Operation::Put { key, .. } => drop(taken.insert(key.clone())),
                Operation::Delete { key, .. } => drop(taken.remove(key)),
            }
        }
    }

    /// Reads what is taken.
    pub async fn load(&self, store: &dyn Store) -> Result<(), Status> {
        for kind in &self.kinds {
            Part { addresses: self, kind }.load(store).await?;
        }
        Ok(())
    }

    /// Follows what others take and give back, until the store is closed.
    pub async fn follow(&self, store: Weak<dyn Store>) {
        let parts: Vec<_> = self.kinds.iter().map(|kind| Part { addresses: self, kind }).collect();
        let all = parts.iter().map(|part| follow(part, store.clone()));
        futures::future::join_all(all).await;
    }

    /// Writes into a new or changed Service what it needs and does not name.
    pub fn offer(&self, service: &mut Value, old: Option<&Value>) -> Result<(), Vec<FieldError>> {
        let kind = service.text(&["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                service.unset(&["spec", field]);
            }
            return Ok(());
        }
        // A replacement that says nothing keeps what there is.
        if let Some(old) = old
            && service.text(&["spec", "clusterIP"]).is_empty()
            && !old.text(&["spec", "clusterIP"]).is_empty()
        {
            for field in ["clusterIP", "clusterIPs"] {
                service.set(&["spec", field], old["spec"][field].clone());
            }
        }
        self.cluster_address(service, old)?;
        service.set_default(&["spec", "ipFamilies"], json!(["IPv4"]));
        service.set_default(&["spec", "ipFamilyPolicy"], "SingleStack");
        let wants = kind == "NodePort"
            || (kind == "LoadBalancer"
                && service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&json!(false)));
        if wants {
            self.node_ports(service, old)?;
        } else if old.is_some_and(|old| old.text(&["spec", "type"]) != kind) {
            let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten() {
                port.unset(&["nodePort"]);
            }
        }
        Ok(())
    }

    fn cluster_address(
        &self,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Vec<FieldError>> {
        let asked = service.text(&["spec", "clusterIP"]).to_owned();
        let invalid =
            |why: String| vec![FieldError::invalid("spec.clusterIPs", &json!([asked]), why)];
        let text = match asked.as_str() {
            "None" => "None".to_owned(),
            "" => self
                .free_address()
                .ok_or_else(|| invalid("the range of addresses is full".into()))?
                .to_string(),
            text => {
                let wanted: Ipv4Addr =
                    text.parse().map_err(|_| invalid("must be a valid IP address".into()))?;
                if old.and_then(address) != Some(wanted) && self.is_reserved(wanted) {
                    let why = format!("failed to allocate IP {wanted}: it is reserved");
                    return Err(invalid(why));
                }
                if old.and_then(address) != Some(wanted) && !self.network.contains(&wanted) {
                    let why = format!(
                        "failed to allocate IP {wanted}: the provided IP is not in the valid range {}",
                        self.network
                    );
                    return Err(invalid(why));
                }
                wanted.to_string()
            }
        };
        service.set(&["spec", "clusterIPs"], json!([text]));
        service.set(&["spec", "clusterIP"], text);
        Ok(())
    }

    fn free_address(&self) -> Option<Ipv4Addr> {
        let first = self.first();
        let last = self.network.hosts().next_back().unwrap_or(first);
        let count = last.to_bits() - first.to_bits() + 1;
        let skip = rand::random_range(0..count);
        let taken = self.lock();
        (0..count)
            .map(|step| {
                let place = (u64::from(skip) + u64::from(step)) % u64::from(count);
                Ipv4Addr::from_bits(first.to_bits() + u32::try_from(place).unwrap_or_default())
            })
            .find(|host| {
                *host != first && !self.is_reserved(*host) && !taken.contains(&address_key(*host))
            })
    }

    /// Whether no Service may have this address: it is the range's own, or that of the cluster's DNS, which every pod asks.
    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        let own = self.network.prefix_len() < 31
            && (address == self.network.network() || address == self.network.broadcast());
        own || address.to_bits() == self.network.network().to_bits() + DNS
    }

    fn free_port(&self, mine: &HashSet<(u16, String)>) -> Option<u16> {
        let count = self.ports.len();
        let skip = rand::random_range(0..count.max(1));
        let taken = self.lock();
        let is_free = |port: &u16| {
            !mine.iter().any(|(other, _)| other == port)
                && ["TCP", "UDP", "SCTP"]
                    .iter()
                    .all(|protocol| !taken.contains(&port_key(*port, protocol)))
        };
        self.ports.clone().cycle().skip(skip).take(count).find(is_free)
    }

    fn node_ports(&self, service: &mut Value, old: Option<&Value>) -> Result<(), Vec<FieldError>> {
        let old_ports = old.map(|old| old.list(&["spec", "ports"]).to_vec()).unwrap_or_default();
        let mut mine = HashSet::new();
        let places = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for (index, place) in places.into_iter().flatten().enumerate() {
            let protocol = place.text(&["protocol"]).to_owned();
            let same = |port: &&Value| {
                port.get("port") == place.get("port") && port.text(&["protocol"]) == protocol
            };
            let before = old_ports.iter().find(same).and_then(|port| port.integer(&["nodePort"]));
            let asked = place.integer(&["nodePort"]).filter(|port| *port > 0).or(before);
            let path = format!("spec.ports[{index}].nodePort");
            let number = match asked {
                Some(asked) => {
                    let port = u16::try_from(asked).ok().filter(|port| self.ports.contains(port));
                    let (start, end) = (self.ports.start(), self.ports.end());
                    let why = || {
                        format!(
                            "provided port is not in the valid range. The range of valid ports is {start}-{end}"
                        )
                    };
                    let invalid = |why| vec![FieldError::invalid(&path, &json!(asked), why)];
                    let port = port.ok_or_else(|| invalid(why()))?;
                    if mine.contains(&(port, protocol.clone())) {
                        return Err(invalid("provided port is already allocated".to_owned()));
                    }
                    port
                }
                None => self.free_port(&mine).ok_or_else(|| {
                    vec![FieldError::invalid(&path, &json!(0), "the range of ports is full")]
                })?,
            };
            mine.insert((number, protocol));
            place.set(&["nodePort"], number);
        }
        Ok(())
    }
}
