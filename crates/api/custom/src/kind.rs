//! A kind in one version, as the machinery sees it.

use std::sync::Arc;

use berth_objects::{
    Column, Custom, FieldError, Lists, Node, Object, Resource, Subresource, Topology, VERBS, time,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::jsonpath::Path;
use crate::publish;
use crate::rules::Judge;
use crate::schema::Schema;
use crate::validate::Walk;

/// Where the number of replicas is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// In the specification.
    pub wanted: Vec<String>,
    /// In the status.
    pub present: Vec<String>,
    /// The selector of pods as text, if there is one.
    pub selector: Option<Vec<String>>,
}

/// How objects of one version become objects of another.
#[derive(Debug, Clone, PartialEq)]
pub enum Conversion {
    /// Only the version's name changes.
    Rename,
    /// A webhook is asked; its `clientConfig` says where.
    Ask(Value),
}

#[derive(Debug)]
struct Printed {
    name: String,
    kind: String,
    wide: bool,
    path: Option<Path>,
}

/// A kind in one version.
#[derive(Debug)]
pub struct Kind {
    group: String,
    version: String,
    kind: String,
    list_kind: String,
    plural: String,
    singular: String,
    short: Vec<String>,
    categories: Vec<String>,
    namespaced: bool,
    subresources: Vec<Subresource>,
    selectable: Vec<String>,
    printed: Vec<Printed>,
    schema: Schema,
    /// The definition, of which this kind is one version: what is rarely asked for is read from it when it is.
    definition: Arc<Value>,
    scale: Option<Scale>,
    storage: String,
    conversion: Conversion,
    /// What clients are told who use this version.
    pub warning: Option<String>,
    /// The definition is going, and its objects with it.
    pub terminating: bool,
    /// The definition's uid and generation, which together name this edition of the kind.
    pub edition: (String, i64),
}

fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    value.list(path).iter().filter_map(Value::as_str).map(String::from).collect()
}

/// The version objects of a definition are stored in.
#[must_use]
pub fn storage(definition: &Value) -> &str {
    let versions = definition.list(&["spec", "versions"]);
    versions.iter().find(|it| it.flag(&["storage"])).map_or("", |it| it.text(&["name"]))
}

/// The kinds of a definition, one for each version that is served. Their names are those that were accepted.
#[must_use]
pub fn kinds(definition: &Arc<Value>) -> Vec<Kind> {
    let versions = definition.list(&["spec", "versions"]);
    versions
        .iter()
        .filter(|version| version.flag(&["served"]))
        .map(|version| Kind::new(definition, version))
        .collect()
}

/// The kind in the version its objects are stored in, served or not.
#[must_use]
pub fn stored_kind(definition: &Arc<Value>) -> Option<Kind> {
    let versions = definition.list(&["spec", "versions"]);
    let version = versions.iter().find(|version| version.flag(&["storage"]))?;
    Some(Kind::new(definition, version))
}

