//! The tables people see: columns of each kind after its name, and the cells of one object.

mod access;
mod cluster;
mod metrics;
mod network;
mod pod;
mod storage;
mod workload;

use berth_objects::{Column, Object, time};
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) use access::{
    DEFINITION, ROLE, ROLE_BINDING, SIGNING_REQUEST, definition, role, role_binding,
    signing_request,
};
pub(crate) use cluster::*;
pub(crate) use metrics::{USE, node_use, pod_use};
pub(crate) use network::*;
pub(crate) use pod::{POD, pod};
pub(crate) use storage::*;
pub(crate) use workload::*;

const AGE: Column = Column { name: "Age", kind: "string", wide: false };

pub(crate) const ONLY_AGE: &[Column] = &[AGE];

pub(crate) fn age_only(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![age(object, now)]
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(object.text(&["metadata", "creationTimestamp"]), now)
}

fn since(moment: &str, now: Timestamp) -> Value {
    match time::parse(moment) {
        Some(moment) => time::age(moment, now).into(),
        None => "<unknown>".into(),
    }
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

/// A flag as people read it.
fn truth(flag: Option<&Value>) -> Value {
    match flag.and_then(Value::as_bool) {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }
}

/// The first few texts, and how many more there are.
fn some_of(texts: Vec<String>) -> String {
    const SHOWN: usize = 3;
    match texts.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} + {more} more...", texts[..SHOWN].join(",")),
        _ => texts.join(","),
    }
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// `a=b,c=d`, or `<none>`.
fn pairs(object: Option<&serde_json::Map<String, Value>>) -> Value {
    let pairs = object
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    or_none(&pairs.collect::<Vec<_>>().join(","))
}

fn selector(object: &Value, path: &[&str]) -> Value {
    match berth_objects::LabelSelector::from_object(object.at(path)) {
        Ok(Some(selector)) => or_none(&selector.to_string()),
        Ok(None) => "<none>".into(),
        Err(error) => error.to_string().into(),
    }
}

pub(crate) const NAMESPACE: &[Column] = &[Column::text("Status"), AGE];

pub(crate) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text(&["status", "phase"]).into(), age(object, now)]
}

pub(crate) const NODE: &[Column] = &[
    Column::text("Status"),
    Column::text("Roles"),
    AGE,
    Column::text("Version"),
    Column::wide("Internal-IP"),
    Column::wide("External-IP"),
    Column::wide("OS-Image"),
    Column::wide("Kernel-Version"),
    Column::wide("Container-Runtime"),
];

