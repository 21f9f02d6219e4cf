//! How a service is connected: ports, networks and host names.

use std::net::IpAddr;

use crate::model::{NetworkMode, Port, Protocol};
use crate::report::Report;
use crate::source::node::View;
use crate::value::{name, port};

pub(super) fn ports(view: &View<'_>, report: &mut Report) -> Vec<Port> {
    let Some(ports) = view.get("ports") else { return Vec::new() };
    ports.items(report).iter().filter_map(|view| one_port(view, report)).collect()
}

fn one_port(view: &View<'_>, report: &mut Report) -> Option<Port> {
    let Some(target) = view.get("target") else {
        view.problem(report, "`target` is missing; it is the port in the container");
        return None;
    };
    let published = match view.get("published") {
        None => None,
        Some(published) => {
            let text = published.text(report)?;
            let range = port::range(&text);
            if range.is_none() && !text.is_empty() {
                published.problem(report, format!("`{text}` is not a port from 1 to 65535"));
            }
            range.map(|(first, _)| first)
        }
    };
    let address = match view.get("host_ip") {
        None => None,
        Some(address) => {
            let text = address.text(report)?;
            let parsed = text.parse::<IpAddr>().ok();
            if parsed.is_none() {
                address.problem(report, format!("`{text}` is no IP address"));
            }
            // All addresses are what a port is published on without one.
            parsed.filter(|address| !address.is_unspecified())
        }
    };
    let protocol = match view.get("protocol") {
        None => Protocol::Tcp,
        Some(protocol) => {
            let text = protocol.text(report)?;
            let parsed = Protocol::parse(&text);
            if parsed.is_none() {
                protocol.problem(report, format!("`{text}` is none of `tcp`, `udp` and `sctp`"));
            }
            parsed?
        }
    };
    Some(Port {
        address,
        published,
        target: target.number::<u16>(report).filter(|target| *target > 0)?,
        protocol,
        app_protocol: view.get("app_protocol").and_then(|protocol| protocol.text(report)),
        position: view.node.position.clone(),
    })
}

pub(super) fn expose(view: &View<'_>, report: &mut Report) -> Vec<(u16, Protocol)> {
    let Some(expose) = view.get("expose") else { return Vec::new() };
    let mut ports = Vec::new();
    for item in expose.items(report) {
        let Some(text) = item.text(report) else { continue };
        let (range, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        match (port::range(range), Protocol::parse(protocol)) {
            (Some((first, last)), Some(protocol)) => {
                ports.extend((first..=last).map(|port| (port, protocol)));
            }
            _ => item.problem(
                report,
                format!("`{text}` is not a port; write `8080`, `53/udp` or `8000-8010`"),
            ),
        }
    }
    ports
}

pub(super) fn mode(view: &View<'_>, report: &mut Report) -> NetworkMode {
    let default = || NetworkMode::Networks(vec!["default".to_owned()]);
    if let Some(mode) = view.get("network_mode") {
        if view.get("networks").is_some() {
            mode.problem(report, "cannot stand beside `networks`; keep one of them");
        }
        let text = mode.text(report).unwrap_or_default();
        return match text.as_str() {
            "host" => NetworkMode::Host,
            "none" => NetworkMode::None,
            "bridge" | "default" | "" => default(),
            other if other.starts_with("service:") || other.starts_with("container:") => {
                mode.warn(report, "is not supported and has no effect: the service gets an address of its own; reach the other one by its name");
                default()
            }
            other => {
                mode.problem(
                    report,
                    format!("`{other}` is no network mode; there are `host`, `none` and `bridge`"),
                );
                default()
            }
        };
    }
    let names = view.get("networks").map(|networks| networks.entries(report)).unwrap_or_default();
    if names.is_empty() {
        return default();
    }
    NetworkMode::Networks(names.into_iter().map(|(name, _)| name.to_owned()).collect())
}

pub(super) fn host_names(view: &View<'_>, report: &mut Report) -> (Option<String>, Option<String>) {
    let mut read = |name: &str| {
        let view = view.get(name)?;
        let text = view.text(report)?;
        let label = name::label(text.split('.').next().unwrap_or_default());
        if name == "domainname" && text != label {
            view.warn(report, format!("`{text}` is not supported and has no effect: the cluster's domain cannot be changed"));
            return None;
        }
        if text != label {
            view.warn(
                report,
                format!(
                    "`{text}` is shortened to `{label}`: host names in a cluster are single labels"
                ),
            );
        }
        Some(label).filter(|label| !label.is_empty())
    };
    (read("hostname"), read("domainname"))
}
