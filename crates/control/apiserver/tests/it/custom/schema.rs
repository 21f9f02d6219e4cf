//! What schemas do to objects, and which schemas are refused.

use serde_json::{Value, json};

use super::{DEFINITIONS, WIDGETS, define, usual, widget, widgets};
use crate::support::Client;

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap()
}

#[tokio::test]
async fn unknown_fields_go_and_are_told() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    let body = widget(
        "a",
        json!({"color": "red", "colour": "x", "ports": [{"name": "p", "nodePort": 1}]}),
    );
    let made = client.post(WIDGETS, &body).await;
    let warnings: Vec<_> =
        made.headers.get_all("warning").iter().map(|it| it.to_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("unknown field \\\"spec.colour\\\""), "{warnings:?}");
    let made = made.expect(201);
    assert_eq!(made["spec"].get("colour"), None);
    assert_eq!(made["spec"]["ports"], json!([{"name": "p"}]));
    let path = format!("{WIDGETS}?fieldValidation=Strict");
    let strict = client.post(&path, &widget("b", json!({"x": 1}))).await.expect(400);
    assert!(
        message(&strict).contains("strict decoding error: unknown field \"spec.x\""),
        "{strict}"
    );
}

#[tokio::test]
async fn every_keyword_judges() {
    let client = Client::start().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
    "required": ["must"],
    "properties": {
        "must": {"type": "string"},
        "text": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[a-z]+$"},
        "number": {"type": "number", "minimum": 1, "exclusiveMinimum": true, "maximum": 10, "multipleOf": 0.5},
        "whole": {"type": "integer", "format": "int32"},
        "choice": {"type": "string", "enum": ["a", "b"]},
        "moment": {"type": "string", "format": "date-time"},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
        "map": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "integer"}},
        "either": {"x-kubernetes-int-or-string": true},
        "any": {"type": "integer", "anyOf": [{"minimum": 10}, {"maximum": 5}], "not": {"enum": [3]}},
        "one": {"type": "integer", "oneOf": [{"minimum": 2}, {"maximum": 3}]},
        "null": {"type": "string", "nullable": true},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}});
    define(&client, &widgets_without_parts(&schema)).await;
    let good = json!({"must": "x", "text": "ab", "number": 1.5, "whole": 3, "choice": "a",
        "moment": "2024-01-02T03:04:05Z", "list": ["x"], "set": [1, 2], "keyed": [{"k": "a"}, {"k": "b"}],
        "map": {"x": 1}, "either": "5%", "any": 11, "one": 1, "null": null,
        "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "x": 1}, "spec": {"deep": {"er": 1}}},
        "free": {"a": {"b": [1, {"c": null}]}}});
    let made = client.post(WIDGETS, &widget("good", good)).await.expect(201);
    assert_eq!(made["spec"]["free"], json!({"a": {"b": [1, {"c": null}]}}));
    assert_eq!(made["spec"]["template"]["metadata"], json!({"name": "p"}));
    assert_eq!(made["spec"]["null"], Value::Null);
    for (field, value, wanted) in [
        ("must", json!(null), "spec.must: Required value"),
        ("text", json!("a"), "spec.text in body should be at least 2 chars long"),
        ("text", json!("abcd"), "spec.text: Too long: may not be more than 3 bytes"),
        ("text", json!("A1"), "spec.text in body should match '^[a-z]+$'"),
        ("number", json!(1), "spec.number in body should be greater than 1"),
        ("number", json!(11), "spec.number in body should be less than or equal to 10"),
        ("number", json!(1.7), "should be a multiple of 0.5"),
        ("whole", json!(1.5), "spec.whole in body must be of type integer: \"number\""),
        ("whole", json!(5_000_000_000_i64), "must be of type int32"),
        (
            "choice",
            json!("c"),
            "spec.choice: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        ("moment", json!("now"), "spec.moment in body must be of type date-time: \"now\""),
        ("list", json!([]), "spec.list in body should have at least 1 items"),
        ("list", json!(["a", "b", "c"]), "spec.list: Too many: 3: must have at most 2 items"),
        ("list", json!([1]), "spec.list[0] in body must be of type string: \"integer\""),
        ("set", json!([1, 1]), "spec.set[1]: Duplicate value: 1"),
        ("keyed", json!([{"k": "a"}, {"k": "a"}]), "spec.keyed[1]: Duplicate value: {\"k\":\"a\"}"),
        ("keyed", json!([{}]), "spec.keyed[0].k: Required value"),
        ("map", json!({"a": 1, "b": 2}), "spec.map: Too many: 2"),
        ("map", json!({"a": "x"}), "spec.map.a in body must be of type integer: \"string\""),
        ("either", json!(true), "spec.either in body must be of type integer,string: \"boolean\""),
        ("any", json!(7), "must validate at least one schema (anyOf)"),
        ("any", json!(3), "must not validate the schema (not)"),
        ("one", json!(2), "must validate one and only one schema (oneOf)"),
        ("template", json!({"kind": "Pod"}), "spec.template.apiVersion: Required value"),
    ] {
        let mut spec = json!({"must": "x"});
        spec[field] = value.clone();
        let answer = client.post(WIDGETS, &widget("bad", spec)).await;
        assert_eq!(answer.code, 422, "{field}: {value}");
        assert!(message(&answer.body).contains(wanted), "{field}: {}", answer.body);
    }
    let missing = client.post(WIDGETS, &widget("bad", json!({}))).await.expect(422);
    assert_eq!(
        missing["message"],
        "Widget.example.com \"bad\" is invalid: spec.must: Required value"
    );
}

