//! Endpoints written by hand, and the slices that are copies of them.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::Cluster;

fn endpoints(addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({ "metadata": { "name": "db" },
        "subsets": [{ "addresses": addresses, "ports": [{ "name": "sql", "port": 5432 }] }] })
}

/// The addresses in slices, once they are these.
async fn until(cluster: &Cluster, wanted: &[&str]) -> Vec<EndpointSlice> {
    let found = cluster.until_all("default", |slices: &[EndpointSlice]| {
        let slices = slices.iter().filter(|slice| slice.name_any().starts_with("db-"));
        let endpoints = slices.flat_map(|slice| slice.endpoints.iter());
        let mut all: Vec<_> = endpoints.flat_map(|it| it.addresses.iter()).collect();
        all.sort();
        all == wanted
    });
    let mut found = found.await;
    found.retain(|slice| slice.name_any().starts_with("db-"));
    found
}

#[tokio::test]
async fn endpoints_of_a_service_without_a_selector_become_slices() {
    let cluster = Cluster::empty().await;
    cluster.create::<Endpoints>("default", endpoints(&["192.0.2.1", "2001:db8::1"])).await;
    let service = json!({ "metadata": { "name": "db" }, "spec": { "ports": [{ "port": 5432 }] } });
    cluster.create::<Service>("default", service).await;
    let slices = until(&cluster, &["192.0.2.1", "2001:db8::1"]).await;
    assert_eq!(slices.len(), 2, "one for each family");
    let slice = slices.iter().find(|slice| slice.address_type == "IPv4").unwrap();
    let manager = "endpointslicemirroring-controller.k8s.io";
    assert_eq!(slice.labels()["endpointslice.kubernetes.io/managed-by"], manager);
    assert_eq!(slice.labels()["kubernetes.io/service-name"], "db");
    assert_eq!(slice.owner_references()[0].kind, "Endpoints");
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(5432));
    // It is right as it is, and not written again.
    let version = slice.resource_version();

    let api: Api<Endpoints> = Api::namespaced(cluster.client.clone(), "default");
    let note = json!({ "metadata": { "annotations": {
        "endpoints.kubernetes.io/last-change-trigger-time": "now" } } });
    api.patch("db", &PatchParams::default(), &Patch::Merge(&note)).await.unwrap();
    let two = json!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }],
        "notReadyAddresses": [{ "ip": "192.0.2.2" }], "ports": [{ "name": "sql", "port": 5432 }] }] });
    api.patch("db", &PatchParams::default(), &Patch::Merge(&two)).await.unwrap();
    let slices = until(&cluster, &["192.0.2.1", "192.0.2.2"]).await;
    let ready = slices[0].endpoints.iter().map(|it| it.conditions.as_ref().unwrap().ready);
    let ready: Vec<_> = ready.collect();
    assert_eq!(ready, [Some(true), Some(false)]);
    assert_eq!(slices[0].name_any(), slice.name_any(), "changed, not replaced");
    assert_ne!(slices[0].resource_version(), version);

    // A Service that selects pods has slices of its own, and none of these.
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let selector = |app: Value| json!({ "spec": { "selector": app } });
    let patch = selector(json!({ "app": "db" }));
    services.patch("db", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let slices = until(&cluster, &[]).await;
    let ours =
        |slice: &EndpointSlice| slice.labels()["endpointslice.kubernetes.io/managed-by"] == manager;
    assert!(!slices.iter().any(ours), "{slices:?}");
    let patch = selector(Value::Null);
    services.patch("db", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    until(&cluster, &["192.0.2.1", "192.0.2.2"]).await;
    api.delete("db", &DeleteParams::default()).await.unwrap();
    cluster.until_all("default", |slices: &[EndpointSlice]| !slices.iter().any(ours)).await;
}
