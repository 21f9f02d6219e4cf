//! The table of object schemas: types, list and map kinds, merge keys, protobuf numbers.
//!
//! The table is text inside the program and is parsed once into small structs that borrow their names from it; descriptions
//! stay unread until somebody asks for documentation.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::custom::Node;

const TABLE: &str = include_str!("../data/schema.json");
const DESCRIPTIONS: &str = include_str!("../data/descriptions.json");

/// The schema of object metadata.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// All definitions.
pub struct Schemas {
    definitions: HashMap<&'static str, Definition>,
    kinds: HashMap<(&'static str, &'static str, &'static str), &'static str>,
}

/// One named type.
#[derive(Debug, Deserialize)]
pub struct DefinitionOf<'table> {
    #[serde(rename = "p", borrow, default)]
    properties: HashMap<&'table str, PropertyOf<'table>>,
    /// Names of the properties that must be there.
    #[serde(rename = "q", borrow, default)]
    pub required: Box<[&'table str]>,
    /// `atomic` when the whole is owned by one manager.
    #[serde(rename = "m", default)]
    pub map_type: Option<&'table str>,
    /// What it is when it is no object with properties.
    #[serde(rename = "s", default)]
    pub form: Form,
    #[serde(rename = "k", borrow, default)]
    kinds: Box<[(&'table str, &'table str, &'table str)]>,
}

/// A definition of the built-in table.
pub type Definition = DefinitionOf<'static>;

/// Types whose JSON form is special.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// An object with properties.
    #[default]
    Object,
    /// A number with a suffix.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// A moment, to the second.
    Time,
    /// A moment, to the microsecond.
    MicroTime,
    /// Any JSON.
    Raw,
    /// A schema or a list of schemas, within a custom resource's definition.
    SchemaOrArray,
    /// A schema or a flag.
    SchemaOrBool,
    /// A schema or a list of names.
    SchemaOrStrings,
}

/// What stands in the alternative forms.
pub const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// A basic type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Type {
    /// Text.
    #[serde(rename = "s")]
    String,
    /// A whole number.
    #[serde(rename = "i")]
    Integer,
    /// A number.
    #[serde(rename = "n")]
    Number,
    /// True or false.
    #[serde(rename = "b")]
    Boolean,
    /// An object without a schema.
    #[serde(rename = "o")]
    Object,
    /// A list.
    #[serde(rename = "a")]
    Array,
    /// A map with string keys.
    #[serde(rename = "m")]
    Map,
}

/// How a list is merged and owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ListType {
    /// As one value.
    #[default]
    Atomic,
    /// By its values.
    Set,
    /// By its elements' keys.
    Map,
}

/// What a protobuf field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Wire {
    /// Text.
    #[serde(rename = "s")]
    String,
    /// Bytes, base64 in JSON.
    #[serde(rename = "y")]
    Bytes,
    /// True or false.
    #[serde(rename = "b")]
    Boolean,
    /// An integer.
    #[serde(rename = "i")]
    Integer,
    /// A floating-point number.
    #[serde(rename = "d")]
    Double,
    /// A message.
    #[serde(rename = "m")]
    Message,
    /// A message that repeats a string.
    #[serde(rename = "l")]
    Strings,
}

/// One number, or the path of numbers through nested messages.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Tag {
    /// Directly in the message.
    One(u32),
    /// Outermost first.
    Path(Box<[u32]>),
}

/// A property, or the element of a list or map.
#[derive(Debug, Deserialize)]
pub struct PropertyOf<'table> {
    #[serde(rename = "t", default)]
    basic: Option<Type>,
    #[serde(rename = "r", default)]
    reference: Option<&'table str>,
    /// The element of a list or the value of a map.
    #[serde(rename = "e", borrow, default)]
    pub element: Option<Box<PropertyOf<'table>>>,
    /// `int32`, `int64`, `double`, `byte`.
    #[serde(rename = "f", default)]
    pub format: Option<&'table str>,
    /// How a list is owned.
    #[serde(rename = "l", default)]
    pub list_type: ListType,
    /// What distinguishes elements in server-side apply.
    #[serde(rename = "k", borrow, default)]
    pub keys: Box<[&'table str]>,
    /// What distinguishes elements in strategic merge.
    #[serde(rename = "pk", default)]
    pub merge_key: Option<&'table str>,
    #[serde(rename = "ps", borrow, default)]
    strategies: Box<[&'table str]>,
    #[serde(rename = "mt", default)]
    map_type: Option<&'table str>,
    /// The protobuf field.
    #[serde(rename = "g", default)]
    pub tag: Option<Tag>,
    /// What the protobuf field holds.
    #[serde(rename = "w", default)]
    pub wire: Option<Wire>,
}

/// A property of the built-in table.
pub type Property = PropertyOf<'static>;

/// What a value must look like.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// One of the basic types; lists and maps have an element.
    Basic(Type),
    /// A named definition.
    Named(&'static str, &'static Definition),
}

