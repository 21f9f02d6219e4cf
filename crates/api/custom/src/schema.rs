//! A structural schema, read once from its definition.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_cel::{Form, Shape};
use berth_objects::schema::{OBJECT_META, Schemas};
use berth_objects::{Node, Object, Topology};
use regex::Regex;
use serde_json::Value;

use crate::format::Format;
use crate::rules::Rule;

/// What a value must look like, and what happens to what does not.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) kind: Option<Type>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) list: List,
    pub(crate) atomic: bool,
    pub(crate) default: Option<Value>,
    pub(crate) checks: Checks,
    pub(crate) rules: Vec<Rule>,
    /// Whether a rule stands here or below.
    pub(crate) ruled: bool,
    root: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// What is known of fields without a name in the schema.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    Nothing,
    Anything,
    Schema(Box<Schema>),
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum List {
    #[default]
    Atomic,
    Set,
    Keyed(Vec<String>),
}

/// What only judges a value.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub required: Vec<String>,
    pub one_of_values: Option<Vec<Value>>,
    pub pattern: Option<(String, Arc<Regex>)>,
    pub format: Option<Format>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub above: bool,
    pub below: bool,
    pub multiple_of: Option<f64>,
    pub lengths: (Option<u64>, Option<u64>),
    pub items: (Option<u64>, Option<u64>),
    pub properties: (Option<u64>, Option<u64>),
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

impl Type {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

fn schemas(value: Option<&Value>) -> Vec<Schema> {
    value.and_then(Value::as_array).into_iter().flatten().map(Schema::parse).collect()
}

impl Checks {
    fn parse(value: &Value) -> Self {
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let count = |name: &str| value.get(name).and_then(Value::as_u64);
        let texts =
            |name: &str| value.list(&[name]).iter().filter_map(Value::as_str).map(String::from);
        let one_of_values = value.get("enum").and_then(Value::as_array).cloned();
        Self {
            required: texts("required").collect(),
            one_of_values: one_of_values.filter(|values| !values.is_empty()),
            pattern: match value.text(&["pattern"]) {
                "" => None,
                text => berth_cel::pattern(text).ok().map(|compiled| (text.to_owned(), compiled)),
            },
            format: Format::parse(value.text(&["format"])),
            minimum: number("minimum"),
            maximum: number("maximum"),
            above: value.flag(&["exclusiveMinimum"]),
            below: value.flag(&["exclusiveMaximum"]),
            multiple_of: number("multipleOf"),
            lengths: (count("minLength"), count("maxLength")),
            items: (count("minItems"), count("maxItems")),
            properties: (count("minProperties"), count("maxProperties")),
            all_of: schemas(value.get("allOf")),
            any_of: schemas(value.get("anyOf")),
            one_of: schemas(value.get("oneOf")),
            not: value.get("not").map(|not| Box::new(Schema::parse(not))),
        }
    }
}

impl Schema {
    /// Reads a schema that was found to be structural. What it cannot read judges nothing.
    #[must_use]
    pub fn parse(value: &Value) -> Self {
        let properties: BTreeMap<String, Self> = value
            .map(&["properties"])
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.clone(), Self::parse(schema)))
            .collect();
        let additional = match value.get("additionalProperties") {
            Some(Value::Bool(true)) => Additional::Anything,
            Some(schema @ Value::Object(_)) => Additional::Schema(Box::new(Self::parse(schema))),
            _ => Additional::Nothing,
        };
        let items = value.get("items").filter(|items| items.is_object());
        let items = items.map(|items| Box::new(Self::parse(items)));
        let keys = value.list(&["x-kubernetes-list-map-keys"]);
        let rules = value.list(&["x-kubernetes-validations"]);
        let rules: Vec<Rule> = rules.iter().filter_map(|rule| Rule::parse(rule).ok()).collect();
        let below = match &additional {
            Additional::Schema(schema) => schema.ruled,
            Additional::Nothing | Additional::Anything => false,
        };
        Self {
            kind: Type::parse(value.text(&["type"])),
            nullable: value.flag(&["nullable"]),
            int_or_string: value.flag(&["x-kubernetes-int-or-string"]),
            preserve: value.flag(&["x-kubernetes-preserve-unknown-fields"]),
            embedded: value.flag(&["x-kubernetes-embedded-resource"]),
            list: match value.text(&["x-kubernetes-list-type"]) {
                "set" => List::Set,
                "map" => {
                    List::Keyed(keys.iter().filter_map(Value::as_str).map(String::from).collect())
                }
                _ => List::Atomic,
            },
            atomic: value.text(&["x-kubernetes-map-type"]) == "atomic",
            default: value.get("default").cloned(),
            checks: Checks::parse(value),
            ruled: !rules.is_empty()
                || below
                || items.as_ref().is_some_and(|items| items.ruled)
                || properties.values().any(|schema| schema.ruled),
            rules,
            properties,
            additional,
            items,
            root: false,
        }
    }

    /// Reads the schema of a whole object.
    #[must_use]
    pub fn parse_root(value: &Value) -> Self {
        Self { root: true, ..Self::parse(value) }
    }

    /// The schema of a field, by name or for any name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            Additional::Nothing | Additional::Anything => None,
        })
    }

    /// Whether this is an object with type, kind and metadata.
    pub(crate) fn is_object_of_api(&self) -> bool {
        self.root || self.embedded
    }

    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |schema, name| schema.child(name))
    }
}

