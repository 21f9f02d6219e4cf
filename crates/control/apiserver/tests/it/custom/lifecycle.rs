//! From the definition to the deletion of everything.

use berth_apiserver::{ApiServer, Options};
use berth_store::Memory;
use serde_json::{Value, json};
use std::sync::Arc;

use super::{DEFINITIONS, WIDGETS, define, usual, widget, widgets};
use crate::support::Client;

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a str {
    let conditions = definition["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|it| it["type"] == kind);
    found.map_or("", |it| it["status"].as_str().unwrap())
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let client = Client::start().await;
    client.get(WIDGETS).await.expect(404);
    let made = define(&client, &widgets(&usual())).await;
    assert_eq!(condition(&made, "NamesAccepted"), "True");
    assert_eq!(condition(&made, "Established"), "True");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["status"]["acceptedNames"]["singular"], "widget");
    assert_eq!(made["spec"]["conversion"]["strategy"], "None");
    let list = client.get("/apis/example.com/v1").await.expect(200);
    let names: Vec<_> =
        list["resources"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    let group = client.get("/apis/example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = client.get_as("/apis", accept).await.expect(200);
    let items = all["items"].as_array().unwrap();
    assert!(items.iter().any(|it| it["metadata"]["name"] == "example.com"));
    let index = client.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = client.get(url).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["minimum"], 0);
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let old = client.get("/openapi/v2").await.expect(200);
    assert!(old["definitions"]["com.example.v1.Widget"]["properties"]["spec"].is_object());
    let again = client.post(DEFINITIONS, &widgets(&usual())).await;
    assert_eq!(again.code, 409);
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    let made = client.post(WIDGETS, &widget("a", json!({"color": "green"}))).await.expect(201);
    assert_eq!(made["spec"], json!({"color": "green", "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{WIDGETS}/a");
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = client.watch(&format!("{WIDGETS}?watch=1&resourceVersion={version}")).await;
    let red = json!({"spec": {"color": "red"}, "status": {"phase": "x"}});
    let changed = client.merge(&path, &red).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(changed.get("status"), None, "the status has a path of its own");
    watch.expect("MODIFIED", "a").await;
    let status = json!({"status": {"phase": "done", "selector": "a=b", "replicas": 1}, "spec": {"color": "green"}});
    let changed = client.merge(&format!("{path}/status"), &status).await.expect(200);
    assert_eq!(changed["spec"]["color"], "red");
    assert_eq!(changed["metadata"]["generation"], 2);
    let wrong = client.merge(&format!("{path}/status"), &json!({"status": {"phase": 5}})).await;
    let wrong = wrong.expect(422);
    assert!(wrong["message"].as_str().unwrap().contains("status.phase"), "{wrong}");
    let scale = client.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
    let scaled = client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 4}})).await;
    assert_eq!(scaled.expect(200)["spec"]["replicas"], 4);
    assert_eq!(client.get(&path).await.expect(200)["spec"]["replicas"], 4);
    client.post(WIDGETS, &widget("b", json!({"color": "green"}))).await.expect(201);
    let green =
        client.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dgreen")).await.expect(200);
    assert_eq!(green["kind"], "WidgetList");
    assert_eq!(green["items"][0]["metadata"]["name"], "b");
    assert_eq!(green["items"].as_array().unwrap().len(), 1);
    client.get(&format!("{WIDGETS}?fieldSelector=spec.replicas%3D1")).await.expect(400);
    let table = client.get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let table = table.expect(200);
    let names: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["Name", "Color", "Wide", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("a"), json!("red"), json!(4)]
    );
    client.delete(&path).await.expect(200);
    client.get(&path).await.expect(404);
}

#[tokio::test]
async fn other_bodies_are_refused() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    client.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let path = format!("{WIDGETS}/a");
    let strategic = "application/strategic-merge-patch+json";
    client.send("PATCH", &path, strategic, "{}").await.expect(415);
    let protobuf = "application/vnd.kubernetes.protobuf";
    client.send("POST", WIDGETS, protobuf, "k8s\0").await.expect(415);
    let patch = json!([{"op": "replace", "path": "/spec/color", "value": "green"}]).to_string();
    let patched = client.send("PATCH", &path, "application/json-patch+json", patch).await;
    assert_eq!(patched.expect(200)["spec"]["color"], "green");
    let yaml =
        "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: y}\nspec: {color: red}\n";
    client.send("POST", WIDGETS, "application/yaml", yaml).await.expect(201);
}

