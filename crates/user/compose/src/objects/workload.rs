//! The pods of a service: a Deployment, or one bare pod for what runs once.
//!
//! A Deployment even without `restart`: a service that ended is started again. What others wait for with
//! `service_completed_successfully` is a bare pod rather than a Job, so that its end is read at the pod itself.

use serde_json::{Map, Value, json};

use super::{Subject, container, probe, storage};
use crate::model::{MountSource, NetworkMode, Restart};

const REVISIONS: u32 = 3;

pub(super) fn workload(subject: &Subject<'_>) -> Value {
    let service = subject.service;
    if subject.project.runs_once(subject.key) {
        let mut pod = template(subject);
        let restart = match service.restart {
            Restart::Default | Restart::No => "Never",
            Restart::OnFailure | Restart::Always => "OnFailure",
        };
        pod["spec"]["restartPolicy"] = json!(restart);
        pod["metadata"]["name"] = json!(service.object_name);
        pod["metadata"]["namespace"] = json!(subject.project.name);
        let mut object = json!({ "apiVersion": "v1", "kind": "Pod" });
        object["metadata"] = pod["metadata"].take();
        object["spec"] = pod["spec"].take();
        return object;
    }
    let mut metadata = subject.metadata(&service.object_name);
    if !service.deploy_annotations.is_empty() {
        metadata["annotations"] = json!(service.deploy_annotations);
    }
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": service.replicas,
            "revisionHistoryLimit": REVISIONS,
            "progressDeadlineSeconds": probe::deadline(subject),
            "selector": { "matchLabels": subject.selector() },
            "strategy": strategy(subject),
            "template": template(subject),
        },
    });
    if !probe::is_checked(subject) {
        // Without a health check, a process that ends at once must not count as up for the moment it lives.
        deployment["spec"]["minReadySeconds"] = json!(1);
    }
    deployment
}

/// Two copies of a service must never write to one volume, nor listen on one node's port.
fn strategy(subject: &Subject<'_>) -> Value {
    let service = subject.service;
    let exclusive = service.network == NetworkMode::Host
        || service.mounts.iter().any(|mount| {
            !mount.read_only
                && matches!(mount.source, MountSource::Volume { .. } | MountSource::Bind { .. })
        });
    match service.start_first {
        None if exclusive => json!({ "type": "Recreate" }),
        Some(false) => json!({
            "type": "RollingUpdate",
            "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 },
        }),
        None | Some(true) => json!({
            "type": "RollingUpdate",
            "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 },
        }),
    }
}

fn template(subject: &Subject<'_>) -> Value {
    let project = subject.project;
    let service = subject.service;
    let mut labels = super::labels(project, &service.object_name, true);
    if let NetworkMode::Networks(names) = &service.network {
        let networks: Vec<_> = names.iter().filter_map(|name| project.networks.get(name)).collect();
        for network in &networks {
            labels[super::network::label(network)] = json!("true");
        }
        if !networks.is_empty() && networks.iter().all(|network| network.internal) {
            labels[super::network::INTERNAL_ONLY] = json!("true");
        }
    }
    json!({
        "metadata": { "labels": labels, "annotations": annotations(subject) },
        "spec": pod(subject),
    })
}

fn annotations(subject: &Subject<'_>) -> Value {
    let service = subject.service;
    let mut annotations: Map<String, Value> =
        service.annotations.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut add = |name: String, value: String| annotations.insert(name, Value::String(value));
    if let Some(digest) = &subject.image.digest {
        add("berth.dev/image-digest".to_owned(), digest.clone());
    }
    if let Some(hash) = storage::content_hash(subject) {
        add("berth.dev/config-hash".to_owned(), hash);
    }
    if let Some(user) = service.user.as_ref().filter(|user| container::numeric(user).is_none()) {
        add(format!("user.berth.dev/{}", service.object_name), user.clone());
    }
    if let Some(processes) = service.resources.processes {
        add("berth.dev/pids-limit".to_owned(), processes.to_string());
    }
    if !service.ulimits.is_empty() {
        let limits: Map<String, Value> = service
            .ulimits
            .iter()
            .map(|(name, (soft, hard))| (name.clone(), json!({ "soft": soft, "hard": hard })))
            .collect();
        add("berth.dev/ulimits".to_owned(), Value::Object(limits).to_string());
    }
    Value::Object(annotations)
}

fn pod(subject: &Subject<'_>) -> Value {
    let service = subject.service;
    let (volumes, mounts) = storage::mounted(subject);
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": whole_seconds(service.stop_grace_period),
        "containers": [container::container(subject, mounts)],
    });
    if !volumes.is_empty() {
        spec["volumes"] = json!(volumes);
    }
    if service.network == NetworkMode::Host {
        spec["hostNetwork"] = json!(true);
        spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    }
    if service.host_pid {
        spec["hostPID"] = json!(true);
    }
    if service.host_ipc {
        spec["hostIPC"] = json!(true);
    }
    if let Some(hostname) = &service.hostname {
        spec["hostname"] = json!(hostname);
    }
    if let Some(domain) = &service.domainname {
        spec["subdomain"] = json!(domain);
    }
    if service.stop_signal.is_some() {
        // A stop signal is refused in pods that do not name their system.
        spec["os"] = json!({ "name": "linux" });
    }
    if let Some(architecture) = &service.architecture {
        spec["nodeSelector"] = json!({ "kubernetes.io/arch": architecture });
    }
    let aliases = host_aliases(subject);
    if !aliases.is_empty() {
        spec["hostAliases"] = json!(aliases);
    }
    if let Some(dns) = dns(subject) {
        spec["dnsConfig"] = dns;
    }
    if let Some(security) = pod_security(subject) {
        spec["securityContext"] = security;
    }
    spec
}

/// Rounded up, because a cluster knows no fractions of seconds.
pub(super) fn whole_seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn host_aliases(subject: &Subject<'_>) -> Vec<Value> {
    let mut by_address: indexmap::IndexMap<String, Vec<&str>> = indexmap::IndexMap::new();
    for (host, address) in &subject.service.extra_hosts {
        by_address.entry(address.to_string()).or_default().push(host);
    }
    by_address.iter().map(|(ip, names)| json!({ "ip": ip, "hostnames": names })).collect()
}

fn dns(subject: &Subject<'_>) -> Option<Value> {
    let dns = &subject.service.dns;
    let mut config = Map::new();
    if !dns.servers.is_empty() {
        config.insert("nameservers".to_owned(), json!(dns.servers));
    }
    if !dns.search.is_empty() {
        config.insert("searches".to_owned(), json!(dns.search));
    }
    if !dns.options.is_empty() {
        let options: Vec<Value> = dns
            .options
            .iter()
            .map(|(name, value)| match value {
                Some(value) => json!({ "name": name, "value": value }),
                None => json!({ "name": name }),
            })
            .collect();
        config.insert("options".to_owned(), json!(options));
    }
    (!config.is_empty()).then_some(Value::Object(config))
}

fn pod_security(subject: &Subject<'_>) -> Option<Value> {
    let security = &subject.service.security;
    let mut context = Map::new();
    if !security.groups.is_empty() {
        context.insert("supplementalGroups".to_owned(), json!(security.groups));
    }
    if !security.sysctls.is_empty() {
        let sysctls: Vec<Value> = security
            .sysctls
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        context.insert("sysctls".to_owned(), json!(sysctls));
    }
    (!context.is_empty()).then_some(Value::Object(context))
}