/// Fields nobody knows, where they are preserved: maps are open, everything else is one value.
#[derive(Debug)]
struct Unknown;

impl Node for Unknown {
    fn topology(&self) -> Topology<'_> {
        Topology::Object
    }
    fn field(&self, _: &str) -> Option<&dyn Node> {
        Some(self)
    }
    fn element(&self) -> Option<&dyn Node> {
        None
    }
    fn key_default(&self, _: &str) -> Option<Value> {
        None
    }
}

/// Metadata, which has the same schema everywhere.
#[derive(Debug)]
struct Metadata;

impl Node for Metadata {
    fn topology(&self) -> Topology<'_> {
        Schemas::builtin().definition(OBJECT_META).map_or(Topology::Leaf, Topology::Table)
    }
    fn field(&self, _: &str) -> Option<&dyn Node> {
        None
    }
    fn element(&self) -> Option<&dyn Node> {
        None
    }
    fn key_default(&self, _: &str) -> Option<Value> {
        None
    }
}

impl Node for Schema {
    fn topology(&self) -> Topology<'_> {
        match (self.kind, &self.list) {
            (Some(Type::Object), _) if self.atomic => Topology::Leaf,
            (Some(Type::Object), _)
                if self.properties.is_empty() && !self.preserve && !self.root =>
            {
                Topology::Map
            }
            (Some(Type::Object), _) => Topology::Object,
            (None, _) if self.preserve => Topology::Object,
            (Some(Type::Array), List::Set) => Topology::Set,
            (Some(Type::Array), List::Keyed(keys)) if !keys.is_empty() => Topology::Keyed(keys),
            _ => Topology::Leaf,
        }
    }

    fn field(&self, name: &str) -> Option<&dyn Node> {
        if name == "metadata" && self.is_object_of_api() {
            return Some(&Metadata);
        }
        match (self.child(name), self.preserve) {
            (Some(schema), _) => Some(schema),
            (None, true) => Some(&Unknown),
            (None, false) => None,
        }
    }

    fn element(&self) -> Option<&dyn Node> {
        self.items.as_deref().map(|items| items as &dyn Node)
    }

    fn key_default(&self, key: &str) -> Option<Value> {
        self.items.as_deref()?.properties.get(key)?.default.clone()
    }
}

impl Shape for Schema {
    fn form(&self) -> Form {
        match (self.kind, &self.checks.format) {
            (Some(Type::Number), _) => Form::Fraction,
            (Some(Type::String), Some(Format::Moment | Format::Date)) => Form::Moment,
            (Some(Type::String), Some(Format::Duration)) => Form::Duration,
            (Some(Type::String), Some(Format::Bytes)) => Form::Bytes,
            _ => Form::Plain,
        }
    }

    fn field(&self, name: &str) -> Option<&dyn Shape> {
        self.child(name).map(|schema| schema as &dyn Shape)
    }

    fn element(&self) -> Option<&dyn Shape> {
        self.items.as_deref().map(|items| items as &dyn Shape)
    }
}

/// The fields of an object that are about the object itself.
pub(crate) const ABOUT: [&str; 3] = ["apiVersion", "kind", "metadata"];
