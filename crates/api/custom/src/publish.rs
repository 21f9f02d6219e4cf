//! Schemas as OpenAPI publishes them.

use serde_json::{Map, Value, json};

/// What a schema may hold besides judging, for clients.
const KEPT: [&str; 27] = [
    "description",
    "type",
    "format",
    "title",
    "default",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "multipleOf",
    "enum",
    "maxProperties",
    "minProperties",
    "required",
    "nullable",
    "externalDocs",
    "example",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-validations",
];

/// A schema of a definition for OpenAPI 3.0.
pub(crate) fn schema(source: &Value) -> Value {
    let Some(fields) = source.as_object() else { return source.clone() };
    let mut schema = Map::new();
    for (name, value) in fields {
        match name.as_str() {
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                let properties =
                    properties.map(|(name, value)| (name.clone(), self::schema(value)));
                schema.insert(name.clone(), Value::Object(properties.collect()));
            }
            "items" | "additionalProperties" | "not" => {
                schema.insert(name.clone(), self::schema(value));
            }
            "allOf" | "anyOf" | "oneOf" => {
                let parts = value.as_array().into_iter().flatten().map(self::schema).collect();
                schema.insert(name.clone(), Value::Array(parts));
            }
            "x-kubernetes-preserve-unknown-fields" if *value == json!(true) => {
                schema.insert(name.clone(), value.clone());
            }
            "x-kubernetes-int-or-string" if *value == json!(true) => {
                schema.insert(name.clone(), value.clone());
                schema.remove("anyOf");
            }
            other if KEPT.contains(&other) => drop(schema.insert(name.clone(), value.clone())),
            _ => {}
        }
    }
    Value::Object(schema)
}

/// The schema of a whole object.
pub(crate) fn root(source: &Value, group: &str, version: &str, kind: &str) -> Value {
    let mut root = schema(source);
    root["type"] = "object".into();
    let about = |text: &str| json!({"type": "string", "description": text});
    root["properties"]["apiVersion"] =
        about("APIVersion defines the versioned schema of this representation of an object.");
    root["properties"]["kind"] =
        about("Kind is a string value representing the REST resource this object represents.");
    root["properties"]["metadata"] = json!({
        "description": "Standard object's metadata.",
        "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}],
    });
    root["x-kubernetes-group-version-kind"] =
        json!([{"group": group, "version": version, "kind": kind}]);
    root
}
