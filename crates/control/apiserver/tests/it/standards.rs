//! Pods are held to the standards of their namespace.

use serde_json::{Value, json};

use crate::support::{Answer, Client};

fn pod(name: &str, context: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "a", "image": "x", "securityContext": context }] },
    })
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter();
    all.map(|value| value.to_str().unwrap().to_owned()).collect()
}

async fn namespace(client: &Client, name: &str, labels: Value) -> Answer {
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    client.post("/api/v1/namespaces", &body).await
}

#[tokio::test]
async fn baseline_is_enforced_unless_the_namespace_says_otherwise() {
    let client = Client::start().await;
    let privileged = || pod("p", json!({ "privileged": true }));
    let refused = client.post("/api/v1/namespaces/default/pods", &privileged()).await;
    let message = refused.expect(403)["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"a\" must not \
         set securityContext.privileged=true)"
    );
    client.post("/api/v1/namespaces/default/pods", &pod("p", json!({}))).await.expect(201);
    client.post("/api/v1/namespaces/kube-system/pods", &privileged()).await.expect(201);
    let labels = json!({
        "pod-security.kubernetes.io/enforce": "privileged",
        "pod-security.kubernetes.io/warn": "baseline",
        "pod-security.kubernetes.io/warn-version": "v1.30",
    });
    namespace(&client, "open", labels).await.expect(201);
    let warned = client.post("/api/v1/namespaces/open/pods", &privileged()).await;
    let told = warnings(&warned);
    assert!(told[0].contains("would violate PodSecurity \\\"baseline:v1.30\\\""), "{told:?}");
    warned.expect(201);
}

#[tokio::test]
async fn templates_are_warned_about_and_ephemeral_containers_are_held_to_it() {
    let client = Client::start().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": {
            "selector": { "matchLabels": { "a": "b" } },
            "template": { "metadata": { "labels": { "a": "b" } }, "spec": {
                "hostNetwork": true, "containers": [{ "name": "a", "image": "x" }] } },
        },
    });
    let made = client.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert!(
        warnings(&made)[0].contains("host namespaces (hostNetwork=true)"),
        "{:?}",
        warnings(&made)
    );
    made.expect(201);
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let scaled = client.merge(path, &json!({ "spec": { "replicas": 3 } })).await;
    assert!(warnings(&scaled).is_empty(), "nothing that is judged has changed");
    scaled.expect(200);

    client.post("/api/v1/namespaces/default/pods", &pod("p", json!({}))).await.expect(201);
    let path = "/api/v1/namespaces/default/pods/p/ephemeralcontainers";
    let shell = json!({ "spec": { "ephemeralContainers": [{
        "name": "e", "image": "x", "securityContext": { "privileged": true } }] } });
    let refused =
        client.send("PATCH", path, "application/strategic-merge-patch+json", shell.to_string());
    let message = refused.await.expect(403)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("container \"e\""), "{message}");
}

#[tokio::test]
async fn labels_must_mean_something_and_a_stricter_one_names_who_breaks_it() {
    let client = Client::start().await;
    let wrong =
        namespace(&client, "n", json!({ "pod-security.kubernetes.io/enforce": "none" })).await;
    let message = wrong.expect(422)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("metadata.labels[pod-security.kubernetes.io/enforce]"), "{message}");
    namespace(&client, "n", json!({})).await.expect(201);
    client.post("/api/v1/namespaces/n/pods", &pod("soft", json!({}))).await.expect(201);
    let label =
        json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    let changed = client.merge("/api/v1/namespaces/n", &label).await;
    let told = warnings(&changed).join("\n");
    assert!(told.contains("existing pods in namespace") && told.contains("soft: "), "{told}");
    changed.expect(200);
    let refused = client.post("/api/v1/namespaces/n/pods", &pod("another", json!({}))).await;
    assert!(refused.expect(403)["message"].as_str().unwrap().contains("restricted:latest"));
    // The pod that runs may still be changed where it does not matter.
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    client.merge("/api/v1/namespaces/n/pods/soft", &label).await.expect(200);
}
