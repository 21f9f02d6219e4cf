//! Sets of fields, as managed fields record them: which manager owns which parts of an object.
//!
//! A set is a tree. A node is a member itself, or leads to members, or both. Elements of lists are named by their keys or
//! by their value, as the schema says.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::custom::{Node, Topology};
use crate::schema::{Definition, Form, ListType, Property, Schema, Shape, Type};

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    member: bool,
    /// Names as they stand in JSON: `f:spec`, `k:{"name":"a"}`, `v:"x"`.
    children: BTreeMap<String, Fields>,
}

/// What the schema says about a place.
#[derive(Clone, Copy)]
enum Kind<'schema> {
    Object(&'schema Definition),
    Map(Option<&'schema Property>),
    Keyed(Keyed<'schema>),
    Set,
    Leaf,
    /// An object of a schema that is not in the table.
    CustomObject(&'schema dyn Node),
    /// A map of such a schema.
    CustomMap(&'schema dyn Node),
}

/// A list whose elements have keys.
#[derive(Clone, Copy)]
enum Keyed<'schema> {
    Table(&'schema Property),
    Custom(&'schema dyn Node, &'schema [String]),
}

impl<'schema> From<Schema<'schema>> for Kind<'schema> {
    fn from(schema: Schema<'schema>) -> Self {
        match schema {
            Schema::Table(definition) => Self::Object(definition),
            Schema::Custom(node) => Self::CustomObject(node),
        }
    }
}

impl<'schema> Kind<'schema> {
    fn custom(node: Option<&'schema dyn Node>) -> Self {
        let Some(node) = node else { return Self::Leaf };
        match node.topology() {
            Topology::Table(definition) => Self::Object(definition),
            Topology::Object => Self::CustomObject(node),
            Topology::Map => Self::CustomMap(node),
            Topology::Keyed(keys) => Self::Keyed(Keyed::Custom(node, keys)),
            Topology::Set => Self::Set,
            Topology::Leaf => Self::Leaf,
        }
    }

    fn of(property: Option<&'schema Property>) -> Self {
        let Some(property) = property.filter(|property| !property.atomic()) else {
            return Self::Leaf;
        };
        match property.shape() {
            Shape::Named(_, definition) if definition.form == Form::Object => {
                Self::Object(definition)
            }
            Shape::Basic(Type::Map) => Self::Map(property.element.as_deref()),
            Shape::Basic(Type::Array) => match property.list_type {
                ListType::Map if !property.keys.is_empty() => Self::Keyed(Keyed::Table(property)),
                ListType::Set => Self::Set,
                ListType::Map | ListType::Atomic => Self::Leaf,
            },
            Shape::Named(..) | Shape::Basic(_) => Self::Leaf,
        }
    }

    fn child(self, name: &str) -> Self {
        match self {
            Self::Object(definition) => Self::of(definition.property(name)),
            Self::Map(element) => Self::of(element),
            Self::Keyed(Keyed::Table(property)) => Self::of(property.element.as_deref()),
            Self::Keyed(Keyed::Custom(node, _)) => Self::custom(node.element()),
            Self::CustomObject(node) | Self::CustomMap(node) => Self::custom(node.field(name)),
            Self::Set | Self::Leaf => Self::Leaf,
        }
    }
}

/// The parts of a value, by their names in sets.
fn parts<'value>(kind: Kind<'_>, value: &'value Value) -> Vec<(String, &'value Value)> {
    match (kind, value) {
        (
            Kind::Object(_) | Kind::Map(_) | Kind::CustomObject(_) | Kind::CustomMap(_),
            Value::Object(fields),
        ) => fields.iter().map(|(name, value)| (format!("f:{name}"), value)).collect(),
        (Kind::Keyed(keyed), Value::Array(items)) => {
            items.iter().map(|item| (key_of(keyed, item), item)).collect()
        }
        (Kind::Set, Value::Array(items)) => {
            items.iter().map(|item| (format!("v:{item}"), item)).collect()
        }
        _ => Vec::new(),
    }
}

fn key_of(keyed: Keyed<'_>, item: &Value) -> String {
    let mut keys: Vec<&str> = match keyed {
        Keyed::Table(property) => property.keys.to_vec(),
        Keyed::Custom(_, keys) => keys.iter().map(String::as_str).collect(),
    };
    keys.sort_unstable();
    let entries = keys.into_iter().filter_map(|key| {
        let default = || match keyed {
            // Ports are told apart by their protocol, which may be left out where defaults apply later.
            Keyed::Table(_) => (key == "protocol").then(|| Value::from("TCP")),
            Keyed::Custom(node, _) => node.key_default(key),
        };
        Some((key.to_owned(), item.get(key).cloned().or_else(default)?))
    });
    format!("k:{}", Value::Object(entries.collect::<Map<_, _>>()))
}

/// The kind of the part called `name`.
fn kind_of_part<'schema>(kind: Kind<'schema>, name: &str) -> Kind<'schema> {
    kind.child(name.strip_prefix("f:").unwrap_or_default())
}

