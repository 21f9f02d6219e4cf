//! Pods are bound by a part of them, or by an object of the same name in a collection.

use serde_json::{Value, json};

use crate::hooks;
use crate::support::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";
const BINDINGS: &str = "/api/v1/namespaces/default/bindings";

async fn pod(client: &Client, name: &str) {
    let pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    client.post(PODS, &pod).await.expect(201);
}

fn binding(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}})
}

async fn node_of(client: &Client, name: &str) -> Value {
    client.get(&format!("{PODS}/{name}")).await.expect(200)["spec"]["nodeName"].clone()
}

#[tokio::test]
async fn the_collection_binds_the_pod_of_that_name() {
    let client = Client::start().await;
    pod(&client, "a").await;
    let dry = format!("{BINDINGS}?dryRun=All");
    client.post(&dry, &binding("a", "n")).await.expect(201);
    assert_eq!(node_of(&client, "a").await, Value::Null);
    let made = client.post(BINDINGS, &binding("a", "n")).await.expect(201);
    assert_eq!((&made["kind"], &made["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(node_of(&client, "a").await, "n");
    let bound = client.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    client.post(BINDINGS, &binding("a", "m")).await.expect(409);
    client.post(BINDINGS, &binding("none", "n")).await.expect(404);
    client.post(BINDINGS, &binding("", "n")).await.expect(400);
    // It is answered and not kept, and has no names.
    client.get(BINDINGS).await.expect(405);
    client.get(&format!("{BINDINGS}/a")).await.expect(405);
    client.post(&format!("{BINDINGS}/a"), &binding("a", "n")).await.expect(405);
    let listed = client.get("/api/v1").await.expect(200);
    let mut all = listed["resources"].as_array().unwrap().iter();
    let found = all.find(|it| it["name"] == "bindings").unwrap();
    assert_eq!((&found["kind"], &found["verbs"]), (&json!("Binding"), &json!(["create"])));
}

#[tokio::test]
async fn a_binding_must_be_of_the_pod_in_its_path() {
    let client = Client::start().await;
    pod(&client, "a").await;
    let path = format!("{PODS}/a/binding");
    let refused = client.post(&path, &binding("b", "n")).await.expect(400);
    assert_eq!(refused["message"], "name in URL does not match name in Binding object");
    let mut elsewhere = binding("a", "n");
    elsewhere["metadata"]["namespace"] = "other".into();
    for path in [&path, BINDINGS] {
        let refused = client.post(path, &elsewhere).await.expect(400);
        assert_eq!(
            refused["message"],
            "namespace in URL does not match namespace in Binding object"
        );
    }
    assert_eq!(node_of(&client, "a").await, Value::Null);
}

#[tokio::test]
async fn whoever_judges_bindings_judges_the_collection() {
    let client = Client::start().await;
    pod(&client, "a").await;
    let hook = hooks::Hook::serve(|question| {
        let request = &question["request"];
        let good = request["object"]["target"]["name"] == "good" && request["name"] == "a";
        hooks::review(question, json!({"allowed": good, "status": {"code": 403}}))
    })
    .await;
    let rules = json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/binding"], "operations": ["CREATE"], "scope": "*"}]});
    let rule = hooks::webhook(&hook.config(), &rules);
    hooks::configure(&client, "Validating", "h", vec![rule]).await;
    client.post(BINDINGS, &binding("a", "bad")).await.expect(403);
    client.post(BINDINGS, &binding("a", "good")).await.expect(201);
    assert_eq!(node_of(&client, "a").await, "good");
    // And who may not create bindings may not do it this way.
    let ann = client.as_user(berth_apiserver::Identity::new("ann", &[]));
    pod(&client, "b").await;
    ann.post(BINDINGS, &binding("b", "good")).await.expect(403);
}
