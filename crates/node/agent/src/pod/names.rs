//! How a pod is called and how it finds others: host name, `/etc/hosts`, `/etc/resolv.conf`. All from values alone.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

use crate::config::Cause;

/// The most letters the kernel takes for a host name.
const LONGEST: usize = 64;

/// What a pod is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// As the kernel has it, and `/etc/hostname`.
    pub hostname: String,
    /// Its names in `/etc/hosts`, the full one first.
    pub known: Vec<String>,
}

/// The names of a pod in this cluster domain.
///
/// # Errors
/// When the full name is to be the host name and is too long for the kernel.
pub fn names(pod: &Pod, spec: &PodSpec, domain: &str) -> Result<Names, Cause> {
    if let Some(given) = &spec.hostname_override {
        return Ok(Names { hostname: given.clone(), known: vec![given.clone()] });
    }
    let mut short = spec.hostname.clone().unwrap_or_else(|| pod.name_any());
    // A label of a name has at most 63 letters.
    short.truncate(63);
    let short = short.trim_end_matches(['-', '.']).to_owned();
    let Some(subdomain) = spec.subdomain.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(Names { hostname: short.clone(), known: vec![short] });
    };
    let full = format!("{short}.{subdomain}.{}.svc.{domain}", pod.namespace().unwrap_or_default());
    let hostname = if spec.set_hostname_as_fqdn.unwrap_or(false) { &full } else { &short };
    if hostname.len() > LONGEST {
        return Err(Cause::config(format!(
            "cannot use the full name as host name (setHostnameAsFQDN): {full} has {} letters, and at most {LONGEST} are possible",
            full.len()
        )));
    }
    Ok(Names { hostname: hostname.clone(), known: vec![full, short] })
}

/// `/etc/hosts`. A pod on the node's own network has what the node has.
pub fn hosts(
    spec: &PodSpec,
    names: &Names,
    address: Option<Ipv4Addr>,
    of_node: Option<&str>,
) -> String {
    let mut text = match of_node {
        Some(of_node) => format!("# made by berth from the node's\n{of_node}\n"),
        None => {
            "# made by berth\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
                .to_owned()
        }
    };
    if let Some(address) = address {
        text.push_str(&format!("{address}\t{}\n", names.known.join("\t")));
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// What a resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// That of a pod in a cluster.
    pub fn of_cluster(server: Ipv4Addr, namespace: &str, domain: &str) -> Self {
        Self {
            servers: vec![server.to_string()],
            searches: vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ],
            options: vec!["ndots:5".to_owned()],
        }
    }

    /// As a file says it. The last `search` counts, as the C library has it.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => found.searches = words.map(str::to_owned).collect(),
                Some("options") => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }

    /// Adds what the pod asks for; its options stand above those of the same name.
    pub fn with(mut self, spec: &PodSpec) -> Self {
        let Some(own) = &spec.dns_config else { return self };
        let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
            for one in more.iter().flatten() {
                if !list.contains(one) {
                    list.push(one.clone());
                }
            }
        };
        add(&mut self.servers, &own.nameservers);
        add(&mut self.searches, &own.searches);
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            self.options.retain(|known| known.split(':').next() != Some(&name));
            self.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
        self
    }

    /// The file.
    pub fn render(&self) -> String {
        let mut text: String =
            self.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        for (word, list) in [("search", &self.searches), ("options", &self.options)] {
            if !list.is_empty() {
                text.push_str(&format!("{word} {}\n", list.join(" ")));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> (Pod, PodSpec) {
        let metadata = json!({"name": "web-0", "namespace": "shop"});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        let spec = pod.spec.clone().unwrap();
        (pod, spec)
    }

    fn named(spec: Value) -> Result<Names, String> {
        let (pod, spec) = pod(spec);
        names(&pod, &spec, "cluster.local").map_err(|cause| cause.message)
    }

    #[test]
    fn a_pod_is_called_by_its_short_or_its_full_name() {
        let plain = named(json!({"containers": []})).unwrap();
        assert_eq!((plain.hostname.as_str(), plain.known.len()), ("web-0", 1));
        let full = "web-0.web.shop.svc.cluster.local";
        let below = named(json!({"containers": [], "subdomain": "web"})).unwrap();
        assert_eq!(
            below,
            Names { hostname: "web-0".into(), known: vec![full.into(), "web-0".into()] }
        );
        let fqdn = json!({"containers": [], "subdomain": "web", "setHostnameAsFQDN": true});
        assert_eq!(named(fqdn).unwrap().hostname, full);
        let long =
            json!({"containers": [], "subdomain": "x".repeat(40), "setHostnameAsFQDN": true});
        assert!(named(long).unwrap_err().contains("setHostnameAsFQDN"));
        let over = json!({"containers": [], "subdomain": "web", "hostnameOverride": "box.example"});
        assert_eq!(named(over).unwrap().hostname, "box.example");
    }

    #[test]
    fn hosts_have_aliases_and_those_of_the_node_where_its_network_is_used() {
        let aliases = json!([{"ip": "10.9.8.7", "hostnames": ["a", "b"]}]);
        let (pod, spec) = pod(json!({"containers": [], "hostAliases": aliases}));
        let names = names(&pod, &spec, "cluster.local").unwrap();
        let text = hosts(&spec, &names, Some(Ipv4Addr::new(10, 0, 0, 5)), None);
        assert!(text.contains("10.0.0.5\tweb-0\n") && text.ends_with("10.9.8.7\ta\tb\n"), "{text}");
        let text = hosts(&spec, &names, None, Some("192.168.1.1 here"));
        assert!(text.contains("192.168.1.1 here\n10.9.8.7") && !text.contains("web-0"), "{text}");
    }

    #[test]
    fn resolvers_are_one_list_of_each() {
        let own = json!({"nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["example.com"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        let (_, spec) = pod(json!({"containers": [], "dnsConfig": own}));
        let cluster = Resolver::of_cluster(Ipv4Addr::new(10, 96, 0, 10), "shop", "cluster.local");
        assert_eq!(
            cluster.with(&spec).render(),
            "nameserver 10.96.0.10\nnameserver 1.1.1.1\n\
             search shop.svc.cluster.local svc.cluster.local cluster.local example.com\n\
             options ndots:2 edns0\n"
        );
        let host = "# x\nnameserver 9.9.9.9\nsearch a\nsearch b c\noptions rotate timeout:1\n";
        let (_, plain) = pod(json!({"containers": []}));
        let host = Resolver::parse(host).with(&plain).render();
        assert_eq!(host, "nameserver 9.9.9.9\nsearch b c\noptions rotate timeout:1\n");
    }
}
