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
