//! How objects go: with their owners, before them, and with their namespace.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

use crate::support::{Cluster, PATIENCE, deployment, is_done};

async fn running(cluster: &Cluster) -> Api<Deployment> {
    cluster.create::<Deployment>("default", deployment("web", "one", 3)).await;
    cluster.until("default", "web", is_done).await;
    Api::namespaced(cluster.client.clone(), "default")
}

#[tokio::test]
async fn in_the_background_all_follow() {
    let cluster = Cluster::start().await;
    let api = running(&cluster).await;
    api.delete("web", &DeleteParams::background()).await.unwrap();
    assert!(api.get_opt("web").await.unwrap().is_none(), "the owner goes at once");
    cluster.until_all("default", |sets: &[ReplicaSet]| sets.is_empty()).await;
    cluster.until_all("default", |pods: &[Pod]| pods.is_empty()).await;
}

#[tokio::test]
async fn in_the_foreground_the_owner_goes_last() {
    let cluster = Cluster::start().await;
    let api = running(&cluster).await;
    api.delete("web", &DeleteParams::foreground()).await.unwrap();
    let begin = Instant::now();
    while api.get_opt("web").await.unwrap().is_some() {
        assert!(begin.elapsed() < PATIENCE, "{:#?}", api.get("web").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(cluster.list::<ReplicaSet>("default").await.is_empty());
    assert!(cluster.list::<Pod>("default").await.is_empty());
}

#[tokio::test]
async fn orphans_stay_behind() {
    let cluster = Cluster::start().await;
    let api = running(&cluster).await;
    api.delete("web", &DeleteParams::orphan()).await.unwrap();
    cluster
        .until_all("default", |sets: &[ReplicaSet]| {
            sets.len() == 1 && sets[0].owner_references().is_empty()
        })
        .await;
    assert!(api.get_opt("web").await.unwrap().is_none());
    assert_eq!(cluster.list::<Pod>("default").await.len(), 3);
    // The same Deployment again takes the set on.
    cluster.create::<Deployment>("default", deployment("web", "one", 3)).await;
    cluster.until("default", "web", is_done).await;
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 1);
    assert_eq!(cluster.list::<Pod>("default").await.len(), 3);
}

#[tokio::test]
async fn a_namespace_begins_with_an_account_and_ends_with_all_it_holds() {
    let cluster = Cluster::start().await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    api.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    cluster.until("shop", "default", |_: &ServiceAccount| true).await;
    cluster
        .until("shop", "kube-root-ca.crt", |map: &ConfigMap| {
            map.data.as_ref().is_some_and(|data| data["ca.crt"] == "the certificate")
        })
        .await;
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "a": "b" } });
    cluster.create::<Secret>("shop", secret).await;
    cluster.create::<Deployment>("shop", deployment("web", "one", 3)).await;
    cluster.until("shop", "web", is_done).await;
    api.delete("shop", &DeleteParams::default()).await.unwrap();
    let begin = Instant::now();
    while let Some(namespace) = api.get_opt("shop").await.unwrap() {
        assert!(begin.elapsed() < PATIENCE, "{namespace:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(cluster.list::<Pod>("shop").await.is_empty());
    assert!(cluster.list::<Secret>("shop").await.is_empty());
    assert!(cluster.list::<ConfigMap>("shop").await.is_empty());
}

#[tokio::test]
async fn what_is_deleted_by_hand_comes_back() {
    let cluster = Cluster::start().await;
    let _api = running(&cluster).await;
    let pods: Vec<Pod> = cluster.list("default").await;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    api.delete(&pods[0].name_any(), &DeleteParams::default()).await.unwrap();
    let gone = pods[0].uid();
    cluster
        .until_all("default", |pods: &[Pod]| {
            pods.len() == 3 && pods.iter().all(|pod| pod.uid() != gone)
        })
        .await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    cluster.until("default", "kube-root-ca.crt", |_: &ConfigMap| true).await;
    let old = maps.get("kube-root-ca.crt").await.unwrap().uid();
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    cluster.until("default", "kube-root-ca.crt", |map: &ConfigMap| map.uid() != old).await;
}
