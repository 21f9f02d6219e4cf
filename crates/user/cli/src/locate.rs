//! From the name that people write to pods and workloads: a service, a pod, or a container of `berth run`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;

use crate::cluster::{self, SERVICE};
use crate::failure::Failure;
use crate::{input, words};

/// The pods behind a name.
#[derive(Debug)]
pub struct Located {
    /// Their namespace.
    pub namespace: String,
    /// The service's name in the cluster; none for a single pod.
    pub service: Option<String>,
    /// The pods as they are now, running ones first, then the newest first.
    pub pods: Vec<Pod>,
}

impl Located {
    /// Selects the same pods, and those that come after them.
    pub fn selection(&self) -> kube::runtime::watcher::Config {
        let config = kube::runtime::watcher::Config::default();
        match (&self.service, self.pods.first()) {
            (Some(service), _) => config.labels(&format!("{SERVICE}={service}")),
            (None, Some(pod)) => config.fields(&format!(
                "metadata.name={}",
                pod.metadata.name.as_deref().unwrap_or_default()
            )),
            (None, None) => config,
        }
    }

    /// The one to work with: the first running one.
    pub fn running(&self, name: &str) -> Result<&Pod, Failure> {
        let found = self.pods.iter().find(|pod| is_running(pod));
        found.ok_or_else(|| {
            let states: BTreeSet<String> = self.pods.iter().map(words::status).collect();
            let states: Vec<String> = states.into_iter().collect();
            let state = if states.is_empty() {
                "has no containers".to_owned()
            } else {
                format!("is {}", states.join(", "))
            };
            Failure::new(format!("`{name}` does not run: it {state}"))
                .hint(format!("`berth logs {name}` shows what it wrote"))
        })
    }
}

fn is_running(pod: &Pod) -> bool {
    let state = words::container(pod).and_then(|status| status.state.as_ref());
    pod.metadata.deletion_timestamp.is_none() && state.is_some_and(|state| state.running.is_some())
}

