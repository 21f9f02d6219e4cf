//! Fits a JSON value to its schema: what is unknown goes, nulls go, quantities become canonical, wrong types are refused.

use serde_json::{Map, Value};

use crate::schema::{Definition, Form, JSON_SCHEMA, OBJECT_META, Property, Schemas, Shape, Type};
use crate::{Quantity, Resource, time};

/// A value does not have the type of its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} into field {path} of type {wanted}")]
pub struct WrongType {
    /// The field.
    pub path: String,
    found: &'static str,
    wanted: String,
}

/// Fits an object in place and returns the paths of the fields that were dropped because nobody knows them.
///
/// # Errors
/// The first value whose type is wrong.
pub fn decode(definition: &Definition, value: &mut Value) -> Result<Vec<String>, WrongType> {
    let mut walk = Walk { path: String::new(), unknown: Vec::new() };
    walk.definition(definition, value)?;
    Ok(walk.unknown)
}

/// Fits an object of any resource in place and returns the paths of the fields that were dropped.
///
/// # Errors
/// The first value whose type is wrong. Of a kind that was defined at run time only the metadata is judged here; its own
/// fields are judged by validation, as upstream does.
pub fn fit(resource: &Resource<'_>, value: &mut Value) -> Result<Vec<String>, WrongType> {
    let Some(custom) = resource.custom else { return decode(resource.definition().1, value) };
    let mut walk = Walk { path: String::new(), unknown: Vec::new() };
    for field in ["apiVersion", "kind"] {
        match value.get(field) {
            Some(Value::String(_)) | None => {}
            Some(other) => return walk.within(field, |walk| walk.wrong(other, "string")),
        }
    }
    if let (Some(metadata), Some(definition)) =
        (value.get_mut("metadata"), Schemas::builtin().definition(OBJECT_META))
    {
        if metadata.is_null() {
            *metadata = Value::Object(Map::new());
        }
        walk.within("metadata", |walk| walk.definition(definition, metadata))?;
    }
    let mut unknown = walk.unknown;
    unknown.extend(custom.prune(value));
    Ok(unknown)
}

struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn wrong<T>(&self, value: &Value, wanted: impl Into<String>) -> Result<T, WrongType> {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Err(WrongType { path: self.path.clone(), found, wanted: wanted.into() })
    }

    fn within<T>(&mut self, part: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 && !part.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(part);
        let outcome = run(self);
        self.path.truncate(length);
        outcome
    }

    fn definition(&mut self, definition: &Definition, value: &mut Value) -> Result<(), WrongType> {
        match definition.form {
            Form::Object => {
                let Some(fields) = value.as_object_mut() else {
                    return self.wrong(value, "object");
                };
                self.object(definition, fields)
            }
            Form::Quantity => self.quantity(value),
            Form::IntOrString => match value {
                Value::String(_) => Ok(()),
                Value::Number(number) if number.is_i64() => Ok(()),
                other => self.wrong(other, "intstr.IntOrString"),
            },
            Form::Time => self.moment(value, time::seconds),
            Form::MicroTime => self.moment(value, time::micros),
            Form::Raw => Ok(()),
            Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => self.schemas(value),
        }
    }

    /// Schemas wherever they may stand; the other alternatives are as they are.
    fn schemas(&mut self, value: &mut Value) -> Result<(), WrongType> {
        let Some(schema) = Schemas::builtin().definition(JSON_SCHEMA) else { return Ok(()) };
        match value {
            Value::Object(_) => self.definition(schema, value),
            Value::Array(items) => {
                for (position, item) in items.iter_mut().enumerate().filter(|(_, i)| i.is_object())
                {
                    self.within(&format!("[{position}]"), |walk| walk.definition(schema, item))?;
                }
                Ok(())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn moment(
        &self,
        value: &mut Value,
        print: fn(jiff::Timestamp) -> String,
    ) -> Result<(), WrongType> {
        let Some(moment) = value.as_str().and_then(time::parse) else {
            return self.wrong(value, "Time");
        };
        *value = Value::String(print(moment));
        Ok(())
    }

    fn quantity(&self, value: &mut Value) -> Result<(), WrongType> {
        let text = match &*value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => return self.wrong(other, "resource.Quantity"),
        };
        match text.trim().parse::<Quantity>() {
            Ok(quantity) => *value = Value::String(quantity.to_string()),
            Err(error) => return self.wrong(value, format!("resource.Quantity: {error}")),
        }
        Ok(())
    }

    fn object(
        &mut self,
        definition: &Definition,
        fields: &mut Map<String, Value>,
    ) -> Result<(), WrongType> {
        fields.retain(|name, value| {
            let known = definition.property(name).is_some();
            if !known {
                self.within(name, |walk| walk.unknown.push(walk.path.clone()));
            }
            known && !value.is_null()
        });
        for (name, value) in &mut *fields {
            if let Some(property) = definition.property(name) {
                self.within(name, |walk| walk.property(property, value))?;
            }
        }
        // To the typed API an empty list or map is the same as none. An empty list of managers is an order to forget them.
        fields.retain(|name, value| {
            let empty = match &*value {
                Value::Array(items) => {
                    items.is_empty()
                        && name != "managedFields"
                        && is_list(definition.property(name))
                }
                Value::Object(entries) => entries.is_empty() && is_map(definition.property(name)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            };
            !empty || definition.required.contains(&name.as_str())
        });
        Ok(())
    }

    fn property(&mut self, property: &Property, value: &mut Value) -> Result<(), WrongType> {
        let basic = match property.shape() {
            Shape::Named(_, definition) => return self.definition(definition, value),
            Shape::Basic(basic) => basic,
        };
        match (basic, &mut *value) {
            (Type::String, Value::String(_))
            | (Type::Boolean, Value::Bool(_))
            | (Type::Number, Value::Number(_))
            | (Type::Object, Value::Object(_)) => Ok(()),
            (Type::Integer, Value::Number(number)) => {
                let whole = number.as_i64().or_else(|| whole(number.as_f64()?));
                let fits =
                    |whole: &i64| property.format != Some("int32") || i32::try_from(*whole).is_ok();
                match whole.filter(fits) {
                    Some(whole) => *value = whole.into(),
                    None => return self.wrong(value, property.format.unwrap_or("integer")),
                }
                Ok(())
            }
            (Type::Array, Value::Array(items)) => {
                let Some(element) = property.element.as_deref() else { return Ok(()) };
                for (position, item) in items.iter_mut().enumerate() {
                    self.within(&format!("[{position}]"), |walk| walk.property(element, item))?;
                }
                Ok(())
            }
            (Type::Map, Value::Object(entries)) => {
                let Some(element) = property.element.as_deref() else { return Ok(()) };
                for (name, item) in entries {
                    if item.is_null() && matches!(element.shape(), Shape::Basic(Type::String)) {
                        *item = Value::String(String::new());
                    }
                    self.within(name, |walk| walk.property(element, item))?;
                }
                Ok(())
            }
            (_, other) => self.wrong(
                other,
                match basic {
                    Type::String => "string",
                    Type::Integer => property.format.unwrap_or("integer"),
                    Type::Number => "float64",
                    Type::Boolean => "bool",
                    Type::Object | Type::Map => "map[string]",
                    Type::Array => "array",
                },
            ),
        }
    }
}

fn is_map(property: Option<&Property>) -> bool {
    property.is_some_and(|property| matches!(property.shape(), Shape::Basic(Type::Map)))
}

/// Whether it is a list, and not a value that may be one.
fn is_list(property: Option<&Property>) -> bool {
    property.is_some_and(|property| matches!(property.shape(), Shape::Basic(Type::Array)))
}

fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(kind: (&str, &str, &str), mut value: Value) -> Result<(Value, Vec<String>), WrongType> {
        let (_, definition) = Schemas::builtin().kind(kind.0, kind.1, kind.2).unwrap();
        let unknown = decode(definition, &mut value)?;
        Ok((value, unknown))
    }

    #[test]
    fn drops_what_nobody_knows_and_says_so() {
        let pod = json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {
            "containers": [{"name": "c", "imagee": "x", "resources": {"limits": {"cpu": 0.5}}}],
            "nodeName": null}, "foo": 1});
        let (pod, unknown) = run(("", "v1", "Pod"), pod).unwrap();
        assert_eq!(unknown, ["foo", "spec.containers[0].imagee"]);
        assert_eq!(
            pod,
            json!({"metadata": {"name": "a"}, "spec": {"containers":
            [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}]}})
        );
    }

    #[test]
    fn refuses_wrong_types() {
        let wrong = run(("apps", "v1", "Deployment"), json!({"spec": {"replicas": "3"}}));
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "json: cannot unmarshal string into field spec.replicas of type int32"
        );
        run(("", "v1", "Pod"), json!({"spec": {"containers": {}}})).unwrap_err();
        run(("", "v1", "ConfigMap"), json!({"data": {"a": 1}})).unwrap_err();
        run(("", "v1", "Service"), json!({"spec": {"ports": [{"targetPort": true}]}})).unwrap_err();
    }
}
