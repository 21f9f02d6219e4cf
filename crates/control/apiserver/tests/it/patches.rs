//! Patches, server-side apply and field validation, exactly.

use serde_json::{Value, json};

use crate::support::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}});
    json_patch::merge(&mut object, &json!({"spec": spec}));
    object
}

fn with(containers: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": containers}}}))
}

fn names(object: &Value) -> Vec<&str> {
    let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    list.iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn doubled_fields_are_errors_warnings_or_nothing() {
    let client = Client::start().await;
    let json = r#"{"metadata": {"name": "a"}, "data": {"k": "1", "k": "2"}, "extra": 1}"#;
    let yaml = "metadata: {name: a}\ndata:\n  k: '1'\n  k: '2'\nextra: 1\n";
    for (kind, body) in [("application/json", json), ("application/yaml", yaml)] {
        let path = |validation: &str| format!("{MAPS}?dryRun=All&fieldValidation={validation}");
        let strict = client.send("POST", &path("Strict"), kind, body).await.expect(400);
        assert_eq!(
            strict["message"],
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
             duplicate field \"data.k\", unknown field \"extra\""
        );
        let warned = client.send("POST", &path("Warn"), kind, body).await;
        let warnings: Vec<_> =
            warned.headers.get_all("warning").iter().map(|text| text.to_str().unwrap()).collect();
        assert_eq!(
            warnings,
            [r#"299 - "duplicate field \"data.k\"""#, r#"299 - "unknown field \"extra\"""#]
        );
        assert_eq!(warned.expect(201)["data"], json!({"k": "2"}), "the last one counts");
        let ignored = client.send("POST", &path("Ignore"), kind, body).await;
        assert!(!ignored.headers.contains_key("warning"));
        ignored.expect(201);
    }
    client.send("POST", MAPS, "application/json", json).await.expect(201);
    let patch = r#"{"data": {"k": "3", "k": "4"}}"#;
    let path = format!("{MAPS}/a?fieldValidation=Strict");
    for kind in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        let refused = client.send("PATCH", &path, kind, patch).await.expect(400);
        assert!(refused["message"].as_str().unwrap().contains("duplicate field \"data.k\""));
    }
    let applied = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: x\n  k: y\n";
    let path = format!("{path}&fieldManager=m");
    client.send("PATCH", &path, "application/apply-patch+yaml", applied).await.expect(400);
}

#[tokio::test]
async fn what_is_no_longer_applied_goes_with_what_was_filled_in() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let both = with(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]));
    client.apply(&path, "one", false, &both).await.expect(201);
    let left = client.apply(&path, "one", false, &with(json!([{"name": "b", "image": "y"}]))).await;
    let left = left.expect(200);
    assert_eq!(names(&left), ["b"], "defaults of the other went with it");
    let moved = with(json!([{"name": "c", "image": "z"}, {"name": "b", "image": "y"}]));
    let moved = client.apply(&path, "one", false, &moved).await.expect(200);
    assert_eq!(names(&moved), ["c", "b"], "in the order of the configuration");
}

#[tokio::test]
async fn what_two_applied_stays_until_both_let_go() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let base = with(json!([{"name": "a", "image": "x"}]));
    let mut extended = base.clone();
    extended["metadata"]["annotations"] = json!({"note": "shared", "own": "one"});
    extended["spec"]["replicas"] = json!(3);
    client.apply(&path, "one", false, &extended).await.expect(201);
    let mut second = base.clone();
    second["metadata"]["annotations"] = json!({"note": "shared"});
    second["spec"]["replicas"] = json!(3);
    client.apply(&path, "two", false, &second).await.expect(200);

    let after = client.apply(&path, "one", false, &base).await.expect(200);
    assert_eq!(after["metadata"]["annotations"], json!({"note": "shared"}));
    assert_eq!(after["spec"]["replicas"], 3);
    let after = client.apply(&path, "two", false, &base).await.expect(200);
    assert!(after["metadata"].get("annotations").is_none());
    assert_eq!(after["spec"]["replicas"], 1, "back to the default");
    let after = client.apply(&path, "three", false, &base).await.expect(200);
    let managers = after["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers.len(), 3);
}

