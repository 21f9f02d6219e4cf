//! Several versions: by name, and by a webhook.

use serde_json::{Value, json};

use super::{DEFINITIONS, WIDGETS, define, widget};
use crate::hooks::Hook;
use crate::support::Client;

const NEWER: &str = "/apis/example.com/v2/namespaces/default/widgets";

fn schema(field: &str) -> Value {
    json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {field: {"type": "string"}}}}}})
}

/// Two versions, which call the same thing differently; the older one is stored.
fn definition(conversion: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "conversion": conversion,
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema("color"), "deprecated": true},
                {"name": "v2", "served": true, "storage": false, "schema": schema("paint")},
            ],
        },
    })
}

#[tokio::test]
async fn without_a_converter_only_the_name_changes() {
    let client = Client::start().await;
    let made = define(&client, &definition(&json!({"strategy": "None"}))).await;
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let group = client.get("/apis/example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v2", "newer before older");
    let old = client.post(WIDGETS, &widget("a", json!({"color": "red"}))).await;
    let warning = old.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("example.com/v1 Widget is deprecated"), "{warning}");
    let read = client.get(&format!("{NEWER}/a")).await.expect(200);
    assert_eq!(read["apiVersion"], "example.com/v2");
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    let moved = client.send("PATCH", &path, "application/json-patch+json", patch.to_string()).await;
    assert_eq!(moved.expect(200)["status"]["storedVersions"], json!(["v1", "v2"]));
    let patch = json!([{"op": "remove", "path": "/spec/versions/0"}]).to_string();
    let refused =
        client.send("PATCH", &path, "application/json-patch+json", patch.as_str().to_owned()).await;
    let refused = refused.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("status.storedVersions[0]"), "{refused}");
    client
        .merge(&format!("{path}/status"), &json!({"status": {"storedVersions": ["v2"]}}))
        .await
        .expect(200);
    client.send("PATCH", &path, "application/json-patch+json", patch).await.expect(200);
    client.get(WIDGETS).await.expect(404);
    client.get(&format!("{NEWER}/a")).await.expect(200);
}

fn answer(question: &Value, change: impl Fn(&mut Value)) -> Value {
    let request = &question["request"];
    let mut objects = request["objects"].clone();
    for object in objects.as_array_mut().unwrap() {
        object["apiVersion"] = request["desiredAPIVersion"].clone();
        let spec = object["spec"].as_object_mut().unwrap();
        let (from, to) = if request["desiredAPIVersion"] == "example.com/v2" {
            ("color", "paint")
        } else {
            ("paint", "color")
        };
        if let Some(value) = spec.remove(from) {
            spec.insert(to.to_owned(), value);
        }
        change(object);
    }
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}})
}

fn webhook(hook: &Hook) -> Value {
    json!({"strategy": "Webhook", "webhook": {"clientConfig": hook.config(), "conversionReviewVersions": ["v1"]}})
}

#[tokio::test]
async fn a_webhook_converts_what_is_read_written_listed_and_watched() {
    let client = Client::start().await;
    let hook = Hook::serve(|question| answer(question, |_| ())).await;
    define(&client, &definition(&webhook(&hook))).await;
    let newer = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"paint": "red"}});
    let made = client.post(NEWER, &newer).await.expect(201);
    assert_eq!(
        (&made["apiVersion"], &made["spec"]),
        (&json!("example.com/v2"), &json!({"paint": "red"}))
    );
    let older = client.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(
        (&older["apiVersion"], &older["spec"]),
        (&json!("example.com/v1"), &json!({"color": "red"}))
    );
    client.post(WIDGETS, &widget("b", json!({"color": "blue"}))).await.expect(201);
    let asked = hook.questions().len();
    let list = client.get(NEWER).await.expect(200);
    assert_eq!(hook.questions().len(), asked + 1, "one question for a whole list");
    assert_eq!(list["items"][1]["spec"], json!({"paint": "blue"}));
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = client.watch(&format!("{NEWER}?watch=1&resourceVersion={version}")).await;
    let mut other = client.watch(&format!("{NEWER}?watch=1&resourceVersion={version}")).await;
    let changed =
        client.merge(&format!("{NEWER}/b"), &json!({"spec": {"paint": "green"}})).await.expect(200);
    assert_eq!(changed["spec"], json!({"paint": "green"}));
    let event = watch.expect("MODIFIED", "b").await;
    assert_eq!(event["object"]["spec"], json!({"paint": "green"}));
    client.merge(&format!("{WIDGETS}/b"), &json!({"spec": {"color": "grey"}})).await.expect(200);
    let event = watch.expect("MODIFIED", "b").await;
    assert_eq!(
        (&event["object"]["apiVersion"], &event["object"]["spec"]),
        (&json!("example.com/v2"), &json!({"paint": "grey"}))
    );
    other.expect("MODIFIED", "b").await;
    other.expect("MODIFIED", "b").await;
    client.delete(&format!("{NEWER}/b")).await.expect(200);
    let event = watch.expect("DELETED", "b").await;
    let asked = hook.questions().len();
    other.expect("DELETED", "b").await;
    assert_eq!(hook.questions().len(), asked, "watchers share what was converted");
    assert_eq!(event["object"]["spec"], json!({"paint": "grey"}));
}

#[tokio::test]
async fn converters_that_fail_are_named() {
    let client = Client::start().await;
    let hook = Hook::serve(|question| {
        match question["request"]["objects"][0]["metadata"]["name"].as_str().unwrap() {
            "renames" => answer(question, |object| object["metadata"]["name"] = "other".into()),
            "stays" => answer(question, |object| object["apiVersion"] = "example.com/v1".into()),
            "refuses" => json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
                "uid": question["request"]["uid"], "result": {"status": "Failure", "message": "I will not"}}}),
            _ => json!({"nothing": true}),
        }
    })
    .await;
    define(&client, &definition(&webhook(&hook))).await;
    for (name, wanted) in [
        ("renames", "a converted object has another metadata.name"),
        ("stays", "expected converted objects of example.com/v2"),
        ("refuses", "I will not"),
        ("nonsense", "the answer is no ConversionReview"),
    ] {
        client.post(WIDGETS, &widget(name, json!({"color": "red"}))).await.expect(201);
        let failed = client.get(&format!("{NEWER}/{name}")).await.expect(500);
        let message = failed["message"].as_str().unwrap();
        assert!(
            message.contains("conversion webhook for example.com/v2, Kind=Widget failed"),
            "{message}"
        );
        assert!(message.contains(wanted), "{message}");
    }
    drop(hook);
    let failed = client.get(NEWER).await.expect(500);
    assert!(failed["message"].as_str().unwrap().contains("conversion webhook"), "{failed}");
    client.get(WIDGETS).await.expect(200);
}
