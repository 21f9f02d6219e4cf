//! Priority and fairness: who gets a turn, and what the server does not put up with.

use berth_apiserver::Identity;
use serde_json::json;

use crate::support::Client;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn may_read(client: &Client, user: &str) {
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": user}, "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    let folder = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    client.post(folder, &binding).await.expect(201);
}

#[tokio::test]
async fn requests_have_the_level_of_their_schema() {
    let client = Client::start().await;
    may_read(&client, "quiet").await;
    may_read(&client, "noisy").await;
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "jail"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    client.post(&format!("{GROUP}/prioritylevelconfigurations"), &level).await.expect(201);
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": "noise"}, "spec": {"matchingPrecedence": 50,
            "priorityLevelConfiguration": {"name": "jail"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "noisy"}}],
                "resourceRules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"],
                    "namespaces": ["*"]}]}]}});
    let schema = client.post(&format!("{GROUP}/flowschemas"), &schema).await.expect(201);

    let noisy = client.as_user(Identity::new("noisy", &[]));
    let refused = noisy.get(&format!("{NAMESPACE}/pods")).await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.expect(429)["reason"], "TooManyRequests");
    // What the schema does not speak of goes on, as does what others ask.
    let other = noisy.get(&format!("{NAMESPACE}/services")).await;
    let usual = client.get(&format!("{GROUP}/flowschemas/global-default")).await.expect(200);
    let noted = other.headers["x-kubernetes-pf-flowschema-uid"].to_str().unwrap().to_owned();
    assert_eq!(noted, usual["metadata"]["uid"].as_str().unwrap());
    other.expect(200);
    let quiet = client.as_user(Identity::new("quiet", &[]));
    quiet.get(&format!("{NAMESPACE}/pods")).await.expect(200);

    let path = format!("{GROUP}/flowschemas/{}", schema["metadata"]["name"].as_str().unwrap());
    client.delete(&path).await.expect(200);
    noisy.get(&format!("{NAMESPACE}/pods")).await.expect(200);
}

#[tokio::test]
async fn a_level_without_room_lets_wait_and_serves_everybody() {
    let client = Client::start().await;
    may_read(&client, "crowd").await;
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 1, "queueLengthLimit": 200}}}}});
    client.post(&format!("{GROUP}/prioritylevelconfigurations"), &level).await.expect(201);
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": "crowd"}, "spec": {"matchingPrecedence": 50,
            "priorityLevelConfiguration": {"name": "narrow"}, "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "crowd"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "namespaces": ["*"], "clusterScope": true}]}]}});
    client.post(&format!("{GROUP}/flowschemas"), &schema).await.expect(201);
    let crowd = client.as_user(Identity::new("crowd", &[]));
    let path = format!("{NAMESPACE}/pods");
    let all = (0..150).map(|_| crowd.get(&path));
    for answer in futures::future::join_all(all).await {
        answer.expect(200);
    }
}

#[tokio::test]
async fn a_schema_says_whether_its_level_is_there() {
    let client = Client::start().await;
    let schemas = client.get(&format!("{GROUP}/flowschemas")).await.expect(200);
    for schema in schemas["items"].as_array().unwrap() {
        let condition = &schema["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("Dangling"), &json!("False")),
            "{schema}"
        );
    }
    let schema = json!({"metadata": {"name": "lost"}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": "later"}}});
    let made = client.post(&format!("{GROUP}/flowschemas"), &schema).await.expect(201);
    let condition = &made["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("NotFound")));
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("{GROUP}/flowschemas?watch=true&resourceVersion={version}");
    let mut watch = client.watch(&watch).await;
    let level = json!({"metadata": {"name": "later"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    client.post(&format!("{GROUP}/prioritylevelconfigurations"), &level).await.expect(201);
    let found = watch.expect("MODIFIED", "lost").await;
    let condition = &found["object"]["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Found")));
    client.delete(&format!("{GROUP}/prioritylevelconfigurations/later")).await.expect(200);
    let lost = watch.expect("MODIFIED", "lost").await;
    assert_eq!(lost["object"]["status"]["conditions"][0]["status"], "True");
    // With another level the answer says so at once.
    let other = json!({"spec": {"priorityLevelConfiguration": {"name": "system"}}});
    let changed = client.merge(&format!("{GROUP}/flowschemas/lost"), &other).await.expect(200);
    assert_eq!(changed["status"]["conditions"][0]["status"], "False");
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = client.get_as(&format!("{GROUP}/flowschemas"), accept).await.expect(200);
    assert!(!table["rows"].to_string().contains("\"?\""), "{table}");
}
