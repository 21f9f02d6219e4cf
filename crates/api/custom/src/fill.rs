//! Pruning and defaulting.

use berth_objects::schema::{OBJECT_META, Schemas};
use serde_json::Value;

use crate::schema::{ABOUT, Additional, Schema};

impl Schema {
    /// Takes out what the schema does not know, and notes the paths.
    pub(crate) fn prune(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let object = self.is_object_of_api();
                fields.retain(|name, _| {
                    let known = self.preserve
                        || self.properties.contains_key(name)
                        || !matches!(self.additional, Additional::Nothing)
                        || (object && ABOUT.contains(&name.as_str()));
                    if !known {
                        unknown.push(join(path, name));
                    }
                    known
                });
                for (name, value) in fields {
                    let path = join(path, name);
                    if object && name == "metadata" {
                        // The outermost metadata was fitted before.
                        if !path.contains('.') {
                            continue;
                        }
                        if let Some(definition) = Schemas::builtin().definition(OBJECT_META)
                            && let Ok(more) = berth_objects::decode(definition, value)
                        {
                            unknown.extend(more.iter().map(|name| join(&path, name)));
                        }
                    } else if let Some(schema) = self.child(name) {
                        schema.prune(value, &path, unknown);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (place, item) in items.iter_mut().enumerate() {
                    schema.prune(item, &format!("{path}[{place}]"), unknown);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Fills in what was left out, and what is null where null is none.
    pub(crate) fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                // A null where none is allowed says nothing, as Go and Helm write it.
                fields.retain(|name, value| {
                    !value.is_null()
                        || self
                            .child(name)
                            .is_none_or(|schema| schema.nullable || schema.default.is_some())
                });
                for (name, schema) in &self.properties {
                    let Some(default) = &schema.default else { continue };
                    let absent = match fields.get(name) {
                        None => true,
                        Some(Value::Null) => !schema.nullable,
                        Some(_) => false,
                    };
                    if absent {
                        fields.insert(name.clone(), default.clone());
                    }
                }
                for (name, value) in fields {
                    if let Some(schema) = self.child(name) {
                        if value.is_null()
                            && !schema.nullable
                            && let Some(default) = &schema.default
                        {
                            *value = default.clone();
                        }
                        schema.fill(value);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for item in items {
                    if item.is_null()
                        && !schema.nullable
                        && let Some(default) = &schema.default
                    {
                        *item = default.clone();
                    }
                    schema.fill(item);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use berth_objects::Custom;
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::validate::Walk;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    /// Values of any form, with the names that schemas use.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-20..20_i64).prop_map(Value::from),
            (-2.0..2.0_f64).prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            let fields = prop::collection::vec((prop::sample::select(&NAMES), inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::Array),
                fields.prop_map(|all| {
                    all.into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect::<Map<_, _>>()
                        .into()
                }),
            ]
        })
    }

    /// Structural schemas with defaults that fit them.
    fn schemas() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(|nullable| json!({"type": "string", "default": "aa", "maxLength": 2, "nullable": nullable})),
            Just(json!({"type": "string", "pattern": "^[ab]*$"})),
            Just(json!({"type": "integer", "minimum": 0, "default": 3})),
            Just(json!({"type": "boolean"})),
            Just(json!({"x-kubernetes-int-or-string": true})),
            Just(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})),
            Just(json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"})),
        ];
        leaf.prop_recursive(4, 30, 3, |inner| {
            let properties =
                prop::collection::vec((prop::sample::select(&NAMES), inner.clone()), 0..4);
            prop_oneof![
                inner
                    .clone()
                    .prop_map(|items| json!({"type": "array", "items": items, "maxItems": 3})),
                inner.prop_map(|values| json!({"type": "object", "additionalProperties": values})),
                (properties, any::<bool>()).prop_map(|(all, filled)| {
                    let properties: Map<_, _> =
                        all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
                    let mut schema =
                        json!({"type": "object", "properties": properties, "required": ["a"]});
                    if filled {
                        schema["default"] = json!({});
                    }
                    schema
                }),
            ]
        })
    }

    fn judge(schema: &Schema, value: &Value) -> Vec<String> {
        let mut walk = Walk::new();
        walk.run(schema, value, None);
        walk.errors.iter().map(ToString::to_string).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// What was pruned and defaulted stays as it is and is judged alike, and what did not change is not judged at all.
        #[test]
        fn a_fitted_object_fits(schema in schemas(), value in values()) {
            let schema = Schema::parse(&schema);
            let fit = |value: &mut Value| {
                let mut unknown = Vec::new();
                schema.prune(value, "", &mut unknown);
                schema.fill(value);
                unknown
            };
            let mut once = value;
            fit(&mut once);
            let mut twice = once.clone();
            let unknown = fit(&mut twice);
            prop_assert_eq!(&unknown, &Vec::<String>::new());
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(judge(&schema, &once), judge(&schema, &twice));
            let mut walk = Walk::new();
            walk.run(&schema, &twice, Some(&once));
            prop_assert!(walk.errors.is_empty());
        }
    }

    #[test]
    fn a_kind_prunes_and_fills_whole_objects() {
        let definition = std::sync::Arc::new(
            json!({"spec": {"group": "example.com", "scope": "Cluster",
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
                    "size": {"type": "integer", "default": 2}}}}}}}]},
            "status": {"acceptedNames": {"plural": "things", "kind": "Thing"}}}),
        );
        let kind = crate::kinds(&definition).remove(0);
        let mut object = json!({"apiVersion": "example.com/v1", "kind": "Thing",
            "metadata": {"name": "x", "labels": {"a": "b"}}, "extra": 1});
        assert_eq!(kind.prune(&mut object), ["extra"]);
        kind.default(&mut object);
        assert_eq!(object["spec"], json!({"size": 2}));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(kind.storage(), "example.com/v1");
    }
}
