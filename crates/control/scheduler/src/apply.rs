//! Carries decisions out. Each step is safe to repeat: binding twice to the same node is refused and changes nothing, and a
//! condition is said with all its words.

use berth_client::Key;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Lets a node run a pod. The pod must still be the one of that uid.
///
/// # Errors
/// When the server refuses or cannot be reached.
pub async fn bind(client: &Client, pod: &Key, uid: &str, node: &str) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let params = PostParams::default();
    let _status: Value = api.create_subresource("binding", &pod.name, &params, &binding).await?;
    Ok(())
}

/// Says in the pod's status why it is not bound.
///
/// # Errors
/// When the server refuses or cannot be reached.
pub async fn refuse(client: &Client, pod: &Key, message: &str) -> Result<Pod, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": Time(Timestamp::now()),
    });
    let patch = json!({ "status": { "conditions": [condition] } });
    api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await
}
