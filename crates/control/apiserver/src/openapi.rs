//! OpenAPI v3, one document for each group and version: what clients validate with, and what `kubectl explain` shows.
//!
//! Documents are made on request and not kept: they are large, and clients keep them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use berth_custom::Kind;
use berth_objects::schema::{
    Definition, Form, ListType, OBJECT_META, Property, Schemas, Shape, Type, descriptions, sources,
};
use berth_objects::{Resource, Subresource};
use http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Request, Response};
use serde_json::{Map, Value, json};

use crate::discovery::{groups, tag, versions};
use crate::kinds::Served;
use crate::output::list_kind;
use crate::path::Query;
use crate::service::{header, raw};
use crate::{Body, VERSION};

/// Patches have no schema of their own; any object is one.
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

type Texts = std::collections::HashMap<
    &'static str,
    std::collections::HashMap<&'static str, std::borrow::Cow<'static, str>>,
>;

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// What all documents are made from, in short. Clients keep a document as long as this is the same; making the documents
/// only to name them would take far longer.
pub(crate) fn edition() -> &'static str {
    static EDITION: LazyLock<String> = LazyLock::new(|| {
        let mut all = VERSION.as_bytes().to_vec();
        sources().iter().for_each(|text| all.extend_from_slice(text.as_bytes()));
        for resource in berth_rules::resources() {
            let parts: Vec<_> = resource.subresources.iter().map(|part| part.name()).collect();
            let names = (resource.group, resource.version, resource.plural, resource.scope, parts);
            all.extend_from_slice(format!("{names:?}").as_bytes());
        }
        tag(&all)
    });
    &EDITION
}

/// The name of the schema of a kind that was defined at run time: `com.example.v1.Widget`.
fn custom_name(resource: &Resource<'_>) -> String {
    let parts: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
}

/// The editions of all groups and versions that were defined at run time.
pub(crate) fn editions(served: &Served) -> BTreeMap<(String, String), String> {
    let mut texts: BTreeMap<(String, String), String> = BTreeMap::new();
    for resource in served.resources() {
        let Some(kind) = Kind::of(resource) else { continue };
        let parts: Vec<_> = resource.subresources.iter().map(|part| part.name()).collect();
        let names = (resource.kind, resource.plural, resource.scope, parts, kind.list_kind());
        let place = (resource.group.to_owned(), resource.version.to_owned());
        let text = texts.entry(place).or_insert_with(|| edition().to_owned());
        text.push_str(&format!("{names:?}{:?}", kind.edition));
    }
    texts.into_iter().map(|(place, text)| (place, tag(text.as_bytes()))).collect()
}

/// What a client knows the document of a group and version by.
fn edition_of<'a>(served: &'a Served, group: &str, version: &str) -> &'a str {
    let editions = &served.documents().editions;
    editions.get(&(group.to_owned(), version.to_owned())).map_or(edition(), String::as_str)
}

/// What a client knows the document of everything by.
pub(crate) fn edition_of_all(served: &Served) -> String {
    let editions = &served.documents().editions;
    match editions.is_empty() {
        true => edition().to_owned(),
        false => tag(format!("{}{editions:?}", edition()).as_bytes()),
    }
}

