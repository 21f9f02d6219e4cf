//! What nodes and pods use, from nodes that answer, refuse, hang and are not there.

use std::sync::Arc;

use berth_apiserver::{Body, BoxError, Identity, NodeService, Nodes, Options};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::support::Client;

const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";

/// What the node `good` tells, as soon as it is known.
#[derive(Clone, Default)]
struct Scripted(Arc<std::sync::OnceLock<Value>>);

impl Nodes for Scripted {
    fn connect(&self, node: &str) -> Option<NodeService> {
        let (node, summary) = (node.to_owned(), self.0.clone());
        (node != "lost").then(|| {
            NodeService::new(tower::service_fn(move |request: http::Request<Body>| {
                let (node, summary) = (node.clone(), summary.clone());
                async move {
                    let wanted = "/stats/summary?only_cpu_and_memory=true";
                    assert_eq!(request.uri().to_string(), wanted);
                    if node == "hangs" {
                        std::future::pending::<()>().await;
                    }
                    let text = summary.get().unwrap().to_string();
                    let body = Full::new(bytes::Bytes::from(text)).map_err(|never| match never {});
                    let mut response = http::Response::new(body.boxed_unsync());
                    if node == "refuses" {
                        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                    }
                    Ok::<_, BoxError>(response)
                }
            }))
        })
    }
}

fn used(nano_cores: Option<u64>, memory: u64) -> Value {
    let mut cpu = json!({"time": "2026-01-01T00:00:10Z", "usageCoreNanoSeconds": 1});
    if let Some(rate) = nano_cores {
        cpu["usageNanoCores"] = rate.into();
        cpu["windowNanoSeconds"] = 10_500_000_000_u64.into();
    }
    json!({"cpu": cpu, "memory": {"workingSetBytes": memory}})
}

fn container(name: &str, nano_cores: Option<u64>, memory: u64) -> Value {
    let mut container = used(nano_cores, memory);
    container["name"] = name.into();
    container
}

/// Nodes, and pods on them: `web` and `young` run where an answer comes from.
async fn cluster() -> Client {
    let scripted = Scripted::default();
    let client =
        Client::with(Options { nodes: Arc::new(scripted.clone()), ..Options::default() }).await;
    for node in ["good", "refuses", "hangs", "lost"] {
        let object = json!({"metadata": {"name": node, "labels": {"rack": node}}});
        client.post("/api/v1/nodes", &object).await.expect(201);
    }
    let mut told = Vec::new();
    for (name, node) in [("web", "good"), ("young", "good"), ("dark", "refuses"), ("new", "")] {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}});
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        let made = client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
        let rate = (name == "web").then_some(2_000_000);
        told.push(
            json!({"podRef": {"name": name, "namespace": "default", "uid": made["metadata"]["uid"]},
            "containers": [container("a", Some(1_500_000), 2048), container("b", rate, 1 << 20)]}),
        );
    }
    let node = used(Some(250_000_000), 3 << 20);
    let summary = json!({"node": node, "pods": told});
    scripted.0.set(summary).unwrap();
    client
}

#[tokio::test]
async fn nodes_that_answer_are_told_and_the_others_left_out() {
    let client = cluster().await;
    // The one that hangs is given up by the clock alone.
    tokio::time::pause();
    let list = client.get(NODES).await.expect(200);
    tokio::time::resume();
    assert_eq!(list["kind"], "NodeMetricsList");
    let [node] = list["items"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!(node["metadata"]["name"], "good");
    assert_eq!(node["metadata"]["labels"]["rack"], "good");
    assert_eq!(node["usage"], json!({"cpu": "250000000n", "memory": "3072Ki"}));
    assert_eq!(
        (&node["timestamp"], &node["window"]),
        (&json!("2026-01-01T00:00:10Z"), &json!("10.5s"))
    );
    let none = client.get(&format!("{NODES}?labelSelector=rack=lost")).await.expect(200);
    assert_eq!(none["items"], json!([]));
    let one = client.get(&format!("{NODES}/good")).await.expect(200);
    assert_eq!(one["usage"], node["usage"]);
    let missing = client.get(&format!("{NODES}/lost")).await.expect(404);
    assert_eq!(missing["message"], "nodemetrics.metrics.k8s.io \"lost\" not found");
}

#[tokio::test]
async fn pods_are_told_once_all_their_containers_have_a_rate() {
    let client = cluster().await;
    let list = client.get(PODS).await.expect(200);
    let [pod] = list["items"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!(
        (&pod["kind"], &pod["metadata"]["namespace"]),
        (&json!("PodMetrics"), &json!("default"))
    );
    assert_eq!(
        pod["containers"][0],
        json!({"name": "a", "usage": {"cpu": "1500000n", "memory": "2Ki"}})
    );
    let everywhere = "/apis/metrics.k8s.io/v1beta1/pods?labelSelector=app%20in%20(web,young)";
    assert_eq!(client.get(everywhere).await.expect(200)["items"], list["items"]);
    let by_name = client.get(&format!("{PODS}?fieldSelector=metadata.name=dark")).await;
    assert_eq!(by_name.expect(200)["items"], json!([]));
    for name in ["young", "dark", "new", "nobody"] {
        let missing = client.get(&format!("{PODS}/{name}")).await.expect(404);
        let wanted = format!("podmetrics.metrics.k8s.io \"default/{name}\" not found");
        assert_eq!(missing["message"], wanted.as_str());
    }
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = client.get_as(PODS, accept).await.expect(200);
    let names: Vec<&Value> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(names, ["Name", "cpu", "memory", "Window"]);
    assert_eq!(table["rows"][0]["cells"], json!(["web", "4m", "1026Ki", "10.5s"]));
    client.post(PODS, &json!({"metadata": {"name": "x"}})).await.expect(405);
}

#[tokio::test]
async fn the_group_is_discovered_and_read_by_those_who_may_view() {
    let client = cluster().await;
    let group = client.get("/apis/metrics.k8s.io").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1beta1");
    let resources = client.get("/apis/metrics.k8s.io/v1beta1").await.expect(200);
    let verbs: Vec<&Value> =
        resources["resources"].as_array().unwrap().iter().map(|one| &one["verbs"]).collect();
    assert_eq!(verbs, [&json!(["get", "list"]), &json!(["get", "list"])]);
    let viewer = client.as_user(Identity::new("eve", &["system:authenticated"]));
    viewer.get(PODS).await.expect(403);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"metadata": {"name": "eve"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "eve"}]});
    client.post(roles, &binding).await.expect(201);
    viewer.get(PODS).await.expect(200);
    viewer.get(NODES).await.expect(403);
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregated-metrics-reader";
    let labels = client.get(role).await.expect(200)["metadata"]["labels"].clone();
    for whole in ["view", "edit", "admin"] {
        assert_eq!(labels[format!("rbac.authorization.k8s.io/aggregate-to-{whole}")], "true");
    }
}
