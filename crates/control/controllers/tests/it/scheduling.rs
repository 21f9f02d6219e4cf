//! Pods come to nodes, soon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_client::{Change, Mirror};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use crate::support::{Cluster, pod};

/// When a pod was first seen, and first seen bound.
struct Seen {
    made: Instant,
    bound: Option<Instant>,
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

#[tokio::test]
async fn many_pods_are_bound_at_once_and_each_soon() {
    let cluster = Cluster::start().await;
    let mirror: Mirror<Pod> = Mirror::new();
    let seen: Arc<Mutex<HashMap<String, Seen>>> = Arc::default();
    let log = Arc::clone(&seen);
    mirror.listen(move |change| {
        if let Change::Put { new, .. } = change {
            let mut log = log.lock().unwrap();
            let entry =
                log.entry(new.name_any()).or_insert(Seen { made: Instant::now(), bound: None });
            if is_bound(new) {
                entry.bound.get_or_insert_with(Instant::now);
            }
        }
    });
    let (watched, client, stop) = (mirror.clone(), cluster.client.clone(), cluster.stop.clone());
    tokio::spawn(async move { watched.run(Api::all(client), &stop).await });
    mirror.synced().await;
    let begin = Instant::now();
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let creations = (0..100).map(|i| {
        let (api, pod) =
            (api.clone(), serde_json::from_value(pod(&format!("p{i}"), "10m")).unwrap());
        async move { api.create(&PostParams::default(), &pod).await.unwrap() }
    });
    futures::future::join_all(creations).await;
    cluster
        .until_all("default", |pods: &[Pod]| pods.iter().filter(|pod| is_bound(pod)).count() == 100)
        .await;
    let all = begin.elapsed();
    let seen = seen.lock().unwrap();
    let mut waits: Vec<_> =
        seen.values().filter_map(|seen| Some(seen.bound? - seen.made)).collect();
    waits.sort();
    println!("100 pods bound in {all:?}; half within {:?}", waits[waits.len() / 2]);
    assert!(all < Duration::from_secs(10));
}

#[tokio::test]
async fn what_does_not_fit_says_so_and_is_bound_when_there_is_room() {
    let cluster = Cluster::empty().await;
    cluster.create::<Pod>("default", pod("p", "1")).await;
    let message = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
        (scheduled.reason.as_deref() == Some("Unschedulable")).then(|| scheduled.message.clone())?
    };
    cluster
        .until("default", "p", |pod: &Pod| {
            message(pod).as_deref() == Some("no nodes available to schedule pods")
        })
        .await;
    cluster
        .until_all("default", |events: &[Event]| {
            events.iter().any(|event| event.reason.as_deref() == Some("FailedScheduling"))
        })
        .await;
    cluster.create::<Pod>("default", pod("big", "100")).await;
    cluster.node("node-a").await;
    cluster.until("default", "p", is_bound).await;
    cluster
        .until("default", "big", |pod: &Pod| {
            message(pod).as_deref() == Some("0/1 nodes are available: 1 Insufficient cpu.")
        })
        .await;
    // Room comes with the end of another pod.
    cluster.create::<Pod>("default", pod("first", "6")).await;
    cluster.until("default", "first", is_bound).await;
    cluster.create::<Pod>("default", pod("second", "6")).await;
    cluster.until("default", "second", |pod: &Pod| message(pod).is_some()).await;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    api.delete("first", &kube::api::DeleteParams::default()).await.unwrap();
    cluster.until("default", "second", is_bound).await;
}
