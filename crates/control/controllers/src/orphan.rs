//! Pods on nodes that are no more.
//!
//! Nobody is left to confirm their end, so it is confirmed here, a while after the node went: it may only be registering
//! anew.

use std::time::Duration;

use berth_client::{Change, Key, Queue};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tracing::{debug, info};

use crate::context::{Context, or_absent};

const QUARANTINE: Duration = Duration::from_secs(40);

/// Confirms the end of such pods until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    let to = queue.clone();
    context.mirrors.nodes.listen(move |change| {
        if let Change::Gone { old } = change {
            to.push_after(old.name_any(), QUARANTINE);
        }
    });
    let to = queue.clone();
    let nodes = context.mirrors.nodes.clone();
    context.mirrors.pods.listen(move |change| {
        if let Change::Put { new, .. } = change
            && let Some(node) = node_of(new)
            && nodes.get(&Key::new("", node)).is_none()
        {
            to.push_after(node.to_owned(), QUARANTINE);
        }
    });
    context.mirrors.synced().await;
    queue.serve(2, &context.stop, |node| reconcile(&context, node)).await;
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// The pods to be removed because their node is not among those there are.
fn plan(node: &str, exists: bool, pods: &[std::sync::Arc<Pod>]) -> Vec<(Key, String)> {
    let there = pods.iter().filter(|pod| !exists && node_of(pod) == Some(node));
    there.map(|pod| (Key::of(pod.as_ref()), pod.uid().unwrap_or_default())).collect()
}

async fn reconcile(context: &Context, node: String) -> Result<Option<Duration>, kube::Error> {
    let steps = plan(&node, false, &context.mirrors.pods.all());
    if steps.is_empty() || context.mirrors.nodes.get(&Key::new("", &node)).is_some() {
        return Ok(None);
    }
    // The mirror may lag behind; the server itself decides.
    let nodes: Api<Node> = Api::all(context.client.clone());
    if nodes.get_metadata_opt(&node).await?.is_some() {
        return Ok(None);
    }
    info!(%node, pods = steps.len(), "removing the pods of a node that is gone");
    for (pod, uid) in steps {
        debug!(%pod, "removing a pod");
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
        let only = Preconditions { uid: Some(uid), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        or_absent(api.delete(&pod.name, &params.grace_period(0)).await)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn only_pods_of_that_node_and_only_when_it_is_gone() {
        let pod = |name: &str, node: &str| -> Arc<Pod> {
            let pod = json!({
                "metadata": { "name": name, "namespace": "shop" },
                "spec": { "containers": [], "nodeName": node },
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = [pod("p1", "a"), pod("p2", "b"), pod("p3", "")];
        let names = |exists| {
            let steps = plan("a", exists, &pods);
            steps.into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["shop/p1"]);
        assert!(names(true).is_empty());
    }
}