impl Kind {
    fn new(shared: &Arc<Value>, version: &Value) -> Self {
        let definition: &Value = shared;
        let names = definition.at(&["status", "acceptedNames"]).unwrap_or(&Value::Null);
        let (group, name) = (definition.text(&["spec", "group"]), version.text(&["name"]));
        let schema = version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&Value::Null);
        let path = |text: &str| -> Vec<String> {
            let path = Path::parse(text);
            let plain = path.as_ref().and_then(Path::plain).unwrap_or_default();
            plain.into_iter().map(String::from).collect()
        };
        let scale = version.at(&["subresources", "scale"]).map(|scale| Scale {
            wanted: path(scale.text(&["specReplicasPath"])),
            present: path(scale.text(&["statusReplicasPath"])),
            selector: Some(scale.text(&["labelSelectorPath"]))
                .filter(|it| !it.is_empty())
                .map(path),
        });
        let mut subresources = Vec::new();
        if version.at(&["subresources", "status"]).is_some() {
            subresources.push(Subresource::Status);
        }
        if scale.is_some() {
            subresources.push(Subresource::Scale);
        }
        let kind = names.text(&["kind"]).to_owned();
        let selectable = version.list(&["selectableFields"]).iter();
        let deprecated =
            version.flag(&["deprecated"]).then(|| match version.text(&["deprecationWarning"]) {
                "" => format!("{group}/{name} {kind} is deprecated"),
                text => text.to_owned(),
            });
        Self {
            schema: Schema::parse_root(schema),
            list_kind: names.text(&["listKind"]).to_owned(),
            plural: names.text(&["plural"]).to_owned(),
            singular: names.text(&["singular"]).to_owned(),
            short: texts(names, &["shortNames"]),
            categories: texts(names, &["categories"]),
            kind,
            namespaced: definition.text(&["spec", "scope"]) == "Namespaced",
            subresources,
            selectable: selectable
                .map(|field| field.text(&["jsonPath"]).trim_start_matches('.').to_owned())
                .collect(),
            printed: printed(version.list(&["additionalPrinterColumns"])),
            scale,
            storage: storage(definition).to_owned(),
            conversion: match definition.text(&["spec", "conversion", "strategy"]) {
                "Webhook" => Conversion::Ask(
                    definition
                        .at(&["spec", "conversion", "webhook", "clientConfig"])
                        .cloned()
                        .unwrap_or_default(),
                ),
                _ => Conversion::Rename,
            },
            warning: deprecated,
            terminating: definition.deleting(),
            edition: (
                definition.uid().to_owned(),
                definition.integer(&["metadata", "generation"]).unwrap_or(0),
            ),
            group: group.to_owned(),
            version: name.to_owned(),
            definition: Arc::clone(shared),
        }
    }

    /// The kind behind a resource that was defined at run time.
    #[must_use]
    pub fn of<'a>(resource: &Resource<'a>) -> Option<&'a Self> {
        let custom: &dyn std::any::Any = resource.custom?;
        custom.downcast_ref()
    }

    /// Where the number of replicas is, if there is one.
    #[must_use]
    pub fn scale(&self) -> Option<&Scale> {
        self.scale.as_ref()
    }

    /// `WidgetList`.
    #[must_use]
    pub fn list_kind(&self) -> &str {
        &self.list_kind
    }

    /// The schema for OpenAPI 3.0.
    #[must_use]
    pub fn published(&self) -> Value {
        let versions = self.definition.list(&["spec", "versions"]);
        let version = versions.iter().find(|version| version.text(&["name"]) == self.version);
        let schema = version.and_then(|version| version.at(&["schema", "openAPIV3Schema"]));
        publish::root(schema.unwrap_or(&Value::Null), &self.group, &self.version, &self.kind)
    }

    /// How objects become those of another version.
    #[must_use]
    pub fn conversion(&self) -> &Conversion {
        &self.conversion
    }

    /// `example.com/v1`, in which objects are stored.
    #[must_use]
    pub fn storage(&self) -> String {
        format!("{}/{}", self.group, self.storage)
    }
}

fn printed(columns: &[Value]) -> Vec<Printed> {
    if columns.is_empty() {
        return vec![Printed {
            name: "Age".into(),
            kind: "date".into(),
            wide: false,
            path: Path::parse(".metadata.creationTimestamp"),
        }];
    }
    columns
        .iter()
        .map(|column| Printed {
            name: column.text(&["name"]).to_owned(),
            kind: column.text(&["type"]).to_owned(),
            wide: column.integer(&["priority"]).unwrap_or(0) > 0,
            path: Path::parse(column.text(&["jsonPath"])),
        })
        .collect()
}

