//! Who holds which address and port: one record each, written in the same commit as the Service.
//!
//! An address is an IPAddress object, as upstream has it, so that everybody can see whose it is; a node port is a record of our
//! own. Each is created on condition that it is not there, so any number of servers may hand out from the same range: the store
//! decides. A record can neither outlive its Service nor be missing, because no path writes one without the other.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use berth_objects::{FieldError, Object, Resource, Status, time};
use berth_store::{Expect, Operation, Range, Revision, Store, StoreError};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::call::Call;
use crate::server::Shared;
use crate::{registry, status};

/// Where node ports are noted, by protocol and number.
const PORTS: &str = "/berth/ports/";
/// What upstream's allocator says of itself in the objects it makes.
const MANAGER: &str = "ipallocator.k8s.io";

/// An address or a port, as it stands in a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    Address(Ipv4Addr),
    Port { number: u16, protocol: String, field: String },
}

/// What a Service holds, by the key of the record.
pub(crate) fn claimed(service: &Value) -> BTreeMap<Bytes, Claimed> {
    let mut all = BTreeMap::new();
    if let Ok(address) = service.text(&["spec", "clusterIP"]).parse() {
        all.insert(address_key(address), Claimed::Address(address));
    }
    let number = |value: Option<i64>| value.and_then(|port| u16::try_from(port).ok());
    let mut note = |port: Option<u16>, protocol: &str, field: String| {
        if let Some(number) = port.filter(|port| *port > 0) {
            let protocol = if protocol.is_empty() { "TCP" } else { protocol }.to_owned();
            let claim = Claimed::Port { number, protocol: protocol.clone(), field };
            all.entry(port_key(number, &protocol)).or_insert(claim);
        }
    };
    for (index, port) in service.list(&["spec", "ports"]).iter().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        note(number(port.integer(&["nodePort"])), port.text(&["protocol"]), field);
    }
    let health = number(service.integer(&["spec", "healthCheckNodePort"]));
    note(health, "TCP", "spec.healthCheckNodePort".to_owned());
    all
}

fn kind(plural: &str, group: &str) -> &'static Resource<'static> {
    berth_rules::find(group, "v1", plural).expect("the kind is in the table of resources")
}

fn addresses() -> &'static Resource<'static> {
    kind("ipaddresses", "networking.k8s.io")
}

pub(crate) fn address_key(address: Ipv4Addr) -> Bytes {
    registry::key(addresses(), "", &address.to_string())
}

/// Ports of several protocols may share a number.
pub(crate) fn port_key(number: u16, protocol: &str) -> Bytes {
    format!("{PORTS}{protocol}/{number}").into()
}

/// The prefixes under which records lie.
pub(crate) fn prefixes() -> [Bytes; 2] {
    [registry::prefix(addresses(), "").into(), PORTS.into()]
}

/// Whether this is the key of a record.
pub(crate) fn is_record(key: &Bytes) -> bool {
    prefixes().iter().any(|prefix| key.starts_with(prefix))
}

/// Whether objects of this kind hold anything.
pub(crate) fn concerns(resource: &Resource<'_>) -> bool {
    (resource.group, resource.kind) == ("", "Service")
}

/// What has to be written beside a Service that changes from `old` to `new`; nothing beside anything else.
pub(crate) fn operations(
    call: &Call,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Vec<Operation>, Status> {
    if !concerns(call.resource()) {
        return Ok(Vec::new());
    }
    let shared = &call.shared;
    let before = old.map(claimed).unwrap_or_default();
    let after = new.map(claimed).unwrap_or_default();
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut all: Vec<Operation> =
        gone.map(|key| Operation::Delete { key: key.clone(), expect: Expect::Any }).collect();
    for (key, claim) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        let value = record(shared, claim, new.unwrap_or(&Value::Null))?;
        all.push(Operation::Put { key: key.clone(), value, expect: Expect::Absent });
    }
    Ok(all)
}

/// What would refuse these operations: the first that has to be new and is there.
pub(crate) async fn hindrance(
    call: &Call,
    operations: &[Operation],
) -> Result<Option<Bytes>, Status> {
    for operation in operations {
        if let Operation::Put { key, expect: Expect::Absent, .. } = operation {
            let found = call.shared.store.get(key.clone(), None).await;
            if found.map_err(status::store)?.record.is_some() {
                return Ok(Some(key.clone()));
            }
        }
    }
    Ok(None)
}

fn record(shared: &Shared, claim: &Claimed, service: &Value) -> Result<Bytes, Status> {
    let owner = json!({"group": "", "resource": "services",
        "namespace": service.namespace(), "name": service.name()});
    let Claimed::Address(address) = claim else {
        return Ok(owner.to_string().into());
    };
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": time::seconds(shared.now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": MANAGER,
            },
        },
        "spec": {"parentRef": owner},
    });
    registry::encode(addresses(), &object)
}

