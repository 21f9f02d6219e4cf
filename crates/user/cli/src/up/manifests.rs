//! `berth up` with Kubernetes manifests: applied as they are, and waited for. Nothing is added to them and nothing that is
//! not in them is removed, so that the same files do the same with kubectl.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::wait::{Goal, last_unhealthy};
use super::{Condition, diagnosis};
use crate::cluster::{self, MANAGER};
use crate::failure::{Asking, Failure};
use crate::progress::Waiting;
use crate::screen;

/// Applies objects and waits for their Deployments.
pub async fn up(
    client: &Client,
    mut objects: Vec<Value>,
    namespace: Option<String>,
    dry_run: bool,
    timeout: Duration,
) -> Result<u8, Failure> {
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    place(&mut objects, &namespace);
    // What others live in comes first.
    objects.sort_by_key(|object| object["kind"] != "Namespace");
    if dry_run {
        for object in &objects {
            check(client, object).await?;
            screen::line(format!("{} would be applied", cluster::title(object)));
        }
        return Ok(0);
    }
    let mut deployments = Vec::new();
    for object in &objects {
        cluster::apply(client, object).await?;
        screen::note(format!("{} applied", cluster::title(object)));
        if object["kind"] == "Deployment" {
            deployments.push(object);
        }
    }
    let mut waiting = Waiting::new();
    let deadline = tokio::time::Instant::now() + timeout;
    for object in deployments {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let deployment = api.get(name).await.asking(format!("cannot read `{name}`"))?;
        waiting.on(&format!("waiting for {name}"));
        match tokio::time::timeout_at(deadline, cluster::rolled_out(client, &deployment)).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(late(client, namespace, &deployment, timeout).await),
        }
        waiting.reached(&format!("{name}: ready"));
    }
    Ok(0)
}

/// Objects without a namespace go to this one.
fn place(objects: &mut [Value], namespace: &str) {
    for object in objects {
        let text =
            |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespaced =
            cluster::kind(&text("apiVersion"), &text("kind")).is_some_and(|kind| kind.namespaced);
        if namespaced && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(namespace);
        }
    }
}

/// Has the server judge an object without storing it.
async fn check(client: &Client, object: &Value) -> Result<(), Failure> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let title = cluster::title(object);
    let kind = cluster::kind(text("/apiVersion"), text("/kind"))
        .ok_or_else(|| Failure::new(format!("the server has no kind for {title}")))?;
    let params = PatchParams::apply(MANAGER).force().dry_run();
    let api = kind.api(client, text("/metadata/namespace"));
    let outcome = api.patch(text("/metadata/name"), &params, &Patch::Apply(object)).await;
    outcome.map(drop).asking(format!("cannot apply {title}"))
}

async fn late(
    client: &Client,
    namespace: &str,
    deployment: &Deployment,
    timeout: Duration,
) -> Failure {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let selector = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.match_labels.clone())
        .unwrap_or_default();
    let labels: Vec<String> =
        selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let pods: Vec<Pod> = match cluster::list(client, Some(namespace), &labels.join(",")).await {
        Ok(pods) => pods,
        Err(failure) => return failure,
    };
    let events: Vec<Event> = match cluster::list(client, Some(namespace), "").await {
        Ok(events) => events,
        Err(failure) => return failure,
    };
    let events: Vec<&Event> = events.iter().collect();
    let goal = Goal {
        service: name.clone(),
        object: name,
        template: None,
        once: false,
        condition: Condition::Healthy,
        required: true,
    };
    let not_ready = |pod: &&Pod| {
        last_unhealthy(pod, &events).is_some() || !crate::words::status(pod).starts_with("running")
    };
    let pod = pods.iter().find(not_ready).or(pods.first());
    let why = format!("not ready after {}", humantime::format_duration(timeout));
    diagnosis::explain(client, namespace, &goal, &why, pod, &events).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_get_a_namespace_where_they_need_one() {
        let mut objects = [
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" } }),
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "b", "namespace": "x" } }),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "x" } }),
        ];
        place(&mut objects, "shop");
        let shown: Vec<_> =
            objects.iter().map(|object| object["metadata"]["namespace"].clone()).collect();
        assert_eq!(shown, [json!("shop"), json!("x"), Value::Null]);
    }
}