impl Printed {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().map(|path| path.find(object)).unwrap_or_default();
        let Some(first) = found.first() else { return Value::Null };
        let whole = |number: f64| Value::from(number);
        match (self.kind.as_str(), first) {
            ("integer", Value::Number(number)) if number.is_f64() => {
                format!("{:.0}", number.as_f64().unwrap_or(0.0))
                    .parse::<i64>()
                    .map_or(Value::Null, Value::from)
            }
            ("integer", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
            ("number", Value::Number(number)) => whole(number.as_f64().unwrap_or(0.0)),
            ("date", Value::String(text)) => match time::parse(text) {
                Some(moment) => time::age(moment, now).into(),
                None => "<invalid>".into(),
            },
            ("string", _) => {
                let texts = found.iter().map(|value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                texts.collect::<Vec<_>>().join(",").into()
            }
            _ => Value::Null,
        }
    }
}

impl Node for Kind {
    fn topology(&self) -> Topology<'_> {
        self.schema.topology()
    }

    fn field(&self, name: &str) -> Option<&dyn Node> {
        Node::field(&self.schema, name)
    }

    fn element(&self) -> Option<&dyn Node> {
        None
    }

    fn key_default(&self, _: &str) -> Option<Value> {
        None
    }
}

const PARTS: [&[Subresource]; 4] = [
    &[],
    &[Subresource::Status],
    &[Subresource::Scale],
    &[Subresource::Status, Subresource::Scale],
];

impl Custom for Kind {
    fn lists(&self) -> Lists<'_> {
        fn borrowed(list: &[String]) -> Vec<&str> {
            list.iter().map(String::as_str).collect()
        }
        let columns = self.printed.iter().map(|printed| Column {
            name: &printed.name,
            kind: &printed.kind,
            wide: printed.wide,
        });
        Lists {
            short: borrowed(&self.short),
            categories: borrowed(&self.categories),
            selectable: borrowed(&self.selectable),
            columns: columns.collect(),
        }
    }

    fn resource<'a>(&'a self, lists: &'a Lists<'a>) -> Resource<'a> {
        let parts = PARTS.into_iter().find(|parts| *parts == self.subresources.as_slice());
        Resource {
            group: &self.group,
            version: &self.version,
            kind: &self.kind,
            plural: &self.plural,
            singular: &self.singular,
            short: &lists.short,
            categories: &lists.categories,
            scope: if self.namespaced {
                berth_objects::Scope::Namespaced
            } else {
                berth_objects::Scope::Cluster
            },
            verbs: &VERBS,
            subresources: parts.unwrap_or_default(),
            selectable: &lists.selectable,
            columns: &lists.columns,
            cells: |_, _| Vec::new(),
            custom: Some(self),
        }
    }

    fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.schema.prune(object, "", &mut unknown);
        unknown
    }

    fn default(&self, object: &mut Value) {
        self.schema.fill(object);
    }

    fn validate(
        &self,
        object: &Value,
        old: Option<&Value>,
        part: Option<Subresource>,
    ) -> Vec<FieldError> {
        let mut walk = Walk::new();
        walk.run(&self.schema, object, old);
        if let (None | Some(Subresource::Scale), Some(scale)) = (part, &self.scale) {
            let path: Vec<&str> = scale.wanted.iter().map(String::as_str).collect();
            if let Some(value) = object.at(&path).filter(|value| {
                value.as_i64().is_some_and(|number| i32::try_from(number).is_err() || number < 0)
            }) {
                let why = "should be a non-negative integer";
                walk.errors.push(FieldError::invalid(&scale.wanted.join("."), value, why));
            }
        }
        if !self.schema.ruled {
            return walk.errors;
        }
        if !walk.errors.is_empty() {
            let why = "some validation rules were not checked because the object was invalid; \
                correct the existing errors to complete validation";
            walk.errors.push(FieldError::invalid("<nil>", &Value::Null, why));
            return walk.errors;
        }
        let mut judge = Judge::new();
        judge.run(&self.schema, object, old, "");
        judge.errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.printed.iter().map(|printed| printed.cell(object, now)).collect()
    }
}
