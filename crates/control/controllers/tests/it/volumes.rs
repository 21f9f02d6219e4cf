//! Claims, and the directories behind them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

use crate::support::{Cluster, PATIENCE};

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

#[tokio::test]
async fn a_claim_is_bound_kept_while_used_and_its_directory_removed_at_last() {
    let cluster = Cluster::start().await;
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    cluster.create::<PersistentVolumeClaim>("default", claim).await;
    let pod = json!({
        "metadata": { "name": "db" },
        "spec": {
            "containers": [{ "name": "main", "image": "one" }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
        },
    });
    cluster.create::<Pod>("default", pod).await;
    let bound = cluster
        .until("default", "data", |claim: &PersistentVolumeClaim| phase(claim) == Some("Bound"))
        .await;
    let uid = bound.uid().unwrap();
    assert_eq!(bound.status.unwrap().capacity.unwrap()["storage"].0, "1Gi");
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let name = format!("pvc-{uid}");
    let spec = volumes.get(&name).await.unwrap().spec.unwrap();
    assert_eq!(spec.local.unwrap().path, format!("/volumes/default_data_{uid}"));
    cluster
        .until("default", "db", |pod: &Pod| {
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some("node-a"))
        })
        .await;

    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), "default");
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    assert!(claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some());
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    assert!(pods.get("db").await.is_ok(), "the pod still uses it");
    pods.delete("db", &DeleteParams::default()).await.unwrap();
    let begin = Instant::now();
    while claims.get_opt("data").await.unwrap().is_some() {
        assert!(begin.elapsed() < PATIENCE, "{:#?}", claims.get("data").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The node has yet to remove the directory.
    let gone = |volume: &PersistentVolume| {
        volume.metadata.deletion_timestamp.is_some()
            && volume.annotations().get("berth.dev/reclaim").is_some_and(|what| what == "delete")
    };
    while !gone(&volumes.get(&name).await.unwrap()) {
        assert!(begin.elapsed() < PATIENCE, "{:#?}", volumes.get(&name).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let volume = volumes.get(&name).await.unwrap();
    assert_eq!(volume.finalizers(), ["berth.dev/local-volume"]);
    let done = json!({ "metadata": { "finalizers": null } });
    volumes.patch(&name, &PatchParams::default(), &Patch::Merge(&done)).await.unwrap();
    assert!(volumes.get_opt(&name).await.unwrap().is_none());
}
