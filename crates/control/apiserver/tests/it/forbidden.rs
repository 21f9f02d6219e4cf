//! Changes that are refused whoever asks.

use serde_json::{Value, json};

use crate::support::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap()
}

#[tokio::test]
async fn what_is_being_deleted_gets_no_new_finalizers() {
    let client = Client::start().await;
    let held = json!({"metadata": {"name": "m", "finalizers": ["example.com/a", "example.com/b"]}});
    client.post(MAPS, &held).await.expect(201);
    let path = format!("{MAPS}/m");
    client.delete(&path).await.expect(200);
    let more = |all: &[&str]| json!({"metadata": {"finalizers": all}});
    let refused = client.merge(&path, &more(&["example.com/a", "example.com/z"])).await.expect(422);
    assert_eq!(
        message(&refused),
        "ConfigMap \"m\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added \
         if the object is being deleted, found new finalizers []string{\"example.com/z\"}"
    );
    client.merge(&path, &more(&["example.com/b"])).await.expect(200);
    client.merge(&path, &more(&[])).await.expect(200);
    client.get(&path).await.expect(404);
}

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "grows", "resources": {"requests": {"storage": "2Gi"}}}})
}

fn size(text: &str) -> Value {
    json!({"spec": {"resources": {"requests": {"storage": text}}}})
}

#[tokio::test]
async fn claims_grow_if_their_class_allows_it_and_do_not_shrink() {
    let client = Client::start().await;
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    for (name, grows) in [("grows", true), ("stays", false)] {
        let class = json!({"metadata": {"name": name}, "provisioner": "example.com/disks",
            "allowVolumeExpansion": grows});
        client.post(classes, &class).await.expect(201);
    }
    client.post(CLAIMS, &claim("c")).await.expect(201);
    let path = format!("{CLAIMS}/c");
    let refused = client.merge(&path, &size("3Gi")).await.expect(422);
    assert!(message(&refused).contains("spec is immutable after creation except"), "{refused}");
    client.merge(&path, &size("2048Mi")).await.expect(200);
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
    client.merge(&format!("{path}/status"), &bound).await.expect(200);
    let limits = json!({"spec": {"resources": {"limits": {"storage": "9Gi"}}}});
    let refused = client.merge(&path, &limits).await.expect(422);
    assert!(message(&refused).contains("spec is immutable after creation except"), "{refused}");
    let refused = client.merge(&path, &size("1Gi")).await.expect(422);
    assert_eq!(
        message(&refused),
        "PersistentVolumeClaim \"c\" is invalid: spec.resources.requests.storage: Forbidden: field \
         can not be less than status.capacity"
    );
    client.merge(&path, &size("9Gi")).await.expect(200);
    // Nothing gave that much, so less may be asked for; but never what was given or less.
    client.merge(&path, &size("3Gi")).await.expect(200);
    client.merge(&path, &size("2Gi")).await.expect(422);

    let mut fixed = claim("fixed");
    fixed["spec"]["storageClassName"] = "stays".into();
    client.post(CLAIMS, &fixed).await.expect(201);
    let path = format!("{CLAIMS}/fixed");
    client.merge(&format!("{path}/status"), &bound).await.expect(200);
    let refused = client.merge(&path, &size("3Gi")).await.expect(403);
    assert_eq!(
        message(&refused),
        "persistentvolumeclaims \"fixed\" is forbidden: only dynamically provisioned pvc can be \
         resized and the storageclass that provisions the pvc must support resize"
    );
}

#[tokio::test]
async fn a_resize_keeps_the_quality_of_service() {
    let client = Client::start().await;
    let resources = |cpu: &str, most: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": most, "memory": "1Gi"}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "a", "image": "x", "resources": resources("1", "1")}]}});
    let made = client.post(PODS, &pod).await.expect(201);
    assert_eq!(made["status"]["qosClass"], "Guaranteed");
    let resize = |resources: Value| {
        let body = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let client = client.clone();
        async move {
            let kind = "application/strategic-merge-patch+json";
            client.send("PATCH", &format!("{PODS}/p/resize"), kind, body.to_string()).await
        }
    };
    let refused = resize(resources("500m", "1")).await.expect(422);
    assert_eq!(
        message(&refused),
        "Pod \"p\" is invalid: spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a \
         result of resizing"
    );
    let changed = resize(resources("2", "2")).await.expect(200);
    assert_eq!(changed["spec"]["containers"][0]["resources"], resources("2", "2"));
}

#[tokio::test]
async fn a_new_pod_has_nobody_looking_into_it() {
    let client = Client::start().await;
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "a", "image": "x"}],
        "ephemeralContainers": [{"name": "look", "image": "x"}]}});
    let refused = client.post(PODS, &pod).await.expect(422);
    assert_eq!(
        message(&refused),
        "Pod \"p\" is invalid: spec.ephemeralContainers: Forbidden: cannot be set on create"
    );
    let look = pod["spec"].as_object_mut().unwrap().remove("ephemeralContainers").unwrap();
    client.post(PODS, &pod).await.expect(201);
    let look = json!({"spec": {"ephemeralContainers": look}});
    client.merge(&format!("{PODS}/p/ephemeralcontainers"), &look).await.expect(200);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    client.merge(&format!("{PODS}/p"), &label).await.expect(200);
}