/// Fields that no manager owns.
fn unowned(path: &[&str]) -> bool {
    match path {
        ["f:apiVersion" | "f:kind" | "f:metadata"] => true,
        ["f:metadata", field] => matches!(
            field.strip_prefix("f:"),
            Some(
                "name"
                    | "namespace"
                    | "uid"
                    | "resourceVersion"
                    | "generation"
                    | "selfLink"
                    | "creationTimestamp"
                    | "deletionTimestamp"
                    | "deletionGracePeriodSeconds"
                    | "managedFields"
                    | "generateName"
            )
        ),
        _ => false,
    }
}

/// Whether the parts are things of their own, which somebody may own, and not fields that are simply there.
fn is_item(kind: Kind<'_>) -> bool {
    match kind {
        Kind::Map(_) | Kind::CustomMap(_) | Kind::Keyed(_) | Kind::Set => true,
        Kind::Object(_) | Kind::CustomObject(_) | Kind::Leaf => false,
    }
}

impl Fields {
    /// The fields an object has.
    #[must_use]
    pub fn of<'schema>(schema: impl Into<Schema<'schema>>, object: &Value) -> Self {
        let mut all = Self::default();
        all.collect(schema.into().into(), object);
        all.member = false;
        all.strip(&mut Vec::new());
        all
    }

    fn collect(&mut self, kind: Kind<'_>, value: &Value) {
        let parts = parts(kind, value);
        if parts.is_empty() {
            self.member = true;
        }
        for (name, value) in parts {
            let child = self.children.entry(name.clone()).or_default();
            child.collect(kind_of_part(kind, &name), value);
            child.member |= is_item(kind);
        }
    }

    fn strip(&mut self, path: &mut Vec<String>) {
        self.children.retain(|name, child| {
            path.push(name.clone());
            let words: Vec<_> = path.iter().map(String::as_str).collect();
            if unowned(&words) {
                child.member = false;
                if name != "f:metadata" {
                    child.children.clear();
                }
            }
            if path.len() < 2 {
                child.strip(path);
            }
            path.pop();
            !child.is_empty()
        });
    }

    /// Fields whose value in `new` is another than in `old`, or which `old` lacks.
    #[must_use]
    pub fn changed<'schema>(schema: impl Into<Schema<'schema>>, old: &Value, new: &Value) -> Self {
        let mut all = Self::default();
        all.compare(schema.into().into(), Some(old), new);
        all.member = false;
        all.strip(&mut Vec::new());
        all
    }

    fn compare(&mut self, kind: Kind<'_>, old: Option<&Value>, new: &Value) {
        let new_parts = parts(kind, new);
        if new_parts.is_empty() {
            self.member = old != Some(new);
            return;
        }
        let old_parts: BTreeMap<_, _> =
            old.map(|old| parts(kind, old)).unwrap_or_default().into_iter().collect();
        self.member = old.is_none() && matches!(kind, Kind::Map(_) | Kind::CustomMap(_));
        for (name, value) in new_parts {
            let before = old_parts.get(&name).copied();
            let mut child = Self::default();
            child.compare(kind_of_part(kind, &name), before, value);
            child.member |= before.is_none() && is_item(kind);
            if !child.is_empty() {
                self.children.insert(name, child);
            }
        }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// What is in both. An ancestor in one does not stand for its parts in the other.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(name, child)| {
            let both = child.intersection(other.children.get(name)?);
            (!both.is_empty()).then(|| (name.clone(), both))
        });
        Self { member: self.member && other.member, children: children.collect() }
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(name, child)| {
            let rest = match other.children.get(name) {
                Some(gone) => child.difference(gone),
                None => child.clone(),
            };
            (!rest.is_empty()).then(|| (name.clone(), rest))
        });
        Self { member: self.member && !other.member, children: children.collect() }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.member |= other.member;
        for (name, child) in &other.children {
            let own = self.children.remove(name).unwrap_or_default();
            self.children.insert(name.clone(), own.union(child));
        }
        self
    }

    /// Makes the nodes members that lead to members here and are members there.
    pub(crate) fn containers(mut self, other: &Self) -> Self {
        for (name, child) in &mut self.children {
            if let Some(there) = other.children.get(name) {
                child.member |= there.member;
                *child = std::mem::take(child).containers(there);
            }
        }
        self
    }

    /// With every named field that leads to a member made a member itself. Items of maps and lists are no such fields.
    pub(crate) fn with_named(mut self, schema: Schema<'_>) -> Self {
        self.name_all(schema.into());
        // Nobody owns the metadata as such, nor its name.
        self.strip(&mut Vec::new());
        self
    }

    fn name_all(&mut self, kind: Kind<'_>) {
        for (name, child) in &mut self.children {
            child.member |= matches!(kind, Kind::Object(_) | Kind::CustomObject(_));
            child.name_all(kind_of_part(kind, name));
        }
    }

    /// The form in managed fields.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = Map::new();
        if self.member && !self.children.is_empty() {
            value.insert(".".into(), Value::Object(Map::new()));
        }
        for (name, child) in &self.children {
            value.insert(name.clone(), child.to_value());
        }
        Value::Object(value)
    }

    /// Reads the form in managed fields.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let mut root = Self::read(value);
        root.member = false;
        root
    }

    fn read(value: &Value) -> Self {
        let mut fields = Self::default();
        let entries = value.as_object();
        fields.member = entries.is_none_or(Map::is_empty);
        for (name, child) in entries.into_iter().flatten() {
            if name == "." {
                fields.member = true;
            } else {
                fields.children.insert(name.clone(), Self::read(child));
            }
        }
        fields
    }

    /// The members as people read them: `.spec.containers[name="a"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.write_paths(String::new(), &mut paths);
        paths
    }

    fn write_paths(&self, path: String, paths: &mut Vec<String>) {
        for (name, child) in &self.children {
            child.write_paths(path.clone() + &readable(name), paths);
        }
        if self.member {
            paths.push(path);
        }
    }

    /// Takes the members of this set out of an object, with all that is in them.
    pub fn remove_from<'schema>(&self, schema: impl Into<Schema<'schema>>, object: &mut Value) {
        self.remove(schema.into().into(), object);
    }

    fn remove(&self, kind: Kind<'_>, value: &mut Value) {
        let goes = |child: &Self, kind: Kind<'_>, value: &mut Value| {
            if child.member {
                return true;
            }
            child.remove(kind, value);
            // What held nothing else goes with its contents.
            match &*value {
                Value::Object(fields) => fields.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            }
        };
        match value {
            Value::Object(fields) => fields.retain(|name, value| {
                let Some(child) = self.children.get(&format!("f:{name}")) else { return true };
                !goes(child, kind.child(name), value)
            }),
            Value::Array(items) => items.retain_mut(|item| {
                let name = match kind {
                    Kind::Keyed(keyed) => key_of(keyed, item),
                    Kind::Set => format!("v:{item}"),
                    Kind::Object(_)
                    | Kind::Map(_)
                    | Kind::CustomObject(_)
                    | Kind::CustomMap(_)
                    | Kind::Leaf => return true,
                };
                let Some(child) = self.children.get(&name) else { return true };
                !goes(child, kind.child(""), item)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

fn readable(name: &str) -> String {
    match name.split_once(':') {
        Some(("f", field)) => format!(".{field}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{name}]"),
    }
}

/// Merges an applied configuration into an object: maps and keyed lists merge, everything else is replaced.
pub fn merge_applied<'schema>(
    schema: impl Into<Schema<'schema>>,
    object: &mut Value,
    applied: &Value,
) {
    merge(schema.into().into(), object, applied);
}

fn merge(kind: Kind<'_>, object: &mut Value, applied: &Value) {
    match (kind, &mut *object, applied) {
        (
            Kind::Object(_) | Kind::Map(_) | Kind::CustomObject(_) | Kind::CustomMap(_),
            Value::Object(fields),
            Value::Object(changes),
        ) => {
            for (name, change) in changes {
                match fields.get_mut(name) {
                    Some(place) => merge(kind.child(name), place, change),
                    None => drop(fields.insert(name.clone(), change.clone())),
                }
            }
        }
        (Kind::Keyed(_) | Kind::Set, Value::Array(items), Value::Array(changes)) => {
            *items = merge_items(kind, std::mem::take(items), changes);
        }
        _ => *object = applied.clone(),
    }
}

fn item_name(kind: Kind<'_>, item: &Value) -> String {
    match kind {
        Kind::Keyed(keyed) => key_of(keyed, item),
        _ => format!("v:{item}"),
    }
}

/// Applied items come in their own order; items only the object has keep their place among those they stood with.
fn merge_items(kind: Kind<'_>, items: Vec<Value>, changes: &[Value]) -> Vec<Value> {
    let wanted: Vec<String> = changes.iter().map(|change| item_name(kind, change)).collect();
    let mut placed = vec![false; wanted.len()];
    let mut next = 0;
    let mut merged = Vec::with_capacity(items.len() + changes.len());
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    let names: Vec<String> = items.iter().map(|item| item_name(kind, item)).collect();
    for (name, item) in names.iter().zip(&items) {
        if wanted.contains(name) {
            known.entry(name.clone()).or_insert_with(|| item.clone());
        }
    }
    let mut place = |at: usize, merged: &mut Vec<Value>| {
        if std::mem::replace(&mut placed[at], true) {
            return;
        }
        let mut item = known.remove(&wanted[at]).unwrap_or_else(|| changes[at].clone());
        merge(kind.child(""), &mut item, &changes[at]);
        merged.push(item);
    };
    for (name, item) in names.iter().zip(items) {
        match wanted.iter().position(|wanted| wanted == name) {
            None => merged.push(item),
            Some(at) => {
                while next <= at {
                    place(next, &mut merged);
                    next += 1;
                }
            }
        }
    }
    while next < changes.len() {
        place(next, &mut merged);
        next += 1;
    }
    merged
}