#[tokio::test]
async fn apply_merges_by_the_lists_types() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    let path = format!("{WIDGETS}/a");
    let one =
        widget("a", json!({"ports": [{"name": "x", "port": 1}], "tags": ["one"], "list": ["a"]}));
    client.apply(&path, "one", false, &one).await.expect(201);
    let two = widget("a", json!({"ports": [{"name": "y", "port": 2}], "tags": ["two"]}));
    let both = client.apply(&path, "two", false, &two).await.expect(200);
    assert_eq!(both["spec"]["ports"], json!([{"name": "x", "port": 1}, {"name": "y", "port": 2}]));
    assert_eq!(both["spec"]["tags"], json!(["one", "two"]));
    let clash = widget("a", json!({"ports": [{"name": "x", "port": 9}], "list": ["b"]}));
    let clash = client.apply(&path, "two", false, &clash).await.expect(409);
    let fields: Vec<_> =
        clash["details"]["causes"].as_array().unwrap().iter().map(|it| &it["field"]).collect();
    assert_eq!(fields, [".spec.list", ".spec.ports[name=\"x\"].port"]);
    let gone = client.apply(&path, "one", false, &widget("a", json!({"tags": ["one"]}))).await;
    let gone = gone.expect(200);
    assert_eq!(gone["spec"]["ports"], json!([{"name": "y", "port": 2}]));
    assert_eq!(gone["spec"].get("list"), None);
    let note = &gone["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert_eq!(note, &json!({"f:tags": {"v:\"one\"": {}}}));
}

#[tokio::test]
async fn a_definition_takes_its_objects_along() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    client.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(WIDGETS, &held).await.expect(201);
    let definition = format!("{DEFINITIONS}/widgets.example.com");
    let version = client.get(&definition).await.expect(200)["metadata"]["resourceVersion"].clone();
    let version = version.as_str().unwrap();
    let mut watch = client.watch(&format!("{DEFINITIONS}?watch=1&resourceVersion={version}")).await;
    client.delete(&definition).await.expect(200);
    watch.expect("MODIFIED", "widgets.example.com").await;
    client.post(WIDGETS, &widget("late", json!({}))).await.expect(405);
    let mut objects = client.watch(&format!("{WIDGETS}?watch=1&resourceVersion={version}")).await;
    loop {
        let event = objects.next().await.unwrap();
        let name = &event["object"]["metadata"]["name"];
        if name == "held" && event["object"]["metadata"].get("deletionTimestamp").is_some() {
            break;
        }
    }
    let free = json!({"metadata": {"finalizers": null}});
    client.merge(&format!("{WIDGETS}/held"), &free).await.expect(200);
    while watch.next().await.unwrap()["type"] != "DELETED" {}
    client.get(&definition).await.expect(404);
    client.get("/healthz").await.expect(200);
    client.post(DEFINITIONS, &widgets(&usual())).await.expect(201);
    let list = client.get(WIDGETS).await.expect(200);
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn names_are_given_once_and_again_when_they_are_free() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    let mut other = widgets(&usual());
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    let made = define(&client, &other).await;
    assert_eq!(condition(&made, "NamesAccepted"), "False");
    assert_eq!(condition(&made, "Established"), "False");
    let gadgets = "/apis/example.com/v1/namespaces/default/gadgets";
    client.get(gadgets).await.expect(404);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = client.watch(&format!("{DEFINITIONS}?watch=1&resourceVersion={version}")).await;
    client.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    loop {
        let event = watch.next().await.unwrap();
        let object = &event["object"];
        if object["metadata"]["name"] == "gadgets.example.com"
            && condition(object, "Established") == "True"
        {
            break;
        }
    }
    let free = async {
        while client.get(gadgets).await.code != 200 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), free).await.unwrap();
}

#[tokio::test]
async fn a_second_server_of_the_store_serves_the_kind_and_a_new_one_finds_it() {
    let store = Arc::new(Memory::default());
    let first = Client::on(store.clone(), Options::default()).await;
    let second = Client::on(store.clone(), Options::default()).await;
    define(&first, &widgets(&usual())).await;
    let known = async {
        while second.get(WIDGETS).await.code != 200 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), known).await.unwrap();
    second.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let third = Client::on(store.clone(), Options::default()).await;
    assert_eq!(third.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["color"], "red");
    drop::<ApiServer>(third.server);
}

#[tokio::test]
async fn a_watch_ends_when_its_kind_is_defined_anew() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    let made = client.post(WIDGETS, &widget("a", json!({}))).await.expect(201);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{WIDGETS}?watch=1&resourceVersion={version}");
    let mut watch = client.watch(&path).await;
    let definition = format!("{DEFINITIONS}/widgets.example.com");
    client.merge(&definition, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    client.merge(&format!("{WIDGETS}/a"), &json!({"spec": {"color": "green"}})).await.expect(200);
    watch.expect("MODIFIED", "a").await;
    let short = json!({"spec": {"names": {"shortNames": ["wdg"]}}});
    client.merge(&definition, &short).await.expect(200);
    assert_eq!(watch.next().await, None);
    let list = client.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wdg"]));
    client.watch(&path).await.expect("MODIFIED", "a").await;
}

#[tokio::test]
async fn roles_hold_for_defined_kinds() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    let jane = client.as_user(berth_apiserver::Identity::new("jane", &[]));
    jane.get(WIDGETS).await.expect(403);
    let role = json!({"metadata": {"name": "w"}, "rules": [
        {"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["list"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    client.post(&format!("{roles}/clusterroles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": "w"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "w"}});
    client.post(&format!("{roles}/clusterrolebindings"), &binding).await.expect(201);
    jane.get(WIDGETS).await.expect(200);
    jane.post(WIDGETS, &widget("a", json!({}))).await.expect(403);
}
