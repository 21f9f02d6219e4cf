//! Definitions and objects that mean harm end soon and with a clear error.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{DEFINITIONS, WIDGETS, define, usual, widget, widgets};
use crate::support::Client;

fn with(schema: &Value) -> Value {
    let mut definition = widgets(&usual());
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["more"] =
        schema.clone();
    definition
}

#[tokio::test]
async fn schemas_are_bounded() {
    let client = Client::start().await;
    let mut deep = json!({"type": "string"});
    for _ in 0..36 {
        deep = json!({"type": "object", "properties": {"a": {"type": "array", "items": deep}}});
    }
    let wide: serde_json::Map<String, Value> =
        (0..30_000).map(|number| (format!("f{number}"), json!({"type": "string"}))).collect();
    let patterns: serde_json::Map<String, Value> = (0..200)
        .map(|number| {
            (format!("f{number}"), json!({"type": "string", "pattern": format!("a{{{number}}}")}))
        })
        .collect();
    let rule = format!("self.size() > 0 || {}", "'a' == 'b' || ".repeat(1000)) + "true";
    let rules: Vec<Value> = (0..100).map(|_| json!({"rule": rule})).collect();
    for (schema, wanted) in [
        (deep, "levels"),
        (json!({"type": "object", "properties": wide}), "parts"),
        (json!({"type": "object", "properties": patterns}), "more than 128 regular expressions"),
        (json!({"type": "string", "pattern": "\\pL{1000}{1000}"}), "valid regular expression"),
        (json!({"type": "string", "x-kubernetes-validations": rules}), "bytes together"),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "(".repeat(5000)}]}),
            "nested",
        ),
    ] {
        let start = Instant::now();
        let answer = client.post(DEFINITIONS, &with(&schema)).await;
        assert_eq!(answer.code, 422, "{wanted}");
        assert!(
            answer.body["message"].as_str().unwrap().contains(wanted),
            "{wanted}: {}",
            answer.body["message"]
        );
        assert!(start.elapsed() < Duration::from_secs(30), "{wanted}: {:?}", start.elapsed());
    }
    let bomb = "[".repeat(100_000);
    client.send("POST", DEFINITIONS, "application/json", bomb).await.expect(400);
}

#[tokio::test]
async fn large_objects_are_judged_in_time() {
    let client = Client::start().await;
    let mut schema = usual();
    let ports = &mut schema["properties"]["spec"]["properties"]["ports"];
    ports["items"]["x-kubernetes-validations"] =
        json!([{"rule": "!has(oldSelf.port) || self.port >= oldSelf.port"}]);
    ports["items"]["properties"]["port"]["maximum"] = 100_000.into();
    define(&client, &widgets(&schema)).await;
    let ports = |add: u32| -> Vec<Value> {
        (0..15_000_u32)
            .map(|number| json!({"name": format!("n{number}"), "port": number + add}))
            .collect()
    };
    let start = Instant::now();
    client.post(WIDGETS, &widget("a", json!({"ports": ports(0)}))).await.expect(201);
    let path = format!("{WIDGETS}/a");
    client.merge(&path, &json!({"spec": {"ports": ports(1)}})).await.expect(200);
    client.merge(&path, &json!({"spec": {"ports": ports(0)}})).await.expect(422);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test]
async fn rules_that_loop_for_ever_end() {
    let client = Client::start().await;
    let mut schema = usual();
    schema["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": "!has(self.list) || self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))"}]);
    schema["properties"]["spec"]["properties"]["list"]["items"]["pattern"] = "^(a|aa)*$".into();
    define(&client, &widgets(&schema)).await;
    let list: Vec<String> = (0..20_000).map(|_| "a".repeat(10)).collect();
    let start = Instant::now();
    let refused = client.post(WIDGETS, &widget("a", json!({"list": list}))).await.expect(422);
    assert!(
        refused["message"].as_str().unwrap().contains("takes more work than it may"),
        "{}",
        refused["message"]
    );
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let long = format!("{}b", "a".repeat(500_000));
    client.post(WIDGETS, &widget("b", json!({"list": [long]}))).await.expect(422);
}