fn widgets_without_parts(schema: &Value) -> Value {
    let mut definition = widgets(schema);
    let version = definition["spec"]["versions"][0].as_object_mut().unwrap();
    for field in ["subresources", "selectableFields", "additionalPrinterColumns"] {
        version.remove(field);
    }
    definition
}

#[tokio::test]
async fn defaults_are_filled_in_when_written_and_when_read() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    client.post(WIDGETS, &widget("a", json!({"color": null}))).await.expect(201);
    let definition = format!("{DEFINITIONS}/widgets.example.com");
    let mut schema = usual();
    schema["properties"]["spec"]["properties"]["shape"] = json!({"type": "object", "default": {},
        "properties": {"sides": {"type": "integer", "default": 4}, "list": {"type": "array", "items": {"type": "string"}, "default": []}}});
    let path = "/spec/versions/0/schema/openAPIV3Schema";
    let patch = json!([{"op": "replace", "path": path, "value": schema}]).to_string();
    client.send("PATCH", &definition, "application/json-patch+json", patch).await.expect(200);
    let read = client.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(read["spec"]["shape"], json!({"sides": 4, "list": []}));
    assert_eq!(read["spec"]["color"], "red");
    let list = client.get(WIDGETS).await.expect(200);
    assert_eq!(list["items"][0]["spec"]["shape"]["sides"], 4);
}

fn ruled() -> Value {
    let mut schema = usual();
    let spec = &mut schema["properties"]["spec"];
    spec["properties"]["limit"] = json!({"type": "integer"});
    spec["properties"]["fixed"] = json!({"type": "string", "x-kubernetes-validations": [
        {"rule": "self == oldSelf", "message": "fixed may not change", "reason": "FieldValueForbidden"}]});
    spec["properties"]["grows"] = json!({"type": "integer", "x-kubernetes-validations": [
        {"rule": "!oldSelf.hasValue() || self >= oldSelf.value()", "optionalOldSelf": true,
         "messageExpression": "'may not shrink to ' + string(self)"}]});
    spec["x-kubernetes-validations"] = json!([
        {"rule": "!has(self.limit) || self.replicas <= self.limit", "message": "more than the limit", "fieldPath": ".replicas"},
        {"rule": "!has(self.ports) || self.ports.all(p, p.port > 0)"}]);
    schema["x-kubernetes-validations"] =
        json!([{"rule": "self.metadata.name != 'bad'", "message": "bad name"}]);
    schema
}

#[tokio::test]
async fn rules_judge_objects_and_changes() {
    let client = Client::start().await;
    define(&client, &widgets(&ruled())).await;
    let refused =
        client.post(WIDGETS, &widget("a", json!({"replicas": 3, "limit": 2}))).await.expect(422);
    assert_eq!(
        refused["message"],
        "Widget.example.com \"a\" is invalid: spec.replicas: Invalid value: \"object\": more than the limit"
    );
    let refused =
        client.post(WIDGETS, &widget("a", json!({"ports": [{"name": "x", "port": 0}]}))).await;
    assert!(
        message(&refused.expect(422))
            .ends_with("failed rule: !has(self.ports) || self.ports.all(p, p.port > 0)")
    );
    let refused = client.post(WIDGETS, &widget("bad", json!({}))).await.expect(422);
    assert!(message(&refused).contains("bad name"));
    client
        .post(WIDGETS, &widget("a", json!({"fixed": "x", "grows": 2, "replicas": 1, "limit": 2})))
        .await
        .expect(201);
    let path = format!("{WIDGETS}/a");
    let refused = client.merge(&path, &json!({"spec": {"fixed": "y"}})).await.expect(422);
    assert_eq!(
        refused["message"],
        "Widget.example.com \"a\" is invalid: spec.fixed: Forbidden: fixed may not change"
    );
    let refused = client.merge(&path, &json!({"spec": {"grows": 1}})).await.expect(422);
    assert!(
        message(&refused).contains("spec.grows: Invalid value: \"integer\": may not shrink to 1"),
        "{refused}"
    );
    client.merge(&path, &json!({"spec": {"grows": 5}})).await.expect(200);
}

