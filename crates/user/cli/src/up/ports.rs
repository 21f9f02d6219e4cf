//! Whether published ports are free, before anything is started: what else would be a container that nobody reaches.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use berth_compose::{Project, Protocol};
use k8s_openapi::api::core::v1::Service;
use kube::Client;

use crate::cluster::{self, PROJECT, RUN_NAME};
use crate::failure::Failure;

/// A port of this machine that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The address; all if absent.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// UDP rather than TCP.
    pub udp: bool,
    /// By which service, with its place in the file.
    pub service: Option<String>,
}

/// The fixed ports that a project publishes.
pub fn of_project(project: &Project, chosen: &BTreeSet<String>) -> Vec<Wanted> {
    let services = project.services.iter().filter(|(key, _)| chosen.contains(*key));
    let ports =
        services.flat_map(|(key, service)| service.ports.iter().map(move |port| (key, port)));
    ports
        .filter(|(_, port)| port.protocol != Protocol::Sctp)
        .filter_map(|(key, port)| {
            Some(Wanted {
                address: port.address,
                port: port.published?,
                udp: port.protocol == Protocol::Udp,
                service: Some(format!("{}: service `{key}`", port.position)),
            })
        })
        .collect()
}

/// Fails with the first port that somebody else has. What `project` itself holds is free for it, and so is what is listed.
pub async fn check(
    client: &Client,
    wanted: &[Wanted],
    project: Option<&str>,
    free: &[u16],
) -> Result<(), Failure> {
    if wanted.is_empty() {
        return Ok(());
    }
    let services: Vec<Service> = cluster::list(client, None, "").await?;
    let held = held(&services);
    for one in wanted.iter().filter(|one| !free.contains(&one.port)) {
        let holder = held.iter().find(|holder| holder.overlaps(one));
        match holder {
            Some(holder) if project.is_some() && holder.project.as_deref() == project => {}
            Some(holder) => return Err(holder.refuse(one)),
            None => bindable(one)?,
        }
    }
    Ok(())
}

/// A port that the cluster publishes.
struct Held {
    address: Option<IpAddr>,
    port: u16,
    udp: bool,
    project: Option<String>,
    run: Option<String>,
    title: String,
}

fn held(services: &[Service]) -> Vec<Held> {
    let mut held = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        if spec.type_.as_deref() != Some("LoadBalancer") {
            continue;
        }
        let label = |name: &str| {
            service.metadata.labels.as_ref().and_then(|labels| labels.get(name).cloned())
        };
        let annotations = service.metadata.annotations.as_ref();
        let address = annotations.and_then(|all| all.get("berth.dev/listen-address")?.parse().ok());
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            let Ok(number) = u16::try_from(port.port) else { continue };
            held.push(Held {
                address,
                port: number,
                udp: port.protocol.as_deref() == Some("UDP"),
                project: label(PROJECT),
                run: label(RUN_NAME),
                title: format!("Service {namespace}/{name}"),
            });
        }
    }
    held
}

impl Held {
    fn overlaps(&self, wanted: &Wanted) -> bool {
        let all = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
        self.port == wanted.port
            && self.udp == wanted.udp
            && (all(self.address) || all(wanted.address) || self.address == wanted.address)
    }

    fn refuse(&self, wanted: &Wanted) -> Failure {
        let taken = |by: String| Failure::new(format!("{} is taken by {by}", wanted.title()));
        match (&self.project, &self.run) {
            (Some(project), _) => taken(format!("project `{project}`"))
                .hint(format!("publish another port, or `berth down -p {project}`")),
            (None, Some(run)) => taken(format!("container `{run}`"))
                .hint(format!("publish another port, or `berth rm -f {run}`")),
            (None, None) => {
                taken(self.title.clone()).hint("publish another port, or delete that Service")
            }
        }
    }
}

impl Wanted {
    fn title(&self) -> String {
        let address = match self.address {
            None => String::new(),
            Some(IpAddr::V4(address)) => format!("{address}:"),
            Some(IpAddr::V6(address)) => format!("[{address}]:"),
        };
        let what = format!("port {address}{}{}", self.port, if self.udp { "/udp" } else { "" });
        match &self.service {
            Some(service) => format!("{service}: {what}"),
            None => what,
        }
    }
}

/// Tries to listen, and stops at once.
fn bindable(wanted: &Wanted) -> Result<(), Failure> {
    let address =
        SocketAddr::new(wanted.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), wanted.port);
    let outcome = if wanted.udp {
        UdpSocket::bind(address).map(drop)
    } else {
        TcpListener::bind(address).map(drop)
    };
    let Err(error) = outcome else { return Ok(()) };
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Err(Failure::new(format!("{} cannot be used", wanted.title()))
            .because(error)
            .hint("publish it on an address that this machine has"));
    }
    let holder = holder(Path::new("/proc"), wanted.port, wanted.udp);
    let by = holder.map_or_else(
        || "another program".to_owned(),
        |(pid, name)| format!("`{name}` (process {pid})"),
    );
    Err(Failure::new(format!("{} is taken by {by}", wanted.title()))
        .hint("publish another port, or end that program"))
}

/// Process and program that listen on a port, if they can be found.
fn holder(proc: &Path, port: u16, udp: bool) -> Option<(u32, String)> {
    let protocol = if udp { "udp" } else { "tcp" };
    let mut inodes = Vec::new();
    for table in [protocol.to_owned(), format!("{protocol}6")] {
        let text = fs::read_to_string(proc.join("net").join(table)).unwrap_or_default();
        inodes.extend(listeners(&text, port, udp));
    }
    for process in fs::read_dir(proc).ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        let holds = links.into_iter().any(|link| {
            let text = link.to_string_lossy();
            let inode = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            inode.is_some_and(|inode| inodes.iter().any(|one| one == inode))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The sockets in a table of `/proc/net` that listen on a port.
fn listeners(table: &str, port: u16, udp: bool) -> Vec<String> {
    const LISTEN: &str = "0A";
    let mut inodes = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
        else {
            continue;
        };
        let here = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if here == Some(port) && (udp || *state == LISTEN) {
            inodes.push((*inode).to_owned());
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(address: Option<&str>, port: u16) -> Wanted {
        let address = address.map(|address| address.parse().unwrap());
        Wanted { address, port, udp: false, service: None }
    }

    #[test]
    fn another_project_is_named() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": "web-published", "namespace": "blog", "labels": { PROJECT: "blog" },
                "annotations": { "berth.dev/listen-address": "127.0.0.1" } },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 8080, "protocol": "TCP" }] },
        }))
        .unwrap();
        let held = held(&[service]);
        assert!(held[0].overlaps(&wanted(None, 8080)));
        assert!(!held[0].overlaps(&wanted(Some("10.0.0.1"), 8080)));
        assert_eq!(
            held[0].refuse(&wanted(None, 8080)).text(),
            "error: port 8080 is taken by project `blog`\nhint: publish another port, or `berth down -p blog`"
        );
    }

    #[test]
    fn a_foreign_program_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure = bindable(&wanted(Some("127.0.0.1"), port)).unwrap_err().text();
        assert!(failure.contains(&format!("(process {})", std::process::id())), "{failure}");
        drop(listener);
        assert!(bindable(&wanted(Some("127.0.0.1"), port)).is_ok());
    }
}
