//! rollout status, history, undo, pause, resume, restart, on revisions written by hand in place of controllers.

use serde_json::{Value, json};

use super::WEB;
use crate::script::Kubectl;

const APPS: &str = "/apis/apps/v1/namespaces/default";

fn replica_set(owner: &Value, revision: u32, image: &str) -> Value {
    json!({"metadata": {
            "name": format!("web-{revision}"),
            "labels": {"app": "web"},
            "annotations": {"deployment.kubernetes.io/revision": revision.to_string(),
                "kubernetes.io/change-cause": format!("take {image}")},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web",
                "uid": owner["metadata"]["uid"], "controller": true}]},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web", "pod-template-hash": revision.to_string()}},
            "spec": {"containers": [{"name": "main", "image": image}]}}}})
}

fn revision(owner: &Value, kind: &str, number: u32, image: &str) -> Value {
    json!({"metadata": {"name": format!("{}-{number}", kind.to_lowercase()),
            "labels": {"app": "set"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "set",
                "uid": owner["metadata"]["uid"], "controller": true}]},
        "revision": number,
        "data": {"spec": {"template": {"$patch": "replace",
            "metadata": {"labels": {"app": "set"}},
            "spec": {"containers": [{"name": "main", "image": image}]}}}}})
}

fn set(kind: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "set"},
        "spec": {"selector": {"matchLabels": {"app": "set"}}, "template": {
            "metadata": {"labels": {"app": "set"}},
            "spec": {"containers": [{"name": "main", "image": "nginx:2"}]}}}})
}

pub async fn rolls_out(kubectl: Kubectl) {
    let network = &kubectl.network;
    let client = &network.client;
    network.file("web.yaml", WEB);
    kubectl.play("$ apply -f web.yaml").await;
    let web = client.get(&format!("{APPS}/deployments/web")).await.expect(200);
    for (number, image) in [(1, "nginx:1.26"), (2, "nginx:1.27")] {
        let set = replica_set(&web, number, image);
        client.post(&format!("{APPS}/replicasets"), &set).await.expect(201);
    }
    for (kind, plural) in [("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")] {
        let owner = client.post(&format!("{APPS}/{plural}"), &set(kind)).await.expect(201);
        for (number, image) in [(1, "nginx:1"), (2, "nginx:2")] {
            let revision = revision(&owner, kind, number, image);
            client.post(&format!("{APPS}/controllerrevisions"), &revision).await.expect(201);
        }
    }
    kubectl
        .play(
            "$ rollout history deploy web
             1         take nginx:1.26
             2         take nginx:1.27
             $ rollout history deploy web --revision=1
             nginx:1.26
             $ rollout undo deploy web
             deployment.apps/web rolled back
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1.26
             $ rollout undo deploy web --to-revision=2
             rolled back
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1.27
             $ rollout pause deploy web
             deployment.apps/web paused
             ! 1 rollout pause deploy web
             already paused
             $ get deploy web -o 'jsonpath={.spec.paused}'
             = true
             $ rollout resume deploy web
             deployment.apps/web resumed
             $ rollout restart deploy web
             deployment.apps/web restarted
             $ get deploy web -o yaml
             kubectl.kubernetes.io/restartedAt
             $ rollout status deploy web --watch=false
             Waiting for deployment spec update to be observed
             $ rollout history sts set
             REVISION  CHANGE-CAUSE
             $ rollout undo sts set
             statefulset.apps/set rolled back
             $ get sts set -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1
             $ rollout undo ds set --to-revision=1
             daemonset.apps/set rolled back
             $ get ds set -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1
             $ rollout restart ds/set sts/set
             daemonset.apps/set restarted
             $ rollout status sts set --watch=false
             Waiting",
        )
        .await;
    kubectl.network.stop().await;
}
