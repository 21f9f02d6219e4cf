//! Values of the outside as values of expressions, and back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube_cel::cel::objects::{Key, Map, OptionalValue, Value};
use serde_json::Value as Json;

use crate::authorizer::{Asker, Authorizer};
use crate::library;

/// How a text or number of a schema is seen by expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// A text that is a moment.
    Moment,
    /// A text that is a duration.
    Duration,
    /// A text that is bytes in base64.
    Bytes,
    /// A number with a fraction, even if it is written without.
    Fraction,
}

/// A schema, as far as it decides how values are seen.
pub trait Shape {
    /// How the value itself is seen.
    fn form(&self) -> Form;
    /// The shape of a field.
    fn field(&self, name: &str) -> Option<&dyn Shape>;
    /// The shape of the elements of a list.
    fn element(&self) -> Option<&dyn Shape>;
}

/// The values that the variables of a program have.
#[derive(Default)]
pub struct Variables<'a> {
    values: BTreeMap<String, Value>,
    pub(crate) authorizer: Option<&'a dyn Authorizer>,
}

impl<'a> Variables<'a> {
    /// No variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &Json) -> Self {
        self.set(name, from_json(value));
        self
    }

    /// With one more variable whose types come from a schema.
    #[must_use]
    pub fn shaped(mut self, name: &str, value: &Json, shape: &dyn Shape) -> Self {
        self.set(name, from_shaped(value, Some(shape)));
        self
    }

    /// With one more variable that is an optional: empty, or holding a value.
    #[must_use]
    pub fn optional(mut self, name: &str, value: Option<(&Json, &dyn Shape)>) -> Self {
        self.set(name, optional(value.map(|(value, shape)| from_shaped(value, Some(shape)))));
        self
    }

    /// With `authorizer`, which asks what the given user may do, and `authorizer.requestResource`, which starts from the
    /// resource of the request.
    #[must_use]
    pub fn authorized(mut self, authorizer: &'a dyn Authorizer) -> Self {
        self.authorizer = Some(authorizer);
        self.set("authorizer", Value::Opaque(Arc::new(Asker::default())));
        self
    }

    /// Makes one variable's value a field of another's: `variables.x`.
    pub fn nest(&mut self, parent: &str, field: &str, name: &str) {
        let Some(value) = self.values.remove(name) else { return };
        let mut fields = match self.values.remove(parent) {
            Some(Value::Map(map)) => Arc::unwrap_or_clone(map.map),
            _ => HashMap::new(),
        };
        fields.insert(Key::String(Arc::new(field.to_owned())), value);
        self.set(parent, Value::Map(Map { map: Arc::new(fields) }));
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }
}

pub(crate) fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

fn from_json(value: &Json) -> Value {
    from_shaped(value, None)
}

fn from_shaped(value: &Json, shape: Option<&dyn Shape>) -> Value {
    let form = shape.map_or(Form::Plain, Shape::form);
    match value {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) if form != Form::Fraction => Value::Int(number),
            (_, Some(number)) if form != Form::Fraction => Value::UInt(number),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => {
            let plain = Value::String(Arc::new(text.clone()));
            let function = match form {
                Form::Plain | Form::Fraction => return plain,
                Form::Moment => (None, "timestamp"),
                Form::Duration => (None, "duration"),
                Form::Bytes => (Some("base64"), "decode"),
            };
            // What is not of the form stays text; validation of the form says so.
            library::call(function.0, function.1, None, vec![plain.clone()]).unwrap_or(plain)
        }
        Json::Array(items) => {
            let element = shape.and_then(Shape::element);
            Value::List(Arc::new(items.iter().map(|item| from_shaped(item, element)).collect()))
        }
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let shape = shape.and_then(|shape| shape.field(name));
                (Key::String(Arc::new(name.clone())), from_shaped(value, shape))
            });
            Value::Map(Map { map: Arc::new(fields.collect()) })
        }
    }
}

pub(crate) fn to_json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => (*number).into(),
        Value::UInt(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            let mut fields: Vec<_> = map.map.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields = fields.into_iter().map(|(key, value)| match key {
                Key::String(key) => Ok((key.as_str().to_owned(), to_json(value)?)),
                Key::Int(key) => Ok((key.to_string(), to_json(value)?)),
                Key::Uint(key) => Ok((key.to_string(), to_json(value)?)),
                Key::Bool(key) => Ok((key.to_string(), to_json(value)?)),
            });
            Json::Object(fields.collect::<Result<_, String>>()?)
        }
        Value::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>() {
            Some(optional) => optional.value().map_or(Ok(Json::Null), to_json)?,
            None => text_of(value)?.into(),
        },
        Value::Bytes(_) => {
            let text = library::call(Some("base64"), "encode", None, vec![value.clone()]);
            text.map_err(|error| error.to_string()).and_then(|text| to_json(&text))?
        }
        other => text_of(other)?.into(),
    })
}

/// What `string()` makes of a value.
fn text_of(value: &Value) -> Result<String, String> {
    match library::call(None, "string", None, vec![value.clone()]) {
        Ok(Value::String(text)) => Ok(text.as_str().to_owned()),
        _ => Err(format!("a value of type {} has no form in JSON", value.type_of())),
    }
}

/// Words that are no identifiers.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const ESCAPES: [(&str, &str); 4] =
    [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// A property's name as expressions write it, if they can: `foo-bar` is `foo__dash__bar`.
#[must_use]
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if let Some((plain, code)) = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            escaped += code;
            rest = &rest[plain.len()..];
        } else if first.is_ascii_alphanumeric() || first == '_' {
            escaped.push(first);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(escaped)
}

/// The property's name that expressions write so.
#[must_use]
pub fn unescape(name: &str) -> String {
    let word = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"));
    if let Some(word) = word.filter(|word| RESERVED.contains(word)) {
        return word.to_owned();
    }
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        match ESCAPES.iter().find(|(_, code)| rest.starts_with(code)) {
            Some((text, code)) => {
                plain += text;
                rest = &rest[code.len()..];
            }
            None => {
                plain.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_read_back() {
        for (name, escaped) in [
            ("namespace", "__namespace__"),
            ("foo-bar", "foo__dash__bar"),
            ("a.b/c", "a__dot__b__slash__c"),
            ("my_field", "my_field"),
            ("a__b", "a__underscores__b"),
            ("redact__d", "redact__underscores__d"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(escaped));
            assert_eq!(unescape(escaped), name);
        }
        assert_eq!(escape("a b"), None);
        assert_eq!(escape("0a"), None);
    }
}
