//! Deployments and Services, from the object to the endpoints.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::support::{Cluster, deployment, is_done};

#[tokio::test]
async fn a_deployment_comes_to_run_and_its_service_finds_it() {
    let cluster = Cluster::start().await;
    let service = json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
    });
    cluster.create::<Service>("default", service).await;
    cluster.create::<Deployment>("default", deployment("web", "one", 3)).await;
    let done = cluster.until("default", "web", is_done).await;
    assert_eq!(done.annotations()["deployment.kubernetes.io/revision"], "1");
    let slices = cluster
        .until_all("default", |slices: &[EndpointSlice]| {
            slices.iter().any(|slice| slice.endpoints.len() == 3)
        })
        .await;
    let slice = slices.iter().find(|slice| slice.name_any().starts_with("web-")).unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert!(
        slice
            .endpoints
            .iter()
            .all(|endpoint| { endpoint.conditions.as_ref().unwrap().ready == Some(true) })
    );
    let reasons = |events: &[Event], reason: &str| {
        events.iter().filter(|event| event.reason.as_deref() == Some(reason)).count()
    };
    cluster
        .until_all("default", |events: &[Event]| {
            reasons(events, "Scheduled") == 3
                && reasons(events, "SuccessfulCreate") == 3
                && reasons(events, "ScalingReplicaSet") == 1
        })
        .await;
}

#[tokio::test]
async fn nothing_is_made_twice() {
    let cluster = Cluster::start().await;
    for round in 0..5 {
        let name = format!("many{round}");
        cluster.create::<Deployment>("default", deployment(&name, "one", 20)).await;
    }
    for round in 0..5 {
        cluster.until("default", &format!("many{round}"), is_done).await;
    }
    assert_eq!(cluster.list::<Pod>("default").await.len(), 100);
    let events: Vec<Event> = cluster.list("default").await;
    let created = events.iter().filter(|event| event.reason.as_deref() == Some("SuccessfulCreate"));
    assert!(created.count() <= 100);
}

#[tokio::test]
async fn an_update_rolls_and_going_back_reuses_the_old_set() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>("default", deployment("web", "one", 4)).await;
    cluster.until("default", "web", is_done).await;
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), "default");
    for (image, revision) in [("two", "2"), ("one", "3")] {
        let spec = json!({ "containers": [{ "name": "main", "image": image }] });
        let patch = json!({ "spec": { "template": { "spec": spec } } });
        api.patch("web", &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
        cluster
            .until("default", "web", |deployment: &Deployment| {
                let at = deployment.annotations().get("deployment.kubernetes.io/revision");
                is_done(deployment) && at.is_some_and(|at| at == revision)
            })
            .await;
        let pods = cluster.until_all("default", |pods: &[Pod]| pods.len() == 4).await;
        let images = pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone());
        assert!(images.into_iter().all(|found| found.as_deref() == Some(image)));
    }
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 2);
}

#[tokio::test]
async fn scaling_up_and_down() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>("default", deployment("web", "one", 1)).await;
    cluster.until("default", "web", is_done).await;
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), "default");
    for replicas in [6, 2, 0] {
        let patch = json!({ "spec": { "replicas": replicas } });
        api.patch_scale("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        cluster
            .until("default", "web", |deployment: &Deployment| {
                let status = deployment.status.clone().unwrap_or_default();
                status.observed_generation == deployment.metadata.generation
                    && status.replicas.unwrap_or(0) == replicas
                    && status.available_replicas.unwrap_or(0) == replicas
            })
            .await;
        let wanted = usize::try_from(replicas).unwrap();
        cluster.until_all("default", |pods: &[Pod]| pods.len() == wanted).await;
    }
}

#[tokio::test]
async fn a_balancer_has_the_address_of_the_node_or_of_the_annotation() {
    let cluster = Cluster::start().await;
    let service = |name: &str, annotations| {
        json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
        })
    };
    cluster.create::<Service>("default", service("plain", json!({}))).await;
    let local = json!({ "berth.dev/listen-address": "127.0.0.1" });
    cluster.create::<Service>("default", service("local", local)).await;
    for (name, address) in [("plain", "192.0.2.10"), ("local", "127.0.0.1")] {
        cluster
            .until("default", name, |service: &Service| {
                let balancer =
                    service.status.as_ref().and_then(|status| status.load_balancer.clone());
                let ingress = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
                ingress.first().is_some_and(|ingress| ingress.ip.as_deref() == Some(address))
            })
            .await;
    }
}