#[tokio::test]
async fn what_does_not_change_is_not_judged_again() {
    let client = Client::start().await;
    define(&client, &widgets(&usual())).await;
    client
        .post(WIDGETS, &widget("a", json!({"list": ["long text"], "replicas": 9})))
        .await
        .expect(201);
    let definition = format!("{DEFINITIONS}/widgets.example.com");
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let patch = json!([
        {"op": "add", "path": format!("{schema}/properties/list/items/maxLength"), "value": 2},
        {"op": "add", "path": format!("{schema}/x-kubernetes-validations"), "value": [{"rule": "self.replicas < 20"}]},
        {"op": "add", "path": format!("{schema}/properties/replicas/maximum"), "value": 5},
    ]);
    client
        .send("PATCH", &definition, "application/json-patch+json", patch.to_string())
        .await
        .expect(200);
    let path = format!("{WIDGETS}/a");
    client.merge(&path, &json!({"spec": {"color": "green"}})).await.expect(200);
    client.merge(&path, &json!({"spec": {"replicas": 8}})).await.expect(422);
    client.merge(&path, &json!({"spec": {"list": ["other text"]}})).await.expect(422);
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn schemas_that_are_not_structural_are_refused() {
    let client = Client::start().await;
    let root = "spec.versions[0].schema.openAPIV3Schema";
    for (schema, wanted) in [
        (json!({}), format!("{root}.type: Required value: must not be empty at the root")),
        (json!({"type": "string"}), "must be object at the root".into()),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            format!(
                "{root}.properties[a].type: Required value: must not be empty for specified object fields"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            format!("{root}.properties[a].items: Required value"),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {}}}}),
            "must not be empty for specified array items".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "thing"}}}),
            "Unsupported value: \"thing\"".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}}),
            "mutual exclusive".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "additionalProperties": false}}}),
            "additionalProperties cannot be set to false".into(),
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}),
            "because it is defined in".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "allOf": [{"type": "integer"}]}}}),
            "must be empty to be structural".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "must be a valid regular expression".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "default": 5}}}),
            "must be of type string".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "default": {"c": 1}}}}),
            "must not have unknown fields".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}),
            "x-kubernetes-list-map-keys: Required value".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            "must have a default or be a required property".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "uniqueItems": true}}}),
            "uniqueItems cannot be set to true".into(),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "must not specify anything other than name and generateName".into(),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.a =="}]}),
            "compilation failed: ERROR: <input>:1:10: Syntax error".into(),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "other == 1"}]}),
            "undeclared reference to 'other'".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.b == 'x'"}]}),
            "undefined field 'b'".into(),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": true}]}),
            "may not be set if oldSelf is not used".into(),
        ),
    ] {
        let answer = client.post(DEFINITIONS, &widgets_without_parts(&schema)).await;
        assert_eq!(answer.code, 422, "{schema}: {}", answer.body);
        assert!(message(&answer.body).contains(&wanted), "{schema}: {}", answer.body);
    }
}

#[tokio::test]
async fn definitions_that_contradict_themselves_are_refused() {
    let client = Client::start().await;
    for (path, value, wanted) in [
        (
            "/metadata/name",
            json!("other.example.com"),
            "metadata.name: Invalid value: \"other.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        ("/spec/group", json!("example"), "should be a domain with at least one dot"),
        ("/spec/group", json!("x.k8s.io"), "protected groups must have approval annotation"),
        ("/spec/scope", json!("World"), "spec.scope: Unsupported value: \"World\""),
        ("/spec/names/kind", json!("no kind"), "spec.names.kind: Invalid value"),
        ("/spec/names/listKind", json!("Widget"), "kind and listKind may not be the same"),
        ("/spec/versions", json!([]), "must have at least one version"),
        (
            "/spec/versions/0/storage",
            json!(false),
            "must have exactly one version marked as storage version",
        ),
        ("/spec/versions/0/schema", json!({}), "schemas are required"),
        (
            "/spec/versions/0/subresources/scale/specReplicasPath",
            json!(".status.x"),
            "should be a json path under .spec",
        ),
        (
            "/spec/versions/0/selectableFields/0/jsonPath",
            json!(".spec.none"),
            "does not refer to a valid field",
        ),
        (
            "/spec/versions/0/selectableFields/0/jsonPath",
            json!(".spec.ports"),
            "must point to a field of type",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns/0/jsonPath",
            json!("spec"),
            "must be a simple json path",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns/0/type",
            json!("text"),
            "Unsupported value: \"text\"",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook"}),
            "required when strategy is set to Webhook",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2"], "clientConfig": {"url": "http://x"}}}),
            "'https' is the only allowed URL scheme",
        ),
        ("/spec/preserveUnknownFields", json!(true), "cannot set to true"),
    ] {
        let mut definition = widgets(&usual());
        let (parent, field) = path.rsplit_once('/').unwrap();
        definition.pointer_mut(parent).unwrap()[field] = value;
        let answer = client.post(DEFINITIONS, &definition).await;
        assert_eq!(answer.code, 422, "{path}: {}", answer.body);
        assert!(message(&answer.body).contains(wanted), "{path}: {}", answer.body);
    }
    define(&client, &widgets(&usual())).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let refused = client.merge(&path, &json!({"spec": {"scope": "Cluster"}})).await.expect(422);
    assert!(
        message(&refused).contains("spec.scope: Invalid value: \"Cluster\": field is immutable")
    );
}
