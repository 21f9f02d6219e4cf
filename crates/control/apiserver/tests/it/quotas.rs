//! Quotas, limit ranges and default classes.

use serde_json::{Value, json};

use crate::support::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn pod(name: &str, resources: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "x", "resources": resources}]}})
}

fn quota(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec})
}

async fn used(client: &Client, name: &str) -> Value {
    client.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

#[tokio::test]
async fn a_quota_counts_what_comes_and_goes() {
    let client = Client::start().await;
    let cpu = |text: &str| json!({"requests": {"cpu": text}});
    client.post(PODS, &pod("before", cpu("500m"))).await.expect(201);
    let spec = json!({"hard": {"pods": "3", "requests.cpu": "1", "count/configmaps": "2",
        "count/deployments.apps": "1", "services.nodeports": "1"}});
    let made = client.post(QUOTAS, &quota("q", spec)).await.expect(201);
    assert_eq!(made["status"]["used"]["pods"], "1", "what was there counts");

    let refused = client.post(PODS, &pod("much", cpu("501m"))).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"much\" is forbidden: exceeded quota: q, requested: requests.cpu=501m, used: \
         requests.cpu=500m, limited: requests.cpu=1"
    );
    let refused = client.post(PODS, &pod("unsaid", json!({}))).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"unsaid\" is forbidden: failed quota: q: must specify requests.cpu for: a"
    );
    let dry = format!("{PODS}?dryRun=All");
    client.post(&dry, &pod("dry", cpu("100m"))).await.expect(201);
    client.post(PODS, &pod("fits", cpu("500m"))).await.expect(201);
    let expected = json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "0",
        "count/deployments.apps": "0", "services.nodeports": "0"});
    assert_eq!(used(&client, "q").await, expected);

    // A pod that has ended takes nothing, and one that is gone neither.
    let status = json!({"status": {"phase": "Succeeded"}});
    client.merge(&format!("{PODS}/before/status"), &status).await.expect(200);
    assert_eq!(used(&client, "q").await["requests.cpu"], "500m");
    client.delete(&format!("{PODS}/fits")).await.expect(200);
    assert_eq!(used(&client, "q").await["pods"], "0");
    client.delete(&format!("{PODS}/before")).await.expect(200);
    assert_eq!(used(&client, "q").await["pods"], "0");

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "ClusterIP", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}});
    let services = "/api/v1/namespaces/default/services";
    client.post(services, &service).await.expect(201);
    let path = format!("{services}/s");
    let refused = client.merge(&path, &json!({"spec": {"type": "NodePort"}})).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("requested: services.nodeports=2"));

    let more = json!({"spec": {"hard": {"services.nodeports": "2"}}});
    let changed = client.merge(&format!("{QUOTAS}/q"), &more).await.expect(200);
    assert_eq!(changed["status"]["hard"]["services.nodeports"], "2");
    client.merge(&path, &json!({"spec": {"type": "NodePort"}})).await.expect(200);
    assert_eq!(used(&client, "q").await["services.nodeports"], "2");
}

#[tokio::test]
async fn a_dry_run_counts_but_writes_no_count() {
    let client = Client::start().await;
    client.post(QUOTAS, &quota("q", json!({"hard": {"pods": "1"}}))).await.expect(201);
    // As if nobody had counted yet.
    let path = format!("{QUOTAS}/q");
    let blank = json!({"status": {"used": null}});
    let before = client.merge(&format!("{path}/status"), &blank).await.expect(200);
    assert_eq!(before["status"].get("used"), None, "{before}");
    let revision = client.server_revision();
    let dry = format!("{PODS}?dryRun=All");
    client.post(&dry, &pod("a", json!({}))).await.expect(201);
    assert_eq!(client.server_revision(), revision, "nothing was written");
    assert_eq!(client.get(&path).await.expect(200), before);
    client.post(PODS, &pod("a", json!({}))).await.expect(201);
    client.merge(&format!("{path}/status"), &blank).await.expect(200);
    let refused = client.post(&dry, &pod("b", json!({}))).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("used: pods=1"), "{refused}");
}

#[tokio::test]
async fn nobody_gets_the_last_place_twice() {
    let client = Client::start().await;
    client.post(QUOTAS, &quota("q", json!({"hard": {"count/configmaps": "5"}}))).await.expect(201);
    let racing = (0..20).map(|number| {
        let client = client.clone();
        async move {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("m{number}")}});
            client.post("/api/v1/namespaces/default/configmaps", &map).await.code
        }
    });
    let codes = futures::future::join_all(racing).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 15, "{codes:?}");
    assert_eq!(used(&client, "q").await["count/configmaps"], "5");
    client.delete("/api/v1/namespaces/default/configmaps").await.expect(200);
    assert_eq!(used(&client, "q").await["count/configmaps"], "0");
}

#[tokio::test]
async fn quotas_have_scopes() {
    let client = Client::start().await;
    let spec = json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]});
    client.post(QUOTAS, &quota("best", spec)).await.expect(201);
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 10});
    client.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.expect(201);
    let spec = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
    client.post(QUOTAS, &quota("class", spec)).await.expect(201);
    client.post(PODS, &pod("a", json!({}))).await.expect(201);
    client.post(PODS, &pod("b", json!({}))).await.expect(403);
    let sized = json!({"requests": {"cpu": "1"}});
    client.post(PODS, &pod("c", sized.clone())).await.expect(201);
    let mut high = pod("d", sized);
    high["spec"]["priorityClassName"] = "high".into();
    let refused = client.post(PODS, &high).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("exceeded quota: class"), "{refused}");
}

#[tokio::test]
async fn limit_ranges_fill_in_and_hold() {
    let client = Client::start().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
         "min": {"cpu": "50m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "5"}},
        {"type": "Pod", "max": {"cpu": "1200m"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}});
    client.post("/api/v1/namespaces/default/limitranges", &range).await.expect(201);
    let made = client.post(PODS, &pod("usual", json!({}))).await.expect(201);
    let container = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*container, json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}}));
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; cpu limit for container a"
    );
    let refused = |answer: Value| answer["message"].as_str().unwrap().to_owned();
    let little = json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "60m"}});
    let message = refused(client.post(PODS, &pod("little", little)).await.expect(403));
    assert!(
        message.contains("minimum cpu usage per Container is 50m, but request is 20m"),
        "{message}"
    );
    let much = json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "2"}});
    let message = refused(client.post(PODS, &pod("much", much)).await.expect(403));
    assert!(message.contains("maximum cpu usage per Container is 1, but limit is 2"), "{message}");
    assert!(message.contains("cpu max limit to request ratio per Container is 5"), "{message}");
    assert!(message.contains("maximum cpu usage per Pod is 1200m"), "{message}");
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let message = refused(client.post(claims, &claim).await.expect(403));
    assert!(
        message.contains("maximum storage usage per PersistentVolumeClaim is 2Gi"),
        "{message}"
    );
}

#[tokio::test]
async fn claims_get_the_default_class() {
    let client = Client::start().await;
    let class = |name: &str, default: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x/y",
            "metadata": {"name": name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
    };
    let claim = |name: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let without = client.post(claims, &claim("a")).await.expect(201);
    assert!(without["spec"].get("storageClassName").is_none());
    client.post(classes, &class("other", "false")).await.expect(201);
    client.post(classes, &class("usual", "true")).await.expect(201);
    let made = client.post(claims, &claim("b")).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "usual");
    let mut none = claim("c");
    none["spec"]["storageClassName"] = "".into();
    let made = client.post(claims, &none).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "");
}
