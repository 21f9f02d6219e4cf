//! Requests that several commands share: objects of any kind, rollouts, the last lines of a log.

use berth_client::Follow;
use berth_objects::Scope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams,
};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::failure::{Asking, Doing, Failure};

/// Who owns the fields that the command line sets.
pub const MANAGER: &str = "berth-compose";
/// The label of everything that belongs to a project.
pub const PROJECT: &str = "berth.dev/project";
/// The label of everything that belongs to a service.
pub const SERVICE: &str = "berth.dev/service";
/// The label of what `berth run` makes.
pub const RUN: &str = "berth.dev/run";
/// The label with the name of a container of `berth run`, on everything that belongs to it.
pub const RUN_NAME: &str = "berth.dev/run-name";
/// The annotation that asks the node to end a pod's containers.
pub const STOP: &str = "berth.dev/stop";

/// A kind that the server has, and whether its objects are in namespaces.
pub struct Kind {
    /// For requests.
    pub resource: ApiResource,
    /// Whether a namespace belongs to the name.
    pub namespaced: bool,
}

/// The kind of an object, by its `apiVersion` and `kind`.
pub fn kind(api_version: &str, kind: &str) -> Option<Kind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let found = berth_rules::resources().find(|resource| {
        (resource.group, resource.version, resource.kind) == (group, version, kind)
    })?;
    Some(Kind {
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: found.plural.to_owned(),
        },
        namespaced: found.scope == Scope::Namespaced,
    })
}

impl Kind {
    /// Requests for objects of this kind.
    pub fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

/// What an object is called in messages: `Service votes/web`.
pub fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let separator = if namespace.is_empty() { "" } else { "/" };
    format!("{} {namespace}{separator}{name}", text("/kind"))
}

/// Brings an object to the server, whoever owned its fields before.
pub async fn apply(client: &Client, object: &Value) -> Result<(), Failure> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let title = title(object);
    let unknown =
        || Failure::new(format!("the server has no kind for {title} (`{}`)", text("/apiVersion")));
    let kind = kind(text("/apiVersion"), text("/kind")).ok_or_else(unknown)?;
    let api = kind.api(client, text("/metadata/namespace"));
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(text("/metadata/name"), &params, &Patch::Apply(object)).await;
    applied.map(drop).asking(format!("cannot apply {title}"))
}

/// Deletes an object and what depends on it; without effect if it is gone.
pub async fn delete(
    api: &Api<DynamicObject>,
    name: &str,
    grace: Option<u32>,
) -> Result<(), kube::Error> {
    let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::background() };
    match api.delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// Everything of a kind, in a namespace or in all.
pub async fn list<K>(
    client: &Client,
    namespace: Option<&str>,
    labels: &str,
) -> Result<Vec<K>, Failure>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut params = ListParams::default();
    if !labels.is_empty() {
        params = params.labels(labels);
    }
    let plural = K::plural(&K::DynamicType::default()).into_owned();
    Ok(api.list(&params).await.asking(format!("cannot list {plural}"))?.items)
}

/// Whether all pods of a workload are of its newest version, and available.
pub fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

/// Waits until a workload is as it was asked for.
pub async fn rolled_out(client: &Client, deployment: &Deployment) -> Result<(), Failure> {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut follow = Follow::new(api, only);
    loop {
        follow.changed().await.doing(format!("cannot watch `{name}`"))?;
        // The first list may be older than the change that is waited for.
        let reached = follow.all().any(|now| {
            now.metadata.generation >= deployment.metadata.generation && is_rolled_out(now)
        });
        if reached {
            return Ok(());
        }
        if follow.is_empty() {
            return Err(Failure::new(format!("`{name}` was removed meanwhile")));
        }
    }
}

/// Sets an annotation of a pod.
pub async fn annotate(
    client: &Client,
    pod: &Pod,
    name: &str,
    value: &str,
) -> Result<(), kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { name: value } } }));
    let target = pod.metadata.name.as_deref().unwrap_or_default();
    api.patch(target, &PatchParams::default(), &patch).await.map(drop)
}

/// The last lines of a pod's log; of the run before, if the present one has none. Empty if there is no log.
pub async fn last_lines(client: &Client, pod: &Pod, lines: i64) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for previous in [false, true] {
        let params = LogParams {
            container: container.map(|container| container.name.clone()),
            tail_lines: Some(lines),
            previous,
            ..LogParams::default()
        };
        // It is an explanation of another error, so that its own failure is no news.
        match api.logs(name, &params).await {
            Ok(text) if !text.trim().is_empty() => {
                return text.lines().map(str::to_owned).collect();
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, pod = name, "no log lines"),
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_from_the_servers_table() {
        let deployment = kind("apps/v1", "Deployment").unwrap();
        assert_eq!(
            (deployment.resource.plural.as_str(), deployment.namespaced),
            ("deployments", true)
        );
        assert!(!kind("v1", "Namespace").unwrap().namespaced);
        assert!(kind("v1", "Unknown").is_none());
    }

    #[test]
    fn a_rollout_ends_when_all_pods_are_new_and_available() {
        let deployment = |generation: i64, updated: i32, all: i32, available: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": { "generation": 2 },
                "spec": { "replicas": 2, "selector": {}, "template": {} },
                "status": { "observedGeneration": generation, "updatedReplicas": updated,
                    "replicas": all, "availableReplicas": available },
            }))
            .unwrap()
        };
        assert!(is_rolled_out(&deployment(2, 2, 2, 2)));
        assert!(!is_rolled_out(&deployment(1, 2, 2, 2)));
        assert!(!is_rolled_out(&deployment(2, 2, 3, 2)));
        assert!(!is_rolled_out(&deployment(2, 2, 2, 1)));
    }
}
