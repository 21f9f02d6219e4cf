//! Validation of endpoints, policies, ingresses and addresses.

use std::net::IpAddr;

use berth_objects::{FieldError, Object};
use serde_json::Value;

use super::{Errors, Place, names};

const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24)";
const ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7)";

fn address(place: &Place<'_>, errors: &mut Errors) {
    if place.required(errors) && place.text().parse::<IpAddr>().is_err() {
        place.invalid(ADDRESS, errors);
    }
}

pub(crate) fn network_policy(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    spec.field("policyTypes").items().for_each(|kind| kind.one_of(&["Ingress", "Egress"], errors));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            for port in rule.field("ports").items() {
                policy_port(&port, errors);
            }
            for peer in rule.field(peers).items() {
                policy_peer(&peer, errors);
            }
        }
    }
}

fn policy_port(place: &Place<'_>, errors: &mut Errors) {
    place.field("protocol").one_of(&["TCP", "UDP", "SCTP"], errors);
    let (port, end) = (place.field("port"), place.field("endPort"));
    port.port(errors);
    let Some(last) = end.value.as_i64() else { return };
    match port.value {
        Value::Null => {
            let why = "may not be specified when `port` is not specified";
            end.invalid(why, errors);
        }
        Value::String(_) => {
            end.invalid("may not be specified when `port` is non-numeric", errors);
        }
        first if first.as_i64().is_some_and(|first| last < first) => {
            end.invalid("must be greater than or equal to `port`", errors);
        }
        _ => end.port(errors),
    }
}

fn policy_peer(peer: &Place<'_>, errors: &mut Errors) {
    let block = peer.field("ipBlock");
    let selects =
        !peer.field("podSelector").is_empty() || !peer.field("namespaceSelector").is_empty();
    if block.is_empty() && !selects {
        errors.push(FieldError::required(&peer.path, "must specify a peer"));
    } else if !block.is_empty() && selects {
        let why = "may not specify both ipBlock and another peer";
        errors.push(FieldError::forbidden(&peer.path, why));
    }
    if block.is_empty() {
        return;
    }
    let whole = block.field("cidr");
    let net = whole.text().parse::<ipnet::IpNet>();
    if net.is_err() {
        whole.invalid(CIDR, errors);
    }
    for exception in block.field("except").items() {
        match (exception.text().parse::<ipnet::IpNet>(), &net) {
            (Err(_), _) => exception.invalid(CIDR, errors),
            (Ok(inner), Ok(outer)) if inner == *outer || !outer.contains(&inner) => {
                exception.invalid("must be a strict subset of `cidr`", errors);
            }
            (Ok(_), _) => {}
        }
    }
}

pub(crate) fn endpoints(object: &Value, errors: &mut Errors) {
    for subset in Place::root(object).field("subsets").items() {
        let lists = ["addresses", "notReadyAddresses"].map(|field| subset.field(field));
        if lists.iter().all(Place::is_empty) {
            let why = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(&subset.path, why));
        }
        for list in &lists {
            list.items().for_each(|item| address(&item.field("ip"), errors));
        }
        ports(&subset.field("ports"), errors);
    }
}

/// Ports by name; the name may be empty where there is one only.
fn ports(ports: &Place<'_>, errors: &mut Errors) {
    let many = ports.items().count() > 1;
    for port in ports.items() {
        if many || !port.field("name").is_empty() {
            names::label(&port.field("name"), errors);
        }
        port.field("port").port(errors);
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
    }
    ports.unique("name", errors);
}

pub(crate) fn endpoint_slice(object: &Value, errors: &mut Errors) {
    const MOST: usize = 1000;
    let root = Place::root(object);
    let kind = root.field("addressType");
    kind.required(errors);
    kind.one_of(&["IPv4", "IPv6", "FQDN"], errors);
    let endpoints = root.field("endpoints");
    let count = endpoints.items().count();
    if count > MOST {
        errors.push(FieldError::too_many("endpoints", count, MOST));
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.field("addresses");
        addresses.required(errors);
        for address in addresses.items() {
            let fits = match (kind.text(), address.text().parse::<IpAddr>()) {
                ("IPv4", Ok(found)) => found.is_ipv4(),
                ("IPv6", Ok(found)) => found.is_ipv6(),
                ("IPv4" | "IPv6", Err(_)) => false,
                _ => names::is_subdomain(address.text()),
            };
            if !fits {
                address.invalid(format!("must be a valid {} address", kind.text()), errors);
            }
        }
    }
    for port in root.field("ports").items() {
        port.field("port").port(errors);
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
    }
}

