//! Evictions against budgets, with everything in between.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{EvictParams, ResourceExt};
use kube::{Api, Client};
use serde_json::json;

use crate::support::{Cluster, deployment, is_done};

async fn evict(client: &Client, pod: &str) -> Result<(), u16> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    match api.evict(pod, &EvictParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error}"),
    }
}

fn allowed(budget: &PodDisruptionBudget) -> Option<i32> {
    let status = budget.status.as_ref()?;
    let current = status.observed_generation == budget.metadata.generation;
    current.then_some(status.disruptions_allowed)
}

#[tokio::test]
async fn one_pod_goes_at_a_time() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>("default", deployment("web", "one", 3)).await;
    cluster.until::<Deployment>("default", "web", is_done).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>("default", budget).await;
    let is_one = |budget: &PodDisruptionBudget| allowed(budget) == Some(1);
    for _ in 0..3 {
        // Every evicted pod is replaced, and only then the next one may go.
        let budget =
            cluster.until::<PodDisruptionBudget>("default", "web", is_one).await.status.unwrap();
        assert_eq!((budget.expected_pods, budget.desired_healthy), (3, 2));
        let pods = cluster.list::<Pod>("default").await;
        let running: Vec<_> =
            pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        assert_eq!(evict(&cluster.client, &running[0].name_any()).await, Ok(()));
    }
    cluster.until::<PodDisruptionBudget>("default", "web", is_one).await;
}

#[tokio::test]
async fn nothing_goes_where_nothing_is_to_spare() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>("default", deployment("web", "one", 2)).await;
    cluster.until::<Deployment>("default", "web", is_done).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": "100%", "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>("default", budget).await;
    let is_none = |budget: &PodDisruptionBudget| {
        allowed(budget) == Some(0) && budget.status.as_ref().unwrap().current_healthy == 2
    };
    cluster.until::<PodDisruptionBudget>("default", "web", is_none).await;
    let pods = cluster.list::<Pod>("default").await;
    assert_eq!(evict(&cluster.client, &pods[0].name_any()).await, Err(429));
    assert_eq!(cluster.list::<Pod>("default").await.len(), 2);
}