pub(crate) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready =
        object.list(&["status", "conditions"]).iter().find(|c| c.text(&["type"]) == "Ready");
    let mut status = match ready.map(|condition| condition.text(&["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.flag(&["spec", "unschedulable"]) {
        status += ",SchedulingDisabled";
    }
    let labels = object.labels().into_iter().flatten();
    let mut roles: Vec<_> = labels
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let addresses = object.list(&["status", "addresses"]);
        let found = addresses.iter().find(|address| address.text(&["type"]) == kind);
        or_none(found.map_or("", |address| address.text(&["address"])))
    };
    let info = |name: &str| {
        let text = object.text(&["status", "nodeInfo", name]);
        Value::from(if text.is_empty() { "<unknown>" } else { text })
    };
    vec![
        status.into(),
        or_none(&roles.join(",")),
        age(object, now),
        object.text(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(crate) const SERVICE: &[Column] = &[
    Column::text("Type"),
    Column::text("Cluster-IP"),
    Column::text("External-IP"),
    Column::text("Port(s)"),
    AGE,
    Column::wide("Selector"),
];

pub(crate) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = object.text(&["spec", "type"]);
    let ingress = object.list(&["status", "loadBalancer", "ingress"]).iter().map(|ingress| {
        match ingress.text(&["ip"]) {
            "" => ingress.text(&["hostname"]),
            address => address,
        }
    });
    let external = object.list(&["spec", "externalIPs"]).iter().filter_map(Value::as_str);
    let external = match kind {
        "ExternalName" => object.text(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => match joined(ingress.chain(external)) {
            empty if empty.is_empty() => "<pending>".to_owned(),
            some => some,
        },
        _ => joined(external),
    };
    let ports = object.list(&["spec", "ports"]).iter().map(|port| {
        let (number, protocol) = (port.integer(&["port"]).unwrap_or(0), port.text(&["protocol"]));
        match port.integer(&["nodePort"]) {
            Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    vec![
        kind.into(),
        or_none(object.text(&["spec", "clusterIP"])),
        or_none(&external),
        or_none(&ports.collect::<Vec<_>>().join(",")),
        age(object, now),
        pairs(object.map(&["spec", "selector"])),
    ]
}

pub(crate) const DATA: &[Column] = &[Column::number("Data"), AGE];

fn count(object: &Value, fields: &[&str]) -> Value {
    fields
        .iter()
        .filter_map(|field| object.map(&[field]))
        .map(serde_json::Map::len)
        .sum::<usize>()
        .into()
}

pub(crate) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![count(object, &["data", "binaryData"]), age(object, now)]
}

pub(crate) const SECRET: &[Column] = &[Column::text("Type"), Column::number("Data"), AGE];

pub(crate) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text(&["type"]).into(), count(object, &["data"]), age(object, now)]
}

pub(crate) const SERVICE_ACCOUNT: &[Column] = &[Column::number("Secrets"), AGE];

pub(crate) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.list(&["secrets"]).len().into(), age(object, now)]
}

pub(crate) const EVENT: &[Column] = &[
    Column::text("Last Seen"),
    Column::text("Type"),
    Column::text("Reason"),
    Column::text("Object"),
    Column::wide("Subobject"),
    Column::wide("Source"),
    Column::text("Message"),
    Column::wide("First Seen"),
    Column::wide("Count"),
];

pub(crate) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |paths: &[&[&str]]| {
        paths.iter().map(|path| object.text(path)).find(|text| !text.is_empty()).unwrap_or_default()
    };
    let last = first_of(&[
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["deprecatedLastTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ]);
    let first = first_of(&[
        &["firstTimestamp"],
        &["deprecatedFirstTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ]);
    let about = object.get("involvedObject").or_else(|| object.get("regarding"));
    let about = about.unwrap_or(&Value::Null);
    let (kind, name) = (about.text(&["kind"]).to_lowercase(), about.text(&["name"]));
    let source =
        first_of(&[&["source", "component"], &["reportingController"], &["reportingComponent"]]);
    let host = first_of(&[&["source", "host"], &["reportingInstance"]]);
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    let counted = object
        .integer(&["series", "count"])
        .or_else(|| object.integer(&["count"]))
        .or_else(|| object.integer(&["deprecatedCount"]));
    vec![
        since(last, now),
        object.text(&["type"]).into(),
        object.text(&["reason"]).into(),
        format!("{kind}/{name}").into(),
        about.text(&["fieldPath"]).into(),
        source.into(),
        first_of(&[&["message"], &["note"]]).trim().into(),
        since(first, now),
        counted.unwrap_or(1).max(1).to_string().into(),
    ]
}

fn modes(object: &Value, path: &[&str]) -> Value {
    let short = object.list(path).iter().map(|mode| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        Some(other) => other,
        None => "",
    });
    joined(short).into()
}

/// The phase, or that the object is going.
fn phase(object: &Value) -> Value {
    if object.deleting() { "Terminating".into() } else { object.text(&["status", "phase"]).into() }
}

pub(crate) const VOLUME: &[Column] = &[
    Column::text("Capacity"),
    Column::text("Access Modes"),
    Column::text("Reclaim Policy"),
    Column::text("Status"),
    Column::text("Claim"),
    Column::text("StorageClass"),
    Column::text("VolumeAttributesClass"),
    Column::text("Reason"),
    AGE,
    Column::wide("VolumeMode"),
];

pub(crate) fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |name: &str| object.text(&["spec", name]);
    let claim = object
        .at(&["spec", "claimRef"])
        .map(|claim| format!("{}/{}", claim.text(&["namespace"]), claim.text(&["name"])));
    let class = spec("volumeAttributesClassName");
    vec![
        object.text(&["spec", "capacity", "storage"]).into(),
        modes(object, &["spec", "accessModes"]),
        spec("persistentVolumeReclaimPolicy").into(),
        phase(object),
        claim.unwrap_or_default().into(),
        spec("storageClassName").into(),
        if class.is_empty() { "<unset>".into() } else { class.into() },
        object.text(&["status", "reason"]).into(),
        age(object, now),
        spec("volumeMode").into(),
    ]
}

pub(crate) const CLAIM: &[Column] = &[
    Column::text("Status"),
    Column::text("Volume"),
    Column::text("Capacity"),
    Column::text("Access Modes"),
    Column::text("StorageClass"),
    Column::text("VolumeAttributesClass"),
    AGE,
    Column::wide("VolumeMode"),
];

pub(crate) fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |name: &str| object.text(&["spec", name]);
    let bound = !spec("volumeName").is_empty();
    let class = spec("volumeAttributesClassName");
    vec![
        phase(object),
        spec("volumeName").into(),
        if bound { object.text(&["status", "capacity", "storage"]).into() } else { json!("") },
        if bound { modes(object, &["status", "accessModes"]) } else { json!("") },
        spec("storageClassName").into(),
        if class.is_empty() { "<unset>".into() } else { class.into() },
        age(object, now),
        spec("volumeMode").into(),
    ]
}

pub(crate) const LEASE: &[Column] = &[Column::text("Holder"), AGE];

pub(crate) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text(&["spec", "holderIdentity"]).into(), age(object, now)]
}

pub(crate) const ENDPOINT_SLICE: &[Column] =
    &[Column::text("AddressType"), Column::text("Ports"), Column::text("Endpoints"), AGE];

pub(crate) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports = object.list(&["ports"]).iter().map(|port| match port.integer(&["port"]) {
        Some(number) => number.to_string(),
        None => "*".to_owned(),
    });
    let addresses = object.list(&["endpoints"]).iter().flat_map(|endpoint| {
        endpoint.list(&["addresses"]).iter().filter_map(Value::as_str).map(String::from)
    });
    vec![
        object.text(&["addressType"]).into(),
        or_unset(&some_of(ports.collect())),
        or_unset(&some_of(addresses.collect())),
        age(object, now),
    ]
}

pub(crate) const NETWORK_POLICY: &[Column] = &[Column::text("Pod-Selector"), AGE];

pub(crate) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![selector(object, &["spec", "podSelector"]), age(object, now)]
}

pub(crate) const STORAGE_CLASS: &[Column] = &[
    Column::text("Provisioner"),
    Column::text("ReclaimPolicy"),
    Column::text("VolumeBindingMode"),
    Column { name: "AllowVolumeExpansion", kind: "boolean", wide: false },
    AGE,
];

pub(crate) fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        object.text(&["provisioner"]).into(),
        object.text(&["reclaimPolicy"]).into(),
        object.text(&["volumeBindingMode"]).into(),
        object.flag(&["allowVolumeExpansion"]).into(),
        age(object, now),
    ]
}
