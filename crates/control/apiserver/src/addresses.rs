//! Addresses and node ports of Services: taken at creation, given back at deletion.
//!
//! What is taken is held in memory and read from the Services themselves at the start, so the two cannot disagree for long.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_objects::{FieldError, Object};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

#[derive(Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<(u16, String)>,
}

pub(crate) struct Addresses {
    network: Ipv4Net,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

/// What was taken for a Service that is not stored yet. Dropped, it is given back.
pub(crate) struct Reservation<'all> {
    all: &'all Addresses,
    address: Option<Ipv4Addr>,
    ports: Vec<(u16, String)>,
}

impl Reservation<'_> {
    /// The Service is stored.
    pub fn keep(mut self) {
        self.address = None;
        self.ports.clear();
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut taken = self.all.lock();
        if let Some(address) = self.address {
            taken.addresses.remove(&address);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    service.text(&["spec", "clusterIP"]).parse().ok()
}

/// Ports of several protocols may share a number.
fn ports(service: &Value) -> Vec<(u16, String)> {
    let ports = service.list(&["spec", "ports"]).iter().filter_map(|port| {
        let number = u16::try_from(port.integer(&["nodePort"])?).ok().filter(|port| *port > 0)?;
        Some((number, port.text(&["protocol"]).to_owned()))
    });
    let health = service.integer(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    let health = u16::try_from(health).ok().filter(|port| *port > 0);
    ports.chain(health.map(|port| (port, "TCP".to_owned()))).collect()
}

impl Addresses {
    pub fn new(network: Ipv4Net, ports: RangeInclusive<u16>) -> Self {
        Self { network, ports, taken: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the API server's own Service.
    pub fn first(&self) -> Ipv4Addr {
        self.network.hosts().next().unwrap_or(self.network.addr())
    }

    /// Notes what an existing Service holds.
    pub fn note(&self, service: &Value) {
        let mut taken = self.lock();
        taken.addresses.extend(address(service));
        taken.ports.extend(ports(service));
    }

    /// Gives back what a Service held and no longer needs.
    pub fn release(&self, old: &Value, new: Option<&Value>) {
        let kept = new.map(ports).unwrap_or_default();
        let mut taken = self.lock();
        if let Some(address) = address(old)
            && new.and_then(self::address) != Some(address)
        {
            taken.addresses.remove(&address);
        }
        for port in ports(old) {
            if !kept.contains(&port) {
                taken.ports.remove(&port);
            }
        }
    }

    /// Takes what a new or changed Service needs and writes it into the Service.
    pub fn reserve<'all>(
        &'all self,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation<'all>, Vec<FieldError>> {
        let mut reservation = Reservation { all: self, address: None, ports: Vec::new() };
        let kind = service.text(&["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                service.unset(&["spec", field]);
            }
            return Ok(reservation);
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
        self.cluster_address(service, old, &mut reservation)?;
        service.set_default(&["spec", "ipFamilies"], json!(["IPv4"]));
        service.set_default(&["spec", "ipFamilyPolicy"], "SingleStack");
        let wants = kind == "NodePort"
            || (kind == "LoadBalancer"
                && service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&json!(false)));
        if wants {
            self.node_ports(service, old, &mut reservation)?;
        } else if old.is_some_and(|old| old.text(&["spec", "type"]) != kind) {
            let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten() {
                port.unset(&["nodePort"]);
            }
        }
        Ok(reservation)
    }

    fn cluster_address(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), Vec<FieldError>> {
        let asked = service.text(&["spec", "clusterIP"]).to_owned();
        let path = "spec.clusterIPs";
        let invalid = |why: String| vec![FieldError::invalid(path, &json!([asked]), why)];
        let given = match asked.as_str() {
            "None" => None,
            "" => {
                let mut taken = self.lock();
                let skip = rand::random_range(0..self.network.hosts().count().max(1));
                let found = self
                    .network
                    .hosts()
                    .cycle()
                    .skip(skip)
                    .take(self.network.hosts().count())
                    .find(|host| *host != self.first() && !taken.addresses.contains(host));
                let found =
                    found.ok_or_else(|| invalid("the range of addresses is full".into()))?;
                taken.addresses.insert(found);
                reservation.address = Some(found);
                Some(found)
            }
            text => {
                let wanted: Ipv4Addr =
                    text.parse().map_err(|_| invalid("must be a valid IP address".into()))?;
                if old.and_then(address) != Some(wanted) {
                    if !self.network.contains(&wanted) {
                        let why = format!(
                            "failed to allocate IP {wanted}: the provided IP is not in the valid range {}",
                            self.network
                        );
                        return Err(invalid(why));
                    }
                    if !self.lock().addresses.insert(wanted) {
                        let why = format!(
                            "failed to allocate IP {wanted}: provided IP is already allocated"
                        );
                        return Err(invalid(why));
                    }
                    reservation.address = Some(wanted);
                }
                Some(wanted)
            }
        };
        let text = given.map_or_else(|| "None".to_owned(), |address| address.to_string());
        service.set(&["spec", "clusterIPs"], json!([text]));
        service.set(&["spec", "clusterIP"], text);
        Ok(())
    }

    fn node_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), Vec<FieldError>> {
        let own = old.map(ports).unwrap_or_default();
        let old_ports = old.map(|old| old.list(&["spec", "ports"]).to_vec()).unwrap_or_default();
        let places = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for (index, place) in places.into_iter().flatten().enumerate() {
            let protocol = place.text(&["protocol"]).to_owned();
            let same = |port: &&Value| {
                port.get("port") == place.get("port") && port.text(&["protocol"]) == protocol
            };
            let before = old_ports.iter().find(same).and_then(|port| port.integer(&["nodePort"]));
            let asked = place.integer(&["nodePort"]).filter(|port| *port > 0).or(before);
            let path = format!("spec.ports[{index}].nodePort");
            let mut taken = self.lock();
            let number = match asked {
                Some(asked) => {
                    let invalid =
                        |why: String| vec![FieldError::invalid(&path, &json!(asked), why)];
                    let port = u16::try_from(asked).ok().filter(|port| self.ports.contains(port));
                    let (start, end) = (self.ports.start(), self.ports.end());
                    let port = port.ok_or_else(|| invalid(format!("provided port is not in the valid range. The range of valid ports is {start}-{end}")))?;
                    let key = (port, protocol);
                    if !own.contains(&key) {
                        if !taken.ports.insert(key.clone()) {
                            return Err(invalid("provided port is already allocated".into()));
                        }
                        reservation.ports.push(key);
                    }
                    port
                }
                None => {
                    let count = self.ports.len();
                    let skip = rand::random_range(0..count.max(1));
                    let is_free = |port: &u16| {
                        ["TCP", "UDP", "SCTP"]
                            .iter()
                            .all(|protocol| !taken.ports.contains(&(*port, (*protocol).to_owned())))
                    };
                    let found = self.ports.clone().cycle().skip(skip).take(count).find(is_free);
                    let full = || {
                        vec![FieldError::invalid(&path, &json!(0), "the range of ports is full")]
                    };
                    let port = found.ok_or_else(full)?;
                    taken.ports.insert((port, protocol.clone()));
                    reservation.ports.push((port, protocol));
                    port
                }
            };
            drop(taken);
            place.set(&["nodePort"], number);
        }
        Ok(())
    }
}
