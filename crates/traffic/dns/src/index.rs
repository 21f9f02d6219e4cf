//! What the cluster looks like to somebody who asks for names.
//!
//! Every object is put and removed on its own, and repeated puts change nothing, so the index can be fed from watches that
//! repeat themselves. Reading takes a shared lock for as long as one answer is collected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Namespace and name.
pub(crate) type Id = (String, String);

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub name: String,
    /// In lower case.
    pub protocol: String,
    pub port: u16,
}

/// How a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By an address of its own.
    Address(Ipv4Addr),
    /// By the addresses of its endpoints.
    Endpoints,
    /// By another name.
    Elsewhere(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub reach: Reach,
    pub ports: Vec<NamedPort>,
}

/// One ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointEntry {
    pub address: Ipv4Addr,
    /// Its name below the Service's; the address with dashes unless the pod has a hostname.
    pub label: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SliceEntry {
    pub service: Id,
    pub endpoints: Vec<EndpointEntry>,
    pub ports: Vec<NamedPort>,
}

#[derive(Default)]
pub(crate) struct Contents {
    pub ready: bool,
    services: HashMap<Id, ServiceEntry>,
    slices: HashMap<Id, SliceEntry>,
    by_service: HashMap<Id, BTreeSet<String>>,
    /// Which Service has an address.
    addresses: HashMap<Ipv4Addr, Id>,
    /// The names of endpoints by address, with the number of slices that say so.
    pointers: BTreeMap<(Ipv4Addr, Id, String), usize>,
    pods: HashMap<Id, Ipv4Addr>,
    pod_addresses: HashMap<Ipv4Addr, Id>,
    /// How many Services and pods a namespace has.
    namespaces: HashMap<String, usize>,
}

/// The index.
pub struct Index {
    contents: RwLock<Contents>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An empty index that may be asked.
    #[must_use]
    pub fn new() -> Self {
        let contents = Contents { ready: true, ..Contents::default() };
        Self { contents: RwLock::new(contents) }
    }

    /// An empty index that does not know yet what there is: names of the cluster fail rather than being denied.
    #[must_use]
    pub fn unready() -> Self {
        Self { contents: RwLock::default() }
    }

    /// Says that everything has been put once.
    pub fn set_ready(&self) {
        self.write().ready = true;
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a Service in, new or changed.
    pub fn put_service(&self, service: &Service) {
        let id = id(&service.metadata);
        let mut contents = self.write();
        contents.remove_service(&id);
        let Some(entry) = service_entry(service) else { return };
        if let Reach::Address(address) = &entry.reach {
            contents.addresses.insert(*address, id.clone());
        }
        contents.enter(&id.0);
        contents.services.insert(id, entry);
    }

    /// Forgets a Service.
    pub fn remove_service(&self, service: &Service) {
        self.write().remove_service(&id(&service.metadata));
    }

    /// Takes an `EndpointSlice` in, new or changed.
    pub fn put_slice(&self, slice: &EndpointSlice) {
        let id = id(&slice.metadata);
        let mut contents = self.write();
        contents.remove_slice(&id);
        let Some(entry) = slice_entry(slice, &id.0) else { return };
        for endpoint in &entry.endpoints {
            let pointer = (endpoint.address, entry.service.clone(), endpoint.label.clone());
            *contents.pointers.entry(pointer).or_default() += 1;
        }
        contents.by_service.entry(entry.service.clone()).or_default().insert(id.1.clone());
        contents.slices.insert(id, entry);
    }

    /// Forgets an `EndpointSlice`.
    pub fn remove_slice(&self, slice: &EndpointSlice) {
        self.write().remove_slice(&id(&slice.metadata));
    }

    /// Takes a pod in, new or changed. Pods that share the node's address are of no interest.
    pub fn put_pod(&self, pod: &Pod) {
        let id = id(&pod.metadata);
        let mut contents = self.write();
        contents.remove_pod(&id);
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let address = status.and_then(|status| status.pod_ip.as_ref()?.parse::<Ipv4Addr>().ok());
        let host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let Some(address) = address else { return };
        if host || matches!(phase, Some("Succeeded" | "Failed")) {
            return;
        }
        contents.enter(&id.0);
        contents.pod_addresses.insert(address, id.clone());
        contents.pods.insert(id, address);
    }

    /// Forgets a pod.
    pub fn remove_pod(&self, pod: &Pod) {
        self.write().remove_pod(&id(&pod.metadata));
    }
}

impl Contents {
    /// How a Service is reached, and its ports.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The slices of a Service.
    pub fn slices(&self, namespace: &str, name: &str) -> impl Iterator<Item = &SliceEntry> {
        let service = (namespace.to_owned(), name.to_owned());
        let names = self.by_service.get(&service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(&(namespace.to_owned(), name.clone())))
    }

