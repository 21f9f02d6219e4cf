//! A container's environment, from all its sources, with `$(NAME)` expanded.

mod file;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
    ServicePort,
};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::config::Cause;
use crate::volume::Volumes;

/// What the downward API can say about a pod.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The pod's address.
    pub address: String,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub node_address: String,
    /// The address of the Service `kubernetes`.
    pub api: Ipv4Addr,
}

/// `NAME=value` entries of a container; the image's come first and are overridden.
pub async fn resolve(
    client: &Client,
    pod: &Pod,
    container: &Container,
    image: &[String],
    facts: &Facts,
    volumes: &Volumes,
) -> Result<Vec<String>, Cause> {
    let mut values: Vec<(String, String)> = Vec::new();
    for entry in image {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(&mut values, name, value.to_owned());
    }
    for (name, value) in api_server(facts.api) {
        set(&mut values, name, value);
    }
    let namespace = pod.namespace().unwrap_or_default();
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true) {
        for (name, value) in service_links(client, &namespace).await? {
            set(&mut values, &name, value);
        }
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut found = BTreeMap::new();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(map) = config_map(client, &namespace, &reference.name, optional).await? {
                found.extend(map.data.unwrap_or_default());
            }
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(secret) =
                self::secret(client, &namespace, &reference.name, optional).await?
            {
                for (name, value) in secret.data.unwrap_or_default() {
                    found.insert(name, String::from_utf8_lossy(&value.0).into_owned());
                }
            }
        }
        for (name, value) in found {
            set(&mut values, &format!("{prefix}{name}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let of_file = variable.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref());
        let value = match of_file {
            Some(selector) => file::value(volumes, selector)?,
            None => variable_value(client, pod, container, variable, facts, &values).await?,
        };
        if let Some(value) = value {
            set(&mut values, &variable.name, value);
        }
    }
    Ok(values.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// Where the Services of the namespace are, as docker's links told it.
async fn service_links(client: &Client, namespace: &str) -> Result<Vec<(String, String)>, Cause> {
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let services = api.list(&ListParams::default()).await.map_err(|error| {
        Cause::create(format!("cannot read the Services: {}", crate::status::chain(&error)))
    })?;
    Ok(services.iter().flat_map(links_of).collect())
}

fn links_of(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.filter(|address| !address.is_empty() && address != "None");
    let ports = spec.ports.unwrap_or_default();
    let (Some(address), Some(first)) = (address, ports.first()) else { return Vec::new() };
    let word = |text: &str| text.to_uppercase().replace('-', "_");
    let name = word(&service.name_any());
    let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let url =
        |port: &ServicePort| format!("{}://{address}:{}", protocol(port).to_lowercase(), port.port);
    let mut links = vec![
        (format!("{name}_SERVICE_HOST"), address.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(first)),
    ];
    for port in &ports {
        if let Some(own) = port.name.as_deref().filter(|own| !own.is_empty()) {
            links.push((format!("{name}_SERVICE_PORT_{}", word(own)), port.port.to_string()));
        }
        let whole = format!("{name}_PORT_{}_{}", port.port, protocol(port));
        links.push((whole.clone(), url(port)));
        links.push((format!("{whole}_PROTO"), protocol(port).to_lowercase()));
        links.push((format!("{whole}_PORT"), port.port.to_string()));
        links.push((format!("{whole}_ADDR"), address.clone()));
    }
    links
}

/// Where clients in pods look for the API server.
fn api_server(address: Ipv4Addr) -> [(&'static str, String); 7] {
    let whole = format!("tcp://{address}:443");
    [
        ("KUBERNETES_SERVICE_HOST", address.to_string()),
        ("KUBERNETES_SERVICE_PORT", "443".to_owned()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443".to_owned()),
        ("KUBERNETES_PORT", whole.clone()),
        ("KUBERNETES_PORT_443_TCP", whole),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp".to_owned()),
        ("KUBERNETES_PORT_443_TCP_PORT", "443".to_owned()),
    ]
}

fn set(values: &mut Vec<(String, String)>, name: &str, value: String) {
    match values.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => entry.1 = value,
        None => values.push((name.to_owned(), value)),
    }
}

async fn variable_value(
    client: &Client,
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    facts: &Facts,
    known: &[(String, String)],
) -> Result<Option<String>, Cause> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
    };
    source_value(client, pod, container, source, facts).await
}

async fn source_value(
    client: &Client,
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    facts: &Facts,
) -> Result<Option<String>, Cause> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional.unwrap_or(false);
        let map = config_map(client, &namespace, &key.name, optional).await?;
        let value = map.and_then(|map| map.data?.remove(&key.key));
        return required(value, optional, "ConfigMap", &key.name, &key.key);
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional.unwrap_or(false);
        let secret = self::secret(client, &namespace, &key.name, optional).await?;
        let value = secret.and_then(|secret| secret.data?.remove(&key.key));
        let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        return required(value, optional, "Secret", &key.name, &key.key);
    }
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, facts).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(pod, Some(container), field).map(Some);
    }
    Err(Cause::config("env[].valueFrom has a source of a kind this node does not support"))
}

