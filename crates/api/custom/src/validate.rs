//! Judging values by a schema.
//!
//! What did not change is not judged again: a definition may become stricter without making its objects unchangeable.

use std::collections::{HashMap, HashSet};

use berth_objects::FieldError;
use serde_json::Value;

use crate::fill::join;
use crate::schema::{ABOUT, Checks, List, Schema, Type};

/// Errors are told up to this number.
const TOLD: usize = 100;

pub(crate) struct Walk {
    pub errors: Vec<FieldError>,
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(kind: Type, value: &Value) -> bool {
    match (kind, value) {
        (Type::Object, Value::Object(_))
        | (Type::Array, Value::Array(_))
        | (Type::String, Value::String(_))
        | (Type::Number, Value::Number(_))
        | (Type::Boolean, Value::Bool(_)) => true,
        (Type::Integer, Value::Number(number)) => {
            !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        _ => false,
    }
}

impl Walk {
    pub fn new() -> Self {
        Self { errors: Vec::new() }
    }

    pub fn run(&mut self, schema: &Schema, value: &Value, old: Option<&Value>) {
        self.value(schema, value, old, "");
    }

    fn invalid(&mut self, path: &str, value: &Value, why: &str) {
        // Whole objects would bury what is wrong with them.
        let shown = match value {
            Value::Object(_) | Value::Array(_) => Value::from(type_of(value)),
            other => other.clone(),
        };
        self.errors.push(FieldError::invalid(path, &shown, format!("{path} in body {why}")));
    }

    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        if old == Some(value) || self.errors.len() >= TOLD {
            return;
        }
        if value.is_null() && schema.nullable {
            return;
        }
        if !self.is_of_type(schema, value, path) {
            return;
        }
        self.checks(&schema.checks, value, path);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if schema.is_object_of_api() && ABOUT.contains(&name.as_str()) {
                        self.about(schema, name, value, path);
                        continue;
                    }
                    let before = old.and_then(|old| old.get(name));
                    if let Some(child) = schema.child(name) {
                        self.value(child, value, before, &join(path, name));
                    }
                }
                if schema.embedded {
                    self.embedded(value, path);
                }
            }
            Value::Array(items) => {
                self.list(schema, items, path);
                let Some(element) = &schema.items else { return };
                let before = Before::of(schema, old);
                for (place, item) in items.iter().enumerate() {
                    let before = before.find(schema, item);
                    self.value(element, item, before, &format!("{path}[{place}]"));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn is_of_type(&mut self, schema: &Schema, value: &Value, path: &str) -> bool {
        if schema.int_or_string {
            let fits = is_of(Type::Integer, value) || value.is_string();
            if !fits {
                let why = format!("must be of type integer,string: \"{}\"", type_of(value));
                self.wrong_type(value, path, &why);
            }
            return fits;
        }
        let Some(kind) = schema.kind else { return true };
        if !is_of(kind, value) {
            let why = format!("must be of type {}: \"{}\"", kind.name(), type_of(value));
            self.wrong_type(value, path, &why);
            return false;
        }
        true
    }

    fn wrong_type(&mut self, value: &Value, path: &str, why: &str) {
        let path = if path.is_empty() { "<nil>" } else { path };
        let shown = Value::from(type_of(value));
        self.errors.push(FieldError::invalid(path, &shown, format!("{path} in body {why}")));
    }

    /// Of the metadata a schema may judge the name.
    fn about(&mut self, schema: &Schema, name: &str, value: &Value, path: &str) {
        let Some(child) = schema.properties.get(name) else { return };
        if name != "metadata" {
            self.value(child, value, None, &join(path, name));
            return;
        }
        for field in ["name", "generateName"] {
            if let (Some(child), Some(value)) = (child.properties.get(field), value.get(field)) {
                self.value(child, value, None, &join(&join(path, name), field));
            }
        }
    }

    fn embedded(&mut self, value: &Value, path: &str) {
        for field in ["apiVersion", "kind"] {
            match value.get(field) {
                Some(Value::String(text)) if !text.is_empty() => {}
                _ => {
                    let why = "must not be empty";
                    self.errors.push(FieldError::required(&join(path, field), why));
                }
            }
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], path: &str) {
        let mut seen = HashSet::new();
        for (place, item) in items.iter().enumerate() {
            let key = match &schema.list {
                List::Atomic => return,
                List::Set => item.clone(),
                List::Keyed(_) => key(schema, item),
            };
            if !seen.insert(key.to_string()) {
                self.errors.push(FieldError::duplicate(&format!("{path}[{place}]"), &key));
            }
        }
    }

    fn checks(&mut self, checks: &Checks, value: &Value, path: &str) {
        if let Some(known) = &checks.one_of_values
            && !known.contains(value)
        {
            let words: Vec<String> = known
                .iter()
                .map(|word| word.as_str().map_or_else(|| word.to_string(), String::from))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.errors.push(FieldError::not_supported(path, value, &words));
        }
        if let Some(format) = checks.format
            && !format.fits(value)
        {
            let shown = value.as_str().map_or_else(|| value.to_string(), String::from);
            self.invalid(path, value, &format!("must be of type {}: \"{shown}\"", format.name()));
        }
        match value {
            Value::Number(number) => {
                self.number(checks, number.as_f64().unwrap_or(0.0), value, path)
            }
            Value::String(text) => self.text(checks, text, value, path),
            Value::Array(items) => {
                let count = items.len() as u64;
                if let Some(least) = checks.items.0.filter(|least| count < *least) {
                    self.invalid(path, value, &format!("should have at least {least} items"));
                }
                if let Some(most) = checks.items.1.filter(|most| count > *most) {
                    let most = usize::try_from(most).unwrap_or(usize::MAX);
                    self.errors.push(FieldError::too_many(path, items.len(), most));
                }
            }
            Value::Object(fields) => {
                let count = fields.len() as u64;
                if let Some(least) = checks.properties.0.filter(|least| count < *least) {
                    self.invalid(path, value, &format!("should have at least {least} properties"));
                }
                if let Some(most) = checks.properties.1.filter(|most| count > *most) {
                    let most = usize::try_from(most).unwrap_or(usize::MAX);
                    self.errors.push(FieldError::too_many(path, fields.len(), most));
                }
                for name in checks.required.iter().filter(|name| !fields.contains_key(*name)) {
                    self.errors.push(FieldError::required(&join(path, name), ""));
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(checks, value, path);
    }

    fn number(&mut self, checks: &Checks, number: f64, value: &Value, path: &str) {
        if let Some(least) = checks.minimum {
            let (fits, word) = if checks.above {
                (number > least, "greater than")
            } else {
                (number >= least, "greater than or equal to")
            };
            if !fits {
                self.invalid(path, value, &format!("should be {word} {least}"));
            }
        }
        if let Some(most) = checks.maximum {
            let (fits, word) = if checks.below {
                (number < most, "less than")
            } else {
                (number <= most, "less than or equal to")
            };
            if !fits {
                self.invalid(path, value, &format!("should be {word} {most}"));
            }
        }
        if let Some(unit) = checks.multiple_of.filter(|unit| *unit > 0.0) {
            let times = number / unit;
            if (times - times.round()).abs() > 1e-9 {
                self.invalid(path, value, &format!("should be a multiple of {unit}"));
            }
        }
    }

    fn text(&mut self, checks: &Checks, text: &str, value: &Value, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(least) = checks.lengths.0.filter(|least| length < *least) {
            self.invalid(path, value, &format!("should be at least {least} chars long"));
        }
        if let Some(most) = checks.lengths.1.filter(|most| length > *most) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            self.errors.push(FieldError::too_long(path, most));
        }
        if let Some((source, pattern)) = &checks.pattern
            && !pattern.is_match(text)
        {
            self.invalid(path, value, &format!("should match '{source}'"));
        }
    }

    fn combined(&mut self, checks: &Checks, value: &Value, path: &str) {
        let fits = |schema: &Schema| {
            let mut walk = Self::new();
            walk.value(schema, value, None, path);
            walk.errors.is_empty()
        };
        for schema in &checks.all_of {
            self.value(schema, value, None, path);
        }
        if !checks.any_of.is_empty() && !checks.any_of.iter().any(fits) {
            self.invalid(path, value, "must validate at least one schema (anyOf)");
        }
        if !checks.one_of.is_empty() {
            let count = checks.one_of.iter().filter(|schema| fits(schema)).count();
            if count != 1 {
                let found =
                    if count == 0 { "found none valid" } else { "found more than one valid" };
                let why = format!("must validate one and only one schema (oneOf). {found}");
                self.invalid(path, value, &why);
            }
        }
        if checks.not.as_deref().is_some_and(fits) {
            self.invalid(path, value, "must not validate the schema (not)");
        }
    }
}

/// What an element of a keyed list is known by.
fn key(schema: &Schema, item: &Value) -> Value {
    let List::Keyed(keys) = &schema.list else { return Value::Null };
    let defaults = schema.items.as_deref();
    let entries = keys.iter().filter_map(|key| {
        let default = || defaults?.properties.get(key)?.default.as_ref();
        Some((key.clone(), item.get(key).or_else(default)?.clone()))
    });
    Value::Object(entries.collect())
}

/// The elements a list had before, where they can be told from each other.
pub(crate) struct Before<'old>(HashMap<String, &'old Value>);

impl<'old> Before<'old> {
    pub fn of(schema: &Schema, old: Option<&'old Value>) -> Self {
        let items = match schema.list {
            List::Keyed(_) => old.and_then(Value::as_array),
            List::Atomic | List::Set => None,
        };
        let known = items.into_iter().flatten();
        Self(known.map(|item| (key(schema, item).to_string(), item)).collect())
    }

    /// What an element was.
    pub fn find(&self, schema: &Schema, item: &Value) -> Option<&'old Value> {
        if self.0.is_empty() { None } else { self.0.get(&key(schema, item).to_string()).copied() }
    }
}