pub(crate) fn ingress(object: &Value, creating: bool, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let (default, rules) = (spec.field("defaultBackend"), spec.field("rules"));
    if default.value.is_null() && rules.is_empty() {
        spec.invalid("either `defaultBackend` or `rules` must be specified", errors);
    }
    backend(&default, errors);
    for rule in rules.items() {
        host(&rule.field("host"), errors);
        let http = rule.field("http");
        if !http.value.is_null() {
            http.field("paths").required(errors);
        }
        http.field("paths").items().for_each(|path| ingress_path(&path, errors));
    }
    for tls in spec.field("tls").items() {
        tls.field("hosts").items().for_each(|name| host(&name, errors));
    }
    let class = spec.field("ingressClassName");
    if !class.value.is_null() && !names::is_subdomain(class.text()) {
        names::subdomain(&class, errors);
    }
    let annotation = "kubernetes.io/ingress.class";
    if creating && !class.is_empty() && object.annotation(annotation).is_some() {
        let path = format!("metadata.annotations[{annotation}]");
        let value = Value::from(object.annotation(annotation));
        let why = "can not be set when the class field is also set";
        errors.push(FieldError::invalid(&path, &value, why));
    }
}

fn host(host: &Place<'_>, errors: &mut Errors) {
    let text = host.text();
    if text.is_empty() {
        return;
    }
    if text.parse::<IpAddr>().is_ok() {
        host.invalid("must be a DNS name, not an IP address", errors);
    } else if !names::is_subdomain(text.strip_prefix("*.").unwrap_or(text)) {
        names::subdomain(host, errors);
    }
}

fn ingress_path(path: &Place<'_>, errors: &mut Errors) {
    let (kind, text) = (path.field("pathType"), path.field("path"));
    match kind.text() {
        "" => errors.push(FieldError::required(&kind.path, "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !text.text().starts_with('/') {
                text.invalid("must be an absolute path", errors);
            }
            for wrong in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.text().contains(wrong) {
                    text.invalid(format!("must not contain '{wrong}'"), errors);
                }
            }
        }
        _ => {
            kind.one_of(&["Exact", "ImplementationSpecific", "Prefix"], errors);
            if !text.is_empty() && !text.text().starts_with('/') {
                text.invalid("must be an absolute path", errors);
            }
        }
    }
    let target = path.field("backend");
    if target.is_empty() || target.value.as_object().is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required(&target.path, "port name or number is required"));
    }
    backend(&target, errors);
}

fn backend(backend: &Place<'_>, errors: &mut Errors) {
    let (service, resource) = (backend.field("service"), backend.field("resource"));
    if !service.value.is_null() && !resource.value.is_null() {
        backend.invalid("cannot set both resource and service backends", errors);
        return;
    }
    if service.value.is_null() {
        return;
    }
    service.field("name").required(errors);
    let port = service.field("port");
    let (name, number) = (port.field("name"), port.field("number"));
    let numbered = number.value.as_i64().is_some_and(|number| number != 0);
    match (name.is_empty(), numbered) {
        (false, true) => port.invalid("cannot set both port name & port number", errors),
        (true, false) => {
            errors.push(FieldError::required(&port.path, "port name or number is required"));
        }
        _ => number.port(errors),
    }
}

pub(crate) fn ingress_class(object: &Value, errors: &mut Errors) {
    const LONGEST: usize = 250;
    let spec = Place::root(object).field("spec");
    let controller = spec.field("controller");
    if controller.required(errors) {
        let parts = controller.text().split_once('/');
        if controller.text().len() > LONGEST {
            errors.push(FieldError::too_long(&controller.path, LONGEST));
        } else if !parts
            .is_some_and(|(domain, path)| names::is_subdomain(domain) && !path.is_empty())
        {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            controller.invalid(why, errors);
        }
    }
    let parameters = spec.field("parameters");
    if parameters.value.is_null() {
        return;
    }
    parameters.field("kind").required(errors);
    parameters.field("name").required(errors);
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    scope.one_of(&["Cluster", "Namespace"], errors);
    match scope.text() {
        "Namespace" => drop(namespace.required(errors)),
        _ if !namespace.is_empty() => {
            let why = "parameters.scope is set to 'Cluster'";
            errors.push(FieldError::forbidden(&namespace.path, why));
        }
        _ => {}
    }
}

pub(crate) fn ip_address(object: &Value, errors: &mut Errors) {
    let name = Place::root(object).field("metadata").field("name");
    let canonical = name.text().parse::<IpAddr>().map(|parsed| parsed.to_string());
    if canonical.as_deref() != Ok(name.text()) {
        name.invalid("must be a valid IP address in canonical form", errors);
    }
    let parent = Place::root(object).field("spec").field("parentRef");
    if parent.required(errors) {
        parent.field("resource").required(errors);
        parent.field("name").required(errors);
    }
}

pub(crate) fn service_cidr(object: &Value, errors: &mut Errors) {
    let blocks = Place::root(object).field("spec").field("cidrs");
    if !blocks.required(errors) {
        return;
    }
    let count = blocks.items().count();
    if count > 2 {
        blocks.invalid("may only hold up to 2 values", errors);
    }
    for block in blocks.items() {
        match block.text().parse::<ipnet::IpNet>() {
            Ok(net) if net.trunc() == net => {}
            _ => block.invalid(CIDR, errors),
        }
    }
}