/// The schema of a whole object: from the table, or defined at run time.
#[derive(Debug, Clone, Copy)]
pub enum Schema<'a> {
    /// A definition of the built-in table.
    Table(&'a Definition),
    /// The schema of a kind that was defined at run time.
    Custom(&'a dyn Node),
}

impl<'a> From<&'a Definition> for Schema<'a> {
    fn from(definition: &'a Definition) -> Self {
        Self::Table(definition)
    }
}

impl Schemas {
    /// The built-in table.
    pub fn builtin() -> &'static Self {
        static BUILTIN: LazyLock<Schemas> = LazyLock::new(|| {
            let definitions: HashMap<&'static str, Definition> =
                serde_json::from_str(TABLE).expect("the table is checked by a test");
            let kinds = definitions
                .iter()
                .flat_map(|(name, definition)| definition.kinds.iter().map(|kind| (*kind, *name)));
            let kinds = kinds.collect();
            Schemas { definitions, kinds }
        });
        &BUILTIN
    }

    /// A definition by its OpenAPI name.
    #[must_use]
    pub fn definition(&'static self, name: &str) -> Option<&'static Definition> {
        self.definitions.get(name)
    }

    /// A definition with its name, which outlives the text asked with.
    #[must_use]
    pub fn entry(&'static self, name: &str) -> Option<(&'static str, &'static Definition)> {
        self.definitions.get_key_value(name).map(|(name, definition)| (*name, definition))
    }

    /// Group, version and kind of everything that has a schema.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.kinds.keys().copied()
    }

    /// The name and definition of a kind.
    #[must_use]
    pub fn kind(
        &'static self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<(&'static str, &'static Definition)> {
        let name =
            self.kinds.iter().find(|((g, v, k), _)| (*g, *v, *k) == (group, version, kind))?.1;
        Some((name, self.definition(name)?))
    }
}

impl Definition {
    /// A property by name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.get(name)
    }

    /// All properties, by name.
    pub fn properties(&self) -> impl Iterator<Item = (&'static str, &Property)> {
        let mut all: Vec<_> = self.properties.iter().map(|(name, is)| (*name, is)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all.into_iter()
    }

    /// All properties in no order, for those who look for one.
    pub(crate) fn unordered(&self) -> impl Iterator<Item = (&'static str, &Property)> {
        self.properties.iter().map(|(name, is)| (*name, is))
    }

    /// The kinds that have this schema: group, version, kind.
    #[must_use]
    pub fn kinds(&self) -> &[(&'static str, &'static str, &'static str)] {
        &self.kinds
    }

    /// Whether one manager owns the whole.
    #[must_use]
    pub fn atomic(&self) -> bool {
        self.map_type == Some("atomic")
    }
}

impl Property {
    /// What a value here must look like.
    #[must_use]
    pub fn shape(&self) -> Shape {
        match (self.reference, self.basic) {
            (Some(name), _) => {
                let definition = Schemas::builtin().definition(name);
                Shape::Named(name, definition.expect("every reference is checked by a test"))
            }
            (None, basic) => Shape::Basic(basic.unwrap_or(Type::Object)),
        }
    }

    /// Whether strategic merge combines this list instead of replacing it.
    #[must_use]
    pub fn merges(&self) -> bool {
        self.strategies.contains(&"merge")
    }

    /// Whether strategic merge replaces this object instead of combining it.
    #[must_use]
    pub fn replaces(&self) -> bool {
        self.strategies.contains(&"replace")
    }

    /// The strategies by name, as OpenAPI publishes them.
    #[must_use]
    pub fn strategies(&self) -> &[&'static str] {
        &self.strategies
    }

    /// Whether one manager owns this map or object as a whole.
    #[must_use]
    pub fn atomic(&self) -> bool {
        self.map_type == Some("atomic")
            || matches!(self.shape(), Shape::Named(_, definition) if definition.atomic())
    }
}

/// The tables as they are written: another text is another description of the API.
#[must_use]
pub fn sources() -> [&'static str; 2] {
    [TABLE, DESCRIPTIONS]
}

/// All texts, parsed anew at each call: definition → property → text, its own text under the empty name.
#[must_use]
pub fn descriptions() -> HashMap<&'static str, HashMap<&'static str, std::borrow::Cow<'static, str>>>
{
    #[derive(Deserialize)]
    struct Text(#[serde(borrow)] std::borrow::Cow<'static, str>);
    let parsed: HashMap<&'static str, HashMap<&'static str, Text>> =
        serde_json::from_str(DESCRIPTIONS).expect("the texts are checked by a test");
    parsed
        .into_iter()
        .map(|(name, texts)| (name, texts.into_iter().map(|(p, t)| (p, t.0)).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(property: &Property) {
        let shape = property.shape();
        if let Shape::Basic(Type::Array | Type::Map) = shape {
            check(property.element.as_deref().expect("lists and maps have elements"));
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let schemas = Schemas::builtin();
        assert!(schemas.definitions.len() > 200);
        for definition in schemas.definitions.values() {
            definition.properties().for_each(|(_, property)| check(property));
        }
        assert!(schemas.kind("apps", "v1", "Deployment").is_some());
    }

    #[test]
    fn descriptions_are_there() {
        assert!(!descriptions()["io.k8s.api.core.v1.Pod"]["spec"].is_empty());
    }
}
