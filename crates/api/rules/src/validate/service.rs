//! Validation of Services.

use berth_objects::{FieldError, Object};
use serde_json::Value;

use super::{Errors, Place, names};

pub(crate) fn create(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let kind = spec.field("type");
    kind.one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    spec.field("sessionAffinity").one_of(&["ClientIP", "None"], errors);
    spec.field("externalTrafficPolicy").one_of(&["Cluster", "Local"], errors);
    spec.field("internalTrafficPolicy").one_of(&["Cluster", "Local"], errors);
    names::labels(&spec.field("selector"), errors);
    let external = spec.field("externalName");
    if kind.text() == "ExternalName"
        && !external.is_empty()
        && !names::is_subdomain(external.text().trim_end_matches('.'))
    {
        names::subdomain(&external, errors);
    }
    let timeout = spec.field("sessionAffinityConfig").field("clientIP").field("timeoutSeconds");
    if timeout.value.as_i64().is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
        timeout.invalid("must be greater than 0 and less than or equal to 86400", errors);
    }
    for address in spec.field("externalIPs").items() {
        if address.text().parse::<std::net::IpAddr>().is_err() {
            address.invalid("must be a valid IP address, (e.g. 10.9.8.7)", errors);
        }
    }
    for range in spec.field("loadBalancerSourceRanges").items() {
        if range.text().trim().parse::<ipnet::IpNet>().is_err() {
            range.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24)", errors);
        }
    }
    let headless = spec.field("clusterIP").text() == "None";
    let ports = spec.field("ports");
    match kind.text() {
        "ExternalName" => {
            spec.field("externalName").required(errors);
            if !["", "None"].contains(&spec.field("clusterIP").text()) {
                let why = "may not be set when `type` is 'ExternalName'";
                errors.push(FieldError::forbidden("spec.clusterIPs", why));
            }
        }
        _ if headless => {
            if kind.text() != "ClusterIP" {
                let why = format!("may not be set to 'None' for {} services", kind.text());
                spec.field("clusterIP").invalid(why, errors);
            }
        }
        _ => drop(ports.required(errors)),
    }
    let many = ports.items().count() > 1;
    let mut seen = Vec::new();
    for port in ports.items() {
        let name = port.field("name");
        if many || !name.is_empty() {
            names::label(&name, errors);
        }
        if port.field("port").required(errors) {
            port.field("port").port(errors);
        }
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
        port.field("targetPort").port(errors);
        let node_port = port.field("nodePort");
        if node_port.value.as_i64().is_some_and(|number| number != 0) {
            node_port.port(errors);
            if kind.text() == "ClusterIP" {
                let why = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(&node_port.path, why));
            }
        }
        let key = (port.field("protocol").value, port.field("port").value);
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&port.path, port.value));
        }
        seen.push(key);
    }
    ports.unique("name", errors);
}

pub(crate) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let address = |service: &Value| service.text(&["spec", "clusterIP"]).to_owned();
    let external = |service: &Value| service.text(&["spec", "type"]) == "ExternalName";
    if !external(old)
        && !external(object)
        && !address(old).is_empty()
        && address(old) != address(object)
    {
        let place = Place::root(object).field("spec").field("clusterIP");
        place.invalid("field is immutable", errors);
    }
}