/// As services are called in the cluster.
fn object_name(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Finds pods by the name of a pod, of a service, or of a container.
pub async fn pods(client: &Client, name: &str, project: Option<&str>) -> Result<Located, Failure> {
    let all: Vec<Pod> = cluster::list(client, project, "").await?;
    let context = if project.is_none() { input::project_here() } else { None };
    if let Some(located) = choose(all, name, context.as_deref())? {
        return Ok(located);
    }
    // A service may be there without a container.
    let deployments: Vec<Deployment> = cluster::list(client, project, "").await?;
    if let Some(found) = matching(deployments, name, context.as_deref())? {
        return Ok(Located {
            namespace: found.metadata.namespace.clone().unwrap_or_default(),
            service: label(found.metadata.labels.as_ref()).or(found.metadata.name),
            pods: Vec::new(),
        });
    }
    Err(unknown(name, project))
}

fn unknown(name: &str, project: Option<&str>) -> Failure {
    let place = project.map(|project| format!(" in project `{project}`")).unwrap_or_default();
    Failure::new(format!("there is no service, pod or container called `{name}`{place}"))
        .hint("`berth ps -a` lists all of them")
}

fn label(labels: Option<&std::collections::BTreeMap<String, String>>) -> Option<String> {
    labels?.get(SERVICE).cloned()
}

/// Whether a pod is meant.
type Fits<'f> = &'f dyn Fn(&Pod) -> bool;

/// The best match: the service, then the pod of that name, then a container's name; here before elsewhere.
fn choose(all: Vec<Pod>, name: &str, context: Option<&str>) -> Result<Option<Located>, Failure> {
    let service = object_name(name);
    let called = |pod: &Pod| {
        pod.metadata.name.as_deref() == Some(name) || pod.metadata.name.as_deref() == Some(&service)
    };
    let of_service = |pod: &Pod| label(pod.metadata.labels.as_ref()).as_deref() == Some(&service);
    let contains = |pod: &Pod| {
        pod.spec.as_ref().is_some_and(|spec| spec.containers.iter().any(|one| one.name == name))
    };
    let tests: [(Fits<'_>, bool); 3] = [(&of_service, true), (&called, false), (&contains, false)];
    for (fits, is_service) in tests {
        let mut found: Vec<Pod> = all.iter().filter(|pod| fits(pod)).cloned().collect();
        if found.is_empty() {
            continue;
        }
        let namespaces: BTreeSet<String> =
            found.iter().filter_map(|pod| pod.metadata.namespace.clone()).collect();
        let namespace = one_of(namespaces, name, context)?;
        found.retain(|pod| pod.metadata.namespace.as_deref() == Some(&namespace));
        if !is_service && found.len() > 1 {
            let names: Vec<&str> =
                found.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
            return Err(Failure::new(format!(
                "several pods have a container `{name}`: {}",
                names.join(", ")
            ))
            .hint("say which pod you mean"));
        }
        found.sort_by_key(|pod| {
            (!is_running(pod), std::cmp::Reverse(pod.metadata.creation_timestamp.clone()))
        });
        let service = is_service.then(|| service.clone());
        return Ok(Some(Located { namespace, service, pods: found }));
    }
    Ok(None)
}

fn one_of(
    namespaces: BTreeSet<String>,
    name: &str,
    context: Option<&str>,
) -> Result<String, Failure> {
    if let Some(context) = context
        && namespaces.contains(context)
    {
        return Ok(context.to_owned());
    }
    let listed: Vec<&str> = namespaces.iter().map(String::as_str).collect();
    match listed.as_slice() {
        [only] => Ok((*only).to_owned()),
        many => Err(Failure::new(format!("`{name}` is in several projects: {}", many.join(", ")))
            .hint(format!("say which one with `-p {}`", many.first().unwrap_or(&"NAME")))),
    }
}

fn matching(
    all: Vec<Deployment>,
    name: &str,
    context: Option<&str>,
) -> Result<Option<Deployment>, Failure> {
    let service = object_name(name);
    let mut found: Vec<Deployment> = all
        .into_iter()
        .filter(|one| {
            label(one.metadata.labels.as_ref()).as_deref() == Some(&service)
                || one.metadata.name.as_deref() == Some(name)
        })
        .collect();
    if found.is_empty() {
        return Ok(None);
    }
    let namespaces = found.iter().filter_map(|one| one.metadata.namespace.clone()).collect();
    let namespace = one_of(namespaces, name, context)?;
    found.retain(|one| one.metadata.namespace.as_deref() == Some(&namespace));
    Ok(found.into_iter().next())
}

/// The workload of a service, if it has one.
pub async fn find_workload(
    client: &Client,
    name: &str,
    project: Option<&str>,
) -> Result<Option<Deployment>, Failure> {
    let all: Vec<Deployment> = cluster::list(client, project, "").await?;
    let context = if project.is_none() { input::project_here() } else { None };
    matching(all, name, context.as_deref())
}

/// The workload of a service.
pub async fn workload(
    client: &Client,
    name: &str,
    project: Option<&str>,
) -> Result<Deployment, Failure> {
    let found = find_workload(client, name, project).await?;
    let place = project.map(|project| format!(" in project `{project}`")).unwrap_or_default();
    found.ok_or_else(|| {
        Failure::new(format!("there is no service called `{name}`{place}"))
            .hint("`berth ps -a` lists what there is")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, service: &str, container: &str) -> Pod {
        let labels = if service.is_empty() { json!({}) } else { json!({ SERVICE: service }) };
        serde_json::from_value(json!({
            "metadata": { "namespace": namespace, "name": name, "labels": labels },
            "spec": { "containers": [{ "name": container }] },
        }))
        .unwrap()
    }

    fn found(name: &str, context: Option<&str>) -> String {
        let all = vec![
            pod("shop", "web-1", "web", "web"),
            pod("shop", "web-2", "web", "web"),
            pod("blog", "web-3", "web", "web"),
            pod("default", "lonely", "", "main"),
            pod("default", "other", "", "main"),
            pod("shop", "db-1", "my-db", "my-db"),
        ];
        match choose(all, name, context) {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(located)) => {
                let names: Vec<_> =
                    located.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
                format!("{}: {}", located.namespace, names.join(" "))
            }
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn names_find_services_pods_and_containers() {
        assert_eq!(found("web", Some("shop")), "shop: web-1 web-2");
        assert_eq!(found("web", None), "`web` is in several projects: blog, shop");
        assert_eq!(found("web-3", None), "blog: web-3");
        assert_eq!(found("My_DB", None), "shop: db-1");
        assert_eq!(found("lonely", Some("shop")), "default: lonely");
        assert_eq!(found("main", None), "several pods have a container `main`: lonely, other");
        assert_eq!(found("nobody", None), "nothing");
    }
}