/// Why a Service cannot have what is at `key`: somebody else has it.
pub(crate) fn refusal(service: &Value, key: &Bytes) -> FieldError {
    match claimed(service).remove(key) {
        Some(Claimed::Port { number, field, .. }) => {
            FieldError::invalid(&field, &json!(number), "provided port is already allocated")
        }
        Some(Claimed::Address(address)) => FieldError::invalid(
            "spec.clusterIPs",
            &json!([address.to_string()]),
            format!("failed to allocate IP {address}: provided IP is already allocated"),
        ),
        None => FieldError::invalid("spec", &json!({}), "what it holds changes too fast"),
    }
}

/// Whether this object is the record of a Service's address, which goes with the Service and not before.
pub(crate) fn holder(resource: &Resource<'_>, object: &Value) -> Option<String> {
    if (resource.group, resource.kind) != ("networking.k8s.io", "IPAddress") {
        return None;
    }
    let manager = object.text(&["metadata", "labels", "ipaddress.kubernetes.io/managed-by"]);
    let owner = |field| object.text(&["spec", "parentRef", field]);
    (manager == MANAGER && owner("resource") == "services")
        .then(|| format!("{}/{}", owner("namespace"), owner("name")))
}

/// Makes records and Services agree: writes what is missing, as in a store of an older version, and removes what belongs to no
/// Service. Records that people made for purposes of their own are left alone.
pub(crate) async fn repair(shared: &Shared) -> Result<(), Status> {
    const ATTEMPTS: usize = 10;
    /// etcd takes 128 at once.
    const STEP: usize = 64;
    for _ in 0..ATTEMPTS {
        let operations = plan(shared).await?;
        let mut conflict = false;
        for step in operations.chunks(STEP) {
            match shared.store.commit(step.to_vec()).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => conflict = true,
                Err(error) => return Err(status::store(error)),
            }
        }
        if !conflict {
            return Ok(());
        }
    }
    Err(Status::internal("addresses of Services change faster than they can be checked"))
}

async fn plan(shared: &Shared) -> Result<Vec<Operation>, Status> {
    let services = kind("services", "");
    let at = shared.store.get(PORTS.into(), None).await.map_err(status::store)?.revision;
    let mut wanted = HashMap::new();
    for record in &range(shared, registry::prefix(services, "").into(), at).await? {
        let service = registry::decode(services, record)?;
        for (key, claim) in claimed(&service) {
            wanted.entry(key).or_insert_with(|| (claim, service.clone()));
        }
    }
    let mut operations = Vec::new();
    for prefix in prefixes() {
        for record in range(shared, prefix.clone(), at).await? {
            let known = wanted.remove(&record.key).is_some();
            let ours = prefix == PORTS
                || holder(addresses(), &registry::decode(addresses(), &record)?).is_some();
            if !known && ours {
                tracing::warn!(key = %String::from_utf8_lossy(&record.key), "no Service holds this any more");
                let expect = Expect::Revision(record.revision);
                operations.push(Operation::Delete { key: record.key, expect });
            }
        }
    }
    for (key, (claim, service)) in wanted {
        let value = record(shared, &claim, &service)?;
        operations.push(Operation::Put { key, value, expect: Expect::Absent });
    }
    Ok(operations)
}

async fn range(
    shared: &Shared,
    prefix: Bytes,
    at: Revision,
) -> Result<Vec<berth_store::Record>, Status> {
    let range = Range { prefix, at: Some(at), ..Range::default() };
    Ok(Store::range(&*shared.store, range).await.map_err(status::store)?.records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_holds_its_address_and_each_port_once() {
        let service = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {
            "clusterIP": "10.0.0.7", "healthCheckNodePort": 30001,
            "ports": [{"nodePort": 30000, "protocol": "UDP"}, {"nodePort": 30000}, {"port": 80}]}});
        let held: Vec<_> = claimed(&service).into_keys().collect();
        assert_eq!(
            held,
            [
                "/berth/ports/TCP/30000",
                "/berth/ports/TCP/30001",
                "/berth/ports/UDP/30000",
                "/registry/networking.k8s.io/ipaddresses/10.0.0.7",
            ]
        );
        let refused = refusal(&service, &port_key(30000, "UDP"));
        assert!(format!("{refused:?}").contains("spec.ports[0].nodePort"), "{refused:?}");
        assert!(claimed(&json!({"spec": {"clusterIP": "None"}})).is_empty());
    }
}