fn required(
    value: Option<String>,
    optional: bool,
    kind: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, Cause> {
    if value.is_none() && !optional {
        return Err(Cause::config(format!("{kind} `{name}` has no key `{key}`")));
    }
    Ok(value)
}

/// What a container may use: the one that is named, else the one that asks.
pub fn resource_value(
    pod: &Pod,
    asking: Option<&Container>,
    field: &ResourceFieldSelector,
) -> Result<String, Cause> {
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let mut all = pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let container = match named {
        Some(name) => all.find(|container| container.name == name),
        None => asking,
    };
    let container = container.ok_or_else(|| {
        let name = named.unwrap_or_default();
        Cause::config(format!("there is no container `{name}` to tell the resources of"))
    })?;
    let resources = container.resources.as_ref();
    crate::config::resource_field(resources, field)
}

/// A field of the downward API.
pub fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, Cause> {
    let keyed = |prefix: &str| {
        path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned)
    };
    if let Some(key) = keyed("metadata.labels") {
        return Ok(pod.labels().get(&key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(pod.annotations().get(&key).cloned().unwrap_or_default());
    }
    let lines = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
    };
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => facts.node_address.clone(),
        "status.podIP" | "status.podIPs" => facts.address.clone(),
        other => return Err(Cause::config(format!("`{other}` is not a field a pod can ask for"))),
    })
}

/// Replaces `$(NAME)` by what is known; `$$` is a dollar; an unknown name stays as it is.
pub fn expand(text: &str, known: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'))
        {
            match known.iter().find(|(entry, _)| entry == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    expanded
}

/// A ConfigMap; `None` only where it is optional and absent.
pub async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<ConfigMap>, Cause> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    found(api.get_opt(name).await, optional, "ConfigMap", name)
}

/// A Secret; `None` only where it is optional and absent.
pub async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<Secret>, Cause> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    found(api.get_opt(name).await, optional, "Secret", name)
}

fn found<T>(
    result: Result<Option<T>, kube::Error>,
    optional: bool,
    kind: &str,
    name: &str,
) -> Result<Option<T>, Cause> {
    match result {
        Ok(None) if !optional => Err(Cause::config(format!("there is no {kind} `{name}`"))),
        Ok(object) => Ok(object),
        Err(error) => Err(Cause::config(format!(
            "cannot read {kind} `{name}`: {}",
            crate::status::chain(&error)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn services_are_told_as_links() {
        let service = |spec: serde_json::Value| -> Service {
            let metadata = serde_json::json!({"name": "my-db"});
            serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let ports =
            serde_json::json!([{"name": "sql-rw", "port": 5432}, {"port": 53, "protocol": "UDP"}]);
        let given = service(serde_json::json!({"clusterIP": "10.1.2.3", "ports": ports}));
        let links: BTreeMap<String, String> = links_of(&given).into_iter().collect();
        for (name, value) in [
            ("MY_DB_SERVICE_HOST", "10.1.2.3"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_SQL_RW", "5432"),
            ("MY_DB_PORT", "tcp://10.1.2.3:5432"),
            ("MY_DB_PORT_53_UDP", "udp://10.1.2.3:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.1.2.3"),
        ] {
            assert_eq!(links.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(
            links_of(&service(serde_json::json!({"clusterIP": "None", "ports": ports}))).is_empty()
        );
    }

    #[test]
    fn resources_are_told_in_units_of_the_divisor() {
        let resources =
            serde_json::json!({"limits": {"memory": "100Mi"}, "requests": {"cpu": "1500m"}});
        let containers = serde_json::json!([{"name": "a", "resources": resources}, {"name": "b"}]);
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"spec": {"containers": containers}}))
                .unwrap();
        let own = &pod.spec.as_ref().unwrap().containers[1];
        let told = |container: Option<&str>, resource: &str, divisor: Option<&str>| {
            let field = ResourceFieldSelector {
                container_name: container.map(str::to_owned),
                resource: resource.to_owned(),
                divisor: divisor.map(|text| Quantity(text.to_owned())),
            };
            resource_value(&pod, Some(own), &field).map_err(|cause| cause.message)
        };
        let good = |text: &str| Ok(text.to_owned());
        assert_eq!(told(Some("a"), "limits.memory", None), good("104857600"));
        assert_eq!(told(Some("a"), "limits.memory", Some("1Mi")), good("100"));
        assert_eq!(told(Some("a"), "limits.memory", Some("3Mi")), good("34"));
        assert_eq!(told(Some("a"), "requests.cpu", None), good("2"));
        assert_eq!(told(Some("a"), "requests.cpu", Some("1m")), good("1500"));
        assert_eq!(told(None, "requests.memory", Some("0")), good("0"));
        assert_ne!(told(None, "limits.cpu", None), good("0"));
        assert!(told(Some("c"), "limits.cpu", None).unwrap_err().contains("no container `c`"));
    }

    #[test]
    fn references_expand_once_and_unknown_ones_stay() {
        let known = [("A".to_owned(), "1$(B)".to_owned()), ("B".to_owned(), "2".to_owned())];
        assert_eq!(expand("$(A)-$(B)-$(C)-$$(A)-$x-$(", &known), "1$(B)-2-$(C)-$(A)-$x-$(");
    }
}