    /// The Service that has an address.
    pub fn service_at(&self, address: Ipv4Addr) -> Option<&Id> {
        self.addresses.get(&address)
    }

    /// The endpoints of Services without an address of their own that have an address: Service and label.
    pub fn endpoints_at(&self, address: Ipv4Addr) -> impl Iterator<Item = (&Id, &str)> {
        let from = (address, Id::default(), String::new());
        let names = self.pointers.range(from..).map(|(pointer, _)| pointer);
        let of_address = names.take_while(move |(at, ..)| *at == address);
        let headless = of_address.filter(|(_, service, _)| {
            let entry = self.services.get(service);
            entry.is_some_and(|entry| entry.reach == Reach::Endpoints)
        });
        headless.map(|(_, service, label)| (service, label.as_str()))
    }

    /// The namespace of the pod that has an address.
    pub fn namespace_at(&self, address: Ipv4Addr) -> Option<&str> {
        self.pod_addresses.get(&address).map(|(namespace, _)| namespace.as_str())
    }

    /// Whether anything is in a namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    fn enter(&mut self, namespace: &str) {
        *self.namespaces.entry(namespace.to_owned()).or_default() += 1;
    }

    fn leave(&mut self, namespace: &str) {
        if let Some(count) = self.namespaces.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(namespace);
            }
        }
    }

    fn remove_service(&mut self, id: &Id) {
        let Some(entry) = self.services.remove(id) else { return };
        self.leave(&id.0);
        if let Reach::Address(address) = entry.reach
            && self.addresses.get(&address) == Some(id)
        {
            self.addresses.remove(&address);
        }
    }

    fn remove_slice(&mut self, id: &Id) {
        let Some(entry) = self.slices.remove(id) else { return };
        if let Some(names) = self.by_service.get_mut(&entry.service) {
            names.remove(&id.1);
            if names.is_empty() {
                self.by_service.remove(&entry.service);
            }
        }
        for endpoint in entry.endpoints {
            let pointer = (endpoint.address, entry.service.clone(), endpoint.label);
            if let Some(count) = self.pointers.get_mut(&pointer) {
                *count -= 1;
                if *count == 0 {
                    self.pointers.remove(&pointer);
                }
            }
        }
    }

    fn remove_pod(&mut self, id: &Id) {
        let Some(address) = self.pods.remove(id) else { return };
        self.leave(&id.0);
        // The address may be another pod's by now.
        if self.pod_addresses.get(&address) == Some(id) {
            self.pod_addresses.remove(&address);
        }
    }
}

fn id(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Id {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn named_port(name: Option<&String>, protocol: Option<&String>, port: i32) -> Option<NamedPort> {
    Some(NamedPort {
        name: name.cloned().unwrap_or_default().to_lowercase(),
        protocol: protocol.map_or("tcp".to_owned(), |protocol| protocol.to_lowercase()),
        port: u16::try_from(port).ok()?,
    })
}

fn service_entry(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let reach = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => Reach::Elsewhere(spec.external_name.clone()?),
        (_, Some("None")) => Reach::Endpoints,
        (_, Some(address)) => Reach::Address(address.parse().ok()?),
        (_, None) => return None,
    };
    let ports = spec.ports.iter().flatten();
    let ports = ports
        .filter_map(|port| named_port(port.name.as_ref(), port.protocol.as_ref(), port.port))
        .collect();
    Some(ServiceEntry { reach, ports })
}

fn slice_entry(slice: &EndpointSlice, namespace: &str) -> Option<SliceEntry> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?.clone();
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        // What is not said counts as ready.
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        if ready == Some(false) {
            continue;
        }
        let addresses = endpoint.addresses.iter();
        for address in addresses.filter_map(|address| address.parse::<Ipv4Addr>().ok()) {
            let hostname = endpoint.hostname.as_ref().filter(|hostname| !hostname.is_empty());
            let label = hostname
                .map_or_else(|| address.to_string().replace('.', "-"), |name| name.to_lowercase());
            endpoints.push(EndpointEntry { address, label });
        }
    }
    let ports = slice.ports.iter().flatten();
    let ports = ports
        .filter_map(|port| named_port(port.name.as_ref(), port.protocol.as_ref(), port.port?))
        .collect();
    Some(SliceEntry { service: (namespace.to_owned(), service), endpoints, ports })
}
