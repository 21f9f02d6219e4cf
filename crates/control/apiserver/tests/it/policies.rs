//! Admission policies: expressions that refuse and change.

use serde_json::{Value, json};

use crate::support::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// As many entries as three nested loops walk through in a little less than a million steps.
const LONG: usize = 34;
const GROUP: &str = "/apis/admissionregistration.k8s.io";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// A policy about creations and changes of config maps, with a binding of the same name.
async fn policy(client: &Client, kind: &str, name: &str, spec: Value, binding: Value) {
    let version = if kind == "Mutating" { "v1beta1" } else { "v1" };
    let api_version = format!("admissionregistration.k8s.io/{version}");
    let mut whole = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""],
        "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}});
    json_patch::merge(&mut whole, &spec);
    let folder = format!("{GROUP}/{version}/{}admissionpolic", kind.to_lowercase());
    let object = json!({"apiVersion": api_version, "kind": format!("{kind}AdmissionPolicy"),
        "metadata": {"name": name}, "spec": whole});
    client.post(&format!("{folder}ies"), &object).await.expect(201);
    let mut whole = json!({"policyName": name});
    json_patch::merge(&mut whole, &binding);
    let object = json!({"apiVersion": api_version, "kind": format!("{kind}AdmissionPolicyBinding"),
        "metadata": {"name": name}, "spec": whole});
    client.post(&format!("{folder}ybindings"), &object).await.expect(201);
}

fn deny() -> Value {
    json!({"validationActions": ["Deny"]})
}

fn text(answer: &Value) -> &str {
    answer["message"].as_str().unwrap()
}

#[tokio::test]
async fn expressions_refuse() {
    let client = Client::start().await;
    let spec = json!({
        "variables": [
            {"name": "count", "expression": "has(object.data) ? size(object.data) : 0"},
            {"name": "double", "expression": "variables.count * 2"},
            {"name": "unused", "expression": "1 / 0 == 1"}],
        "validations": [
            {"expression": "variables.double < 6",
             "messageExpression": "'has ' + string(variables.count) + ' entries'"},
            {"expression": "!object.metadata.name.startsWith('bad')", "message": "a bad name",
             "reason": "Forbidden"},
            {"expression": "request.operation == 'CREATE' || oldObject.data == object.data"}],
    });
    policy(&client, "Validating", "p", spec, deny()).await;
    client.post(MAPS, &map("good", json!({"a": "b"}))).await.expect(201);
    let refused = client.post(MAPS, &map("many", json!({"a": "", "b": "", "c": ""}))).await;
    let refused = refused.expect(422);
    assert_eq!(
        text(&refused),
        "configmaps \"many\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied \
         request: has 3 entries"
    );
    assert_eq!(refused["reason"], "Invalid");
    let refused = client.post(MAPS, &map("bad", json!({}))).await.expect(403);
    assert!(text(&refused).ends_with("a bad name"), "{refused}");
    let path = format!("{MAPS}/good");
    let refused = client.merge(&path, &json!({"data": {"x": "y"}})).await.expect(422);
    assert!(
        text(&refused).contains("failed expression: request.operation == 'CREATE'"),
        "{refused}"
    );
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    client.merge(&path, &label).await.expect(200);
    let kept = client.get(&format!("{GROUP}/v1/validatingadmissionpolicies/p")).await.expect(200);
    assert_eq!(kept["status"]["observedGeneration"], 1);
}

#[tokio::test]
async fn failures_may_only_warn() {
    let client = Client::start().await;
    let spec = json!({"validations": [{"expression": "false", "message": "never"}]});
    policy(&client, "Validating", "p", spec, json!({"validationActions": ["Warn", "Audit"]})).await;
    let answer = client.post(MAPS, &map("a", json!({}))).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    answer.expect(201);
    assert_eq!(
        warning,
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p': never\""
    );
}

#[tokio::test]
async fn what_cannot_be_evaluated_fails_or_is_ignored() {
    let client = Client::start().await;
    let spec = json!({"validations": [{"expression": "object.data.missing == 'x'"}]});
    policy(&client, "Validating", "strict", spec, deny()).await;
    let refused = client.post(MAPS, &map("a", json!({"b": "c"}))).await.expect(422);
    assert!(text(&refused).contains("resulted in error"), "{refused}");
    let path = format!("{GROUP}/v1/validatingadmissionpolicies/strict");
    client.merge(&path, &json!({"spec": {"failurePolicy": "Ignore"}})).await.expect(200);
    client.post(MAPS, &map("a", json!({"b": "c"}))).await.expect(201);
    client.post(MAPS, &map("b", json!({"missing": "y"}))).await.expect(422);
    // Work without end ends.
    let spec = json!({"validations": [{"expression":
        "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, a + b + c + d != 'x'))))"}]});
    policy(&client, "Validating", "endless", spec, deny()).await;
    let many: serde_json::Map<_, _> = (0..200).map(|n| (format!("k{n}"), json!("v"))).collect();
    let mut object = map("c", Value::Object(many));
    object["data"]["missing"] = "x".into();
    let begin = std::time::Instant::now();
    let refused = client.post(MAPS, &object).await.expect(422);
    assert!(text(&refused).contains("more work"), "{refused}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn broken_expressions_are_refused_with_their_place() {
    let client = Client::start().await;
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "matchConditions": [{"name": "m", "expression": "nobody == 1"}],
            "validations": [{"expression": "object.x ="}]}});
    let refused =
        client.post(&format!("{GROUP}/v1/validatingadmissionpolicies"), &object).await.expect(422);
    let message = text(&refused);
    assert!(message.contains("spec.validations[0].expression: Invalid value"), "{message}");
    assert!(message.contains("spec.matchConditions[0].expression: Invalid value"), "{message}");
    assert!(message.contains("compilation failed"), "{message}");
}