/// Where the documents are.
pub(crate) fn index(served: &Served) -> Value {
    let mut paths = Map::new();
    for group in groups(served).into_keys() {
        for version in versions(served, group) {
            let root = root(group, version);
            let url = format!("/openapi/v3/{root}?hash={}", edition_of(served, group, version));
            paths.insert(root, json!({"serverRelativeURL": url}));
        }
    }
    for ((group, version), remote) in served.remotes().iter() {
        let root = root(group, version);
        // Without a document of the other's there is none, whatever this server had there.
        paths.shift_remove(&root);
        let edition = remote.described.as_ref().and_then(|it| it.edition.as_ref());
        if let Some(edition) = edition.filter(|_| remote.available == Some(true)) {
            let url = format!("/openapi/v3/{root}?hash={edition}");
            paths.insert(root, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// The document of a group in a version. Under the name the index gives it, it never changes, and clients that keep it
/// need not ask again.
pub(crate) fn answer(
    served: &Served,
    group: &str,
    version: &str,
    request: &Request<Body>,
) -> Option<Response<Body>> {
    if !versions(served, group).contains(&version) {
        return None;
    }
    let edition = edition_of(served, group, version);
    let quoted = format!("\"{edition}\"");
    let mut response = if header(request.headers(), IF_NONE_MATCH.as_str()) == quoted {
        raw(304, "application/json", "")
    } else {
        raw(200, "application/json", render(served, group, version).to_string())
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(&quoted).ok()?);
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    let query = Query::parse(request.uri().query());
    if query.text("hash") == edition {
        let forever = "public, immutable, max-age=31536000";
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(forever));
    }
    Some(response)
}

fn render(served: &Served, group: &str, version: &str) -> Value {
    let mut paths = BTreeMap::new();
    let all = groups(served).remove(group).unwrap_or_default();
    let of_version = all.into_iter().filter(|resource| resource.version == version);
    let schemas = components(of_version, &mut paths);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The schemas of all kinds.
pub(crate) fn schemas(served: &Served) -> Map<String, Value> {
    components(served.resources(), &mut BTreeMap::new())
}

/// The schemas of these kinds and of all they refer to; their paths are added.
fn components<'a>(
    resources: impl Iterator<Item = &'a Resource<'a>>,
    paths: &mut BTreeMap<String, Value>,
) -> Map<String, Value> {
    let texts = descriptions();
    let mut names = BTreeSet::new();
    let mut schemas = BTreeMap::new();
    for resource in resources {
        let name = match Kind::of(resource) {
            Some(kind) => {
                let name = custom_name(resource);
                schemas.insert(name.clone(), kind.published());
                collect(OBJECT_META, &mut names);
                name
            }
            None => {
                let name = resource.definition().0;
                collect(name, &mut names);
                name.to_owned()
            }
        };
        for part in resource.subresources {
            if let Some((group, version, kind)) = part.body()
                && let Some((name, _)) = Schemas::builtin().kind(group, version, kind)
            {
                collect(name, &mut names);
            }
        }
        let list = format!("{name}List");
        if resource.verbs.contains(&"list") {
            schemas.insert(list.clone(), list_schema(resource, &name));
        }
        resource_paths(resource, &name, &list, paths);
    }
    for extra in ["ListMeta", "DeleteOptions", "Status"] {
        collect(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{extra}"), &mut names);
    }
    schemas.insert(PATCH.to_owned(), json!({"type": "object", "description": "A patch."}));
    for name in names {
        if let Some(definition) = Schemas::builtin().definition(name) {
            schemas.insert(name.to_owned(), definition_schema(name, definition, &texts));
        }
    }
    schemas.into_iter().collect()
}

/// A definition and all it refers to.
fn collect(name: &str, names: &mut BTreeSet<&'static str>) {
    let Some(definition) = Schemas::builtin().definition(name) else { return };
    let mut waiting = vec![definition];
    if let Some((known, _)) = Schemas::builtin().entry(name) {
        names.insert(known);
    }
    while let Some(definition) = waiting.pop() {
        for (_, property) in definition.properties() {
            let mut property = property;
            while let (Shape::Basic(_), Some(element)) =
                (property.shape(), property.element.as_deref())
            {
                property = element;
            }
            if let Shape::Named(name, definition) = property.shape()
                && names.insert(name)
            {
                waiting.push(definition);
            }
        }
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn kind_mark((group, version, kind): (&str, &str, &str)) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn list_schema(resource: &Resource, name: &str) -> Value {
    let kind = list_kind(resource);
    json!({
        "type": "object",
        "description": format!("{kind} is a list of {} objects.", resource.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
            "items": {"type": "array", "items": reference(name)},
        },
        "x-kubernetes-group-version-kind": [kind_mark((resource.group, resource.version, &kind))],
    })
}

fn definition_schema(name: &'static str, definition: &Definition, texts: &Texts) -> Value {
    let texts = texts.get(name);
    let text = |property: &str| texts.and_then(|texts| texts.get(property)).map(AsRef::as_ref);
    let mut schema = Map::new();
    if let Some(text) = text("") {
        schema.insert("description".into(), text.into());
    }
    match definition.form {
        Form::Object | Form::Raw => drop(schema.insert("type".into(), "object".into())),
        Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => {}
        Form::Quantity => {
            drop(schema.insert("oneOf".into(), json!([{"type": "string"}, {"type": "number"}])))
        }
        Form::IntOrString => {
            schema.insert("format".into(), "int-or-string".into());
            schema.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        Form::Time | Form::MicroTime => {
            schema.insert("type".into(), "string".into());
            schema.insert("format".into(), "date-time".into());
        }
    }
    if !definition.required.is_empty() {
        schema.insert("required".into(), json!(definition.required));
    }
    if definition.form == Form::Object {
        let properties: Map<_, _> = definition
            .properties()
            .map(|(name, property)| (name.to_owned(), property_schema(property, text(name))))
            .collect();
        schema.insert("properties".into(), Value::Object(properties));
    }
    if definition.atomic() {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if !definition.kinds().is_empty() {
        let kinds: Vec<_> = definition.kinds().iter().copied().map(kind_mark).collect();
        schema.insert("x-kubernetes-group-version-kind".into(), json!(kinds));
    }
    Value::Object(schema)
}

fn property_schema(property: &Property, text: Option<&str>) -> Value {
    let mut schema = Map::new();
    if let Some(text) = text {
        schema.insert("description".into(), text.into());
    }
    match property.shape() {
        // In OpenAPI 3.0 nothing may stand beside a reference, so it is wrapped.
        Shape::Named(name, _) if text.is_none() => return reference(name),
        Shape::Named(name, _) => drop(schema.insert("allOf".into(), json!([reference(name)]))),
        Shape::Basic(basic) => {
            let kind = match basic {
                Type::String => "string",
                Type::Integer => "integer",
                Type::Number => "number",
                Type::Boolean => "boolean",
                Type::Object | Type::Map => "object",
                Type::Array => "array",
            };
            schema.insert("type".into(), kind.into());
            if let Some(format) = property.format {
                schema.insert("format".into(), format.into());
            }
            if let Some(element) = property.element.as_deref() {
                let field = if basic == Type::Array { "items" } else { "additionalProperties" };
                schema.insert(field.into(), property_schema(element, None));
            }
            if basic == Type::Array {
                let list_type = match property.list_type {
                    ListType::Atomic => "atomic",
                    ListType::Set => "set",
                    ListType::Map => "map",
                };
                schema.insert("x-kubernetes-list-type".into(), list_type.into());
            }
        }
    }
    if !property.keys.is_empty() {
        schema.insert("x-kubernetes-list-map-keys".into(), json!(property.keys));
    }
    if let Some(key) = property.merge_key {
        schema.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
    if !property.strategies().is_empty() {
        let strategy = property.strategies().join(",");
        schema.insert("x-kubernetes-patch-strategy".into(), strategy.into());
    }
    Value::Object(schema)
}

fn parameter(name: &str, place: &str) -> Value {
    json!({"name": name, "in": place, "required": place == "path",
        "schema": {"type": "string", "uniqueItems": true}})
}

fn operation(
    resource: &Resource,
    kind: (&str, &str, &str),
    verb: &str,
    body: Option<&str>,
    answer: &str,
) -> Value {
    let media = if verb == "patch" {
        vec![
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ][..if resource.custom.is_some() { 3 } else { 4 }]
            .to_vec()
    } else {
        vec!["application/json"]
    };
    let mut operation = json!({
        "tags": [format!("{}_{}", if resource.group.is_empty() { "core" } else { resource.group }, resource.version)],
        "operationId": format!("{verb}{}", kind.2),
        "responses": {"200": {"description": "OK",
            "content": {"application/json": {"schema": reference(answer)}}}},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": kind_mark(kind),
    });
    if matches!(verb, "post" | "put" | "patch") {
        let names = ["dryRun", "fieldManager", "fieldValidation"];
        let mut parameters: Vec<_> = names.iter().map(|name| parameter(name, "query")).collect();
        if verb == "patch" {
            parameters.push(parameter("force", "query"));
        }
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = body {
        let content: Map<_, _> = media
            .into_iter()
            .map(|media| (media.to_owned(), json!({"schema": reference(body)})))
            .collect();
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

/// The paths of what can be read only.
fn read_only_paths(
    resource: &Resource,
    (name, list): (&str, &str),
    base: &str,
    paths: &mut BTreeMap<String, Value>,
) {
    let kind = (resource.group, resource.version, resource.kind);
    let all = json!({"get": operation(resource, kind, "list", None, list)});
    let mut folder = format!("{base}/{}", resource.plural);
    let mut variables = Vec::new();
    if resource.namespaced() {
        paths.insert(folder, all.clone());
        folder = format!("{base}/namespaces/{{namespace}}/{}", resource.plural);
        variables.push(parameter("namespace", "path"));
    }
    let mut value = all;
    value["parameters"] = json!(variables);
    paths.insert(folder.clone(), value);
    variables.push(parameter("name", "path"));
    let get = operation(resource, kind, "get", None, name);
    paths.insert(format!("{folder}/{{name}}"), json!({"get": get, "parameters": variables}));
}

fn resource_paths(
    resource: &Resource,
    name: &str,
    list: &str,
    paths: &mut BTreeMap<String, Value>,
) {
    const OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
    let kind = (resource.group, resource.version, resource.kind);
    let base = format!("/{}", root(resource.group, resource.version));
    if !resource.is_kept() && resource.verbs.contains(&"list") {
        return read_only_paths(resource, (name, list), &base, paths);
    }
    if !resource.is_kept() {
        let (folder, variables) = if resource.namespaced() {
            let folder = format!("{base}/namespaces/{{namespace}}/{}", resource.plural);
            (folder, vec![parameter("namespace", "path")])
        } else {
            (format!("{base}/{}", resource.plural), Vec::new())
        };
        let post = operation(resource, kind, "post", Some(name), name);
        paths.insert(folder, json!({"post": post, "parameters": variables}));
        return;
    }
    let folder = if resource.namespaced() {
        let all = format!("{base}/{}", resource.plural);
        paths.insert(all, json!({"get": operation(resource, kind, "list", None, list)}));
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    let mut variables = Vec::new();
    if resource.namespaced() {
        variables.push(parameter("namespace", "path"));
    }
    paths.insert(
        folder.clone(),
        json!({
            "get": operation(resource, kind, "list", None, list),
            "post": operation(resource, kind, "post", Some(name), name),
            "delete": operation(resource, kind, "deletecollection", Some(OPTIONS), STATUS),
            "parameters": variables,
        }),
    );
    variables.push(parameter("name", "path"));
    let item = format!("{folder}/{{name}}");
    paths.insert(
        item.clone(),
        json!({
            "get": operation(resource, kind, "get", None, name),
            "put": operation(resource, kind, "put", Some(name), name),
            "patch": operation(resource, kind, "patch", Some(PATCH), name),
            "delete": operation(resource, kind, "delete", Some(OPTIONS), STATUS),
            "parameters": variables,
        }),
    );
    for part in resource.subresources {
        let (kind, body) = match part.body() {
            None => (kind, name),
            Some(kind) => match Schemas::builtin().kind(kind.0, kind.1, kind.2) {
                Some((body, _)) => (kind, body),
                None => continue,
            },
        };
        if *part == Subresource::Log {
            continue;
        }
        let mut value = Map::new();
        for verb in part.verbs() {
            let (method, body_name) = match *verb {
                "create" => ("post", Some(body)),
                "update" => ("put", Some(body)),
                "patch" => ("patch", Some(PATCH)),
                _ => ("get", None),
            };
            value.insert(method.into(), operation(resource, kind, method, body_name, body));
        }
        value.insert("parameters".into(), json!(variables));
        paths.insert(format!("{item}/{}", part.name()), Value::Object(value));
    }
}
