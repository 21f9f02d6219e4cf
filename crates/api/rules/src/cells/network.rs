//! Cells of endpoints, routes into the cluster, and addresses.

use berth_objects::{Column, Object};
use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, age, joined, or_none, some_of};

pub(crate) const ENDPOINTS: &[Column] = &[Column::text("Endpoints"), AGE];

pub(crate) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object.list(&["subsets"]) {
        for address in subset.list(&["addresses"]) {
            let address = address.text(&["ip"]);
            let address =
                if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            match subset.list(&["ports"]) {
                [] => all.push(address),
                ports => all.extend(ports.iter().map(|port| {
                    format!("{address}:{}", port.integer(&["port"]).unwrap_or_default())
                })),
            }
        }
    }
    vec![or_none(&some_of(all)), age(object, now)]
}

pub(crate) const INGRESS: &[Column] = &[
    Column::text("Class"),
    Column::text("Hosts"),
    Column::text("Address"),
    Column::text("Ports"),
    AGE,
];

pub(crate) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let class = match object.text(&["spec", "ingressClassName"]) {
        "" => object.annotation("kubernetes.io/ingress.class").unwrap_or_default(),
        class => class,
    };
    let hosts: Vec<String> = object
        .list(&["spec", "rules"])
        .iter()
        .map(|rule| rule.text(&["host"]).to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { some_of(hosts) };
    let ingresses = object.list(&["status", "loadBalancer", "ingress"]).iter();
    let addresses = ingresses.map(|ingress| match ingress.text(&["ip"]) {
        "" => ingress.text(&["hostname"]),
        address => address,
    });
    let ports = if object.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![or_none(class), hosts.into(), joined(addresses).into(), ports.into(), age(object, now)]
}

pub(crate) const INGRESS_CLASS: &[Column] =
    &[Column::text("Controller"), Column::text("Parameters"), AGE];

pub(crate) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = object.at(&["spec", "parameters"]).map(|parameters| {
        let kind = parameters.text(&["kind"]);
        let kind = match parameters.text(&["apiGroup"]) {
            "" => kind.to_owned(),
            group => format!("{kind}.{group}"),
        };
        format!("{kind}/{}", parameters.text(&["name"]))
    });
    vec![
        object.text(&["spec", "controller"]).into(),
        or_none(&parameters.unwrap_or_default()),
        age(object, now),
    ]
}

pub(crate) const IP_ADDRESS: &[Column] = &[Column::text("ParentRef"), AGE];

pub(crate) fn ip_address(object: &Value, now: Timestamp) -> Vec<Value> {
    let parent = object.at(&["spec", "parentRef"]).map(|parent| {
        let resource = match parent.text(&["group"]) {
            "" => parent.text(&["resource"]).to_owned(),
            group => format!("{}.{group}", parent.text(&["resource"])),
        };
        let namespace = match parent.text(&["namespace"]) {
            "" => String::new(),
            namespace => format!("{namespace}/"),
        };
        format!("{}/{namespace}{}", resource.to_lowercase(), parent.text(&["name"]))
    });
    vec![or_none(&parent.unwrap_or_default()), age(object, now)]
}

pub(crate) const SERVICE_CIDR: &[Column] = &[Column::text("CIDRs"), AGE];

pub(crate) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    let blocks = object.list(&["spec", "cidrs"]).iter().filter_map(Value::as_str);
    vec![joined(blocks).into(), age(object, now)]
}