#[tokio::test]
async fn policies_take_parameters() {
    let client = Client::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "no-parameters", "expression": "object.metadata.name != 'limits'"}],
        "validations": [{"expression": "size(object.data) <= int(params.data.most)"}],
    });
    let binding = json!({"validationActions": ["Deny"],
        "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    policy(&client, "Validating", "p", spec, binding).await;
    let refused = client.post(MAPS, &map("a", json!({"x": "y"}))).await.expect(422);
    assert!(text(&refused).contains("no params found"), "{refused}");
    let path = format!("{GROUP}/v1/validatingadmissionpolicybindings/p");
    let allow = json!({"spec": {"paramRef": {"parameterNotFoundAction": "Allow"}}});
    client.merge(&path, &allow).await.expect(200);
    client.post(MAPS, &map("limits", json!({"most": "1"}))).await.expect(201);
    client.post(MAPS, &map("a", json!({"x": "y"}))).await.expect(201);
    client.post(MAPS, &map("b", json!({"x": "y", "z": ""}))).await.expect(422);
    let selected = json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"limit": "yes"}}}}});
    client.merge(&path, &selected).await.expect(200);
    client.post(MAPS, &map("b", json!({"x": "y", "z": ""}))).await.expect(201);
}

#[tokio::test]
async fn what_one_policy_costs_another_need_not_pay() {
    let client = Client::start().await;
    // About nine million steps, of the ten million that a policy has.
    let long = "object.data.all(a, object.data.all(b, object.data.all(c, a + b + c != 'x')))";
    let validations: Vec<_> =
        (0..9).map(|n| json!({"expression": format!("{long} || {n} == 0")})).collect();
    let spec = json!({"validations": validations});
    policy(&client, "Validating", "one", spec.clone(), deny()).await;
    let many: serde_json::Map<_, _> = (0..LONG).map(|n| (format!("k{n}"), json!("v"))).collect();
    let many = Value::Object(many);
    client.post(MAPS, &map("alone", many.clone())).await.expect(201);
    policy(&client, "Validating", "two", spec, deny()).await;
    client.post(MAPS, &map("both", many)).await.expect(201);
}

#[tokio::test]
async fn expressions_ask_who_may_what() {
    let client = Client::start().await;
    let spec = json!({
        "matchConditions": [{"name": "ours", "expression": "namespaceObject.metadata.name == 'default'"}],
        "validations": [{"expression":
            "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()",
            "message": "only who may read secrets"},
            {"expression": "request.userInfo.username in ['admin', 'weak']"}],
    });
    policy(&client, "Validating", "p", spec, deny()).await;
    client.post(MAPS, &map("a", json!({}))).await.expect(201);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "weak"}, "subjects": [{"kind": "User", "name": "weak", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"}});
    let rules = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "maps"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    client.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &rules).await.expect(201);
    client.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &role).await.expect(201);
    let weak = client.as_user(berth_apiserver::Identity::new("weak", &[]));
    let refused = weak.post(MAPS, &map("b", json!({}))).await.expect(422);
    assert!(text(&refused).contains("only who may read secrets"), "{refused}");
}

#[tokio::test]
async fn expressions_change() {
    let client = Client::start().await;
    let spec = json!({
        "reinvocationPolicy": "Never",
        "variables": [{"name": "team", "expression": "'blue'"}],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'team': variables.team}}, data: {'x': object.data.a}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data/seen', value: string(size(object.data))}]"}}],
    });
    policy(&client, "Mutating", "m", spec, json!({})).await;
    let spec = json!({"validations": [{"expression": "object.metadata.labels.team == 'blue'"}]});
    policy(&client, "Validating", "v", spec, deny()).await;
    let made = client.post(MAPS, &map("a", json!({"a": "b"}))).await.expect(201);
    assert_eq!(made["metadata"]["labels"], json!({"team": "blue"}));
    assert_eq!(made["data"], json!({"a": "b", "x": "b", "seen": "2"}));
    let refused = client.post(MAPS, &map("b", json!({}))).await.expect(422);
    assert!(text(&refused).contains("MutatingAdmissionPolicy 'm' with binding 'm'"), "{refused}");
    let changed =
        client.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "c"}})).await.expect(200);
    assert_eq!(changed["data"]["x"], "c");
}