#[tokio::test]
async fn conflicts_name_everybody_and_every_field() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object =
        with(json!([{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}]));
    object["spec"]["replicas"] = json!(2);
    client.apply(&path, "one", false, &object).await.expect(201);
    client.merge(&path, &json!({"spec": {"minReadySeconds": 5}})).await.expect(200);
    let mut other =
        with(json!([{"name": "a", "image": "z", "env": [{"name": "E", "value": "2"}]}]));
    other["spec"]["replicas"] = json!(4);
    other["spec"]["minReadySeconds"] = json!(6);
    let refused = client.apply(&path, "two", false, &other).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 4 conflicts: conflicts with \"one\":\n- .spec.replicas\n\
         - .spec.template.spec.containers[name=\"a\"].env[name=\"E\"].value\n\
         - .spec.template.spec.containers[name=\"a\"].image\n\
         conflicts with \"test\" using apps/v1:\n- .spec.minReadySeconds"
    );
    assert_eq!(refused["details"]["causes"].as_array().unwrap().len(), 4);
    assert!(
        refused["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|cause| cause["reason"] == "FieldManagerConflict")
    );
    let forced = client.apply(&path, "two", true, &other).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 4);
    // The first still owns what the second did not touch, and lets go of the rest in peace.
    client.apply(&path, "one", false, &with(json!([{"name": "a"}]))).await.expect(200);
    let kept = client.get(&path).await.expect(200);
    assert_eq!(kept["spec"]["template"]["spec"]["containers"][0]["image"], "z");
}

#[tokio::test]
async fn status_is_applied_apart() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object = with(json!([{"name": "a", "image": "x"}]));
    object["status"] = json!({"replicas": 9});
    let created = client.apply(&path, "one", false, &object).await.expect(201);
    assert!(created["status"].get("replicas").is_none());
    let mut status = with(json!([{"name": "other", "image": "y"}]));
    status["status"] = json!({"replicas": 3,
        "conditions": [{"type": "Available", "status": "True"}]});
    let applied = client.apply(&format!("{path}/status"), "two", false, &status).await.expect(200);
    assert_eq!((names(&applied), &applied["status"]["replicas"]), (vec!["a"], &json!(3)));
    let managers = applied["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers[1]["subresource"], "status");
    assert_eq!(
        managers[1]["fieldsV1"],
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"Available\"}": {
            ".": {}, "f:status": {}, "f:type": {}}}, "f:replicas": {}}})
    );
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "status": {"conditions": [{"type": "Progressing", "status": "True"}]}});
    let both = client.apply(&format!("{path}/status"), "three", false, &other).await.expect(200);
    assert_eq!(both["status"]["conditions"].as_array().unwrap().len(), 2);
    let less = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "status": {"replicas": 3}});
    let less = client.apply(&format!("{path}/status"), "two", false, &less).await.expect(200);
    assert_eq!(less["status"]["conditions"][0]["type"], "Progressing");
}

#[tokio::test]
async fn kubectl_takes_over_from_its_own_side() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object = with(json!([{"name": "a", "image": "x"}]));
    let last = format!("{object}\n");
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let create = format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply");
    client.post(&create, &object).await.expect(201);
    let next = with(json!([{"name": "a", "image": "y"}]));
    client.apply(&path, "somebody", false, &next).await.expect(409);
    let applied = client.apply(&path, "kubectl", false, &next).await.expect(200);
    let note =
        &applied["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(note.as_str().unwrap().contains("\"image\":\"y\""), "{note}");
    // What somebody else changed since then is not kubectl's to take.
    let change = json!({"spec": {"replicas": 7}});
    client.merge(&path, &change).await.expect(200);
    let mut more = next.clone();
    more["spec"]["replicas"] = json!(2);
    client.apply(&path, "kubectl", false, &more).await.expect(409);
}

#[tokio::test]
async fn apply_asks_for_what_it_needs() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let object = with(json!([{"name": "a", "image": "x"}]));
    let kind = "application/apply-patch+yaml";
    client.send("PATCH", &path, kind, object.to_string()).await.expect(400);
    let mut managed = object.clone();
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    client.apply(&path, "one", false, &managed).await.expect(400);
    let mut other = object.clone();
    other["metadata"]["name"] = json!("other");
    client.apply(&path, "one", false, &other).await.expect(400);
    let created = client.apply(&path, "one", false, &object).await.expect(201);
    let mut stale = object.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    client.apply(&path, "one", false, &stale).await.expect(409);
    stale["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    client.apply(&path, "one", false, &stale).await.expect(200);
    let mut foreign = object;
    foreign["metadata"]["uid"] = json!("another");
    client.apply(&path, "one", false, &foreign).await.expect(409);
}
