//! The form of an answer: whole objects, tables, or metadata alone.

use berth_objects::{Resource, Status};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use http_body::Body as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Body;
use crate::forward::Foreign;
use crate::service::header;
use crate::table::{self, Include};

const YAML: &str = "application/yaml";

/// Whether the client prefers YAML to JSON.
pub(crate) fn prefers_yaml(headers: &HeaderMap) -> bool {
    let mut ranges = header(headers, "accept")
        .split(',')
        .map(|range| range.split(';').next().unwrap_or_default().trim());
    let known = |kind: &&str| matches!(*kind, YAML | "application/json" | "application/*" | "*/*");
    ranges.find(known) == Some(YAML)
}

/// Calls an answer YAML. All JSON is YAML, so nothing else changes; only a watch is no document.
pub(crate) fn as_yaml(response: &mut Response<Body>) {
    let foreign = response.extensions().get::<Foreign>().is_some();
    let whole = !foreign && response.body().size_hint().exact().is_some();
    let headers = response.headers_mut();
    if whole && header(headers, CONTENT_TYPE.as_str()) == "application/json" {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(YAML));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Table(Include),
    Metadata,
}

impl Form {
    /// The first form of the Accept header that is served.
    ///
    /// # Errors
    /// When the client takes nothing that is.
    pub fn negotiate(headers: &HeaderMap, include: &str) -> Result<Self, Status> {
        let accept = header(headers, "accept");
        if accept.trim().is_empty() {
            return Ok(Self::Whole);
        }
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if kind == YAML {
                return Ok(Self::Whole);
            }
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                continue;
            }
            return Ok(match parts.find_map(|part| part.strip_prefix("as=")) {
                Some("Table") => Self::Table(Include::parse(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Self::Metadata,
                None => Self::Whole,
                Some(_) => continue,
            });
        }
        let message =
            "only the following media types are accepted: application/json, application/yaml";
        Err(Status::new(406, "NotAcceptable", message))
    }

    /// One object.
    pub fn object(self, resource: &Resource, object: Value, now: Timestamp) -> Value {
        match self {
            Self::Whole => object,
            Self::Table(include) => table::of_object(resource, object, include, now),
            Self::Metadata => partial(object),
        }
    }

    /// One object within a watch; a table repeats its columns in the first event only.
    pub fn event(self, resource: &Resource, object: Value, first: bool, now: Timestamp) -> Value {
        let mut value = self.object(resource, object, now);
        if matches!(self, Self::Table(_)) && !first {
            value["columnDefinitions"] = Value::Null;
        }
        value
    }

    /// A list of objects.
    pub fn list(
        self,
        resource: &Resource,
        items: Vec<Value>,
        metadata: Value,
        now: Timestamp,
    ) -> Value {
        match self {
            Self::Whole => json!({
                "kind": list_kind(resource),
                "apiVersion": resource.api_version(),
                "metadata": metadata,
                "items": items,
            }),
            Self::Table(include) => table::of_list(resource, items, metadata, include, now),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items.into_iter().map(partial).collect::<Vec<_>>(),
            }),
        }
    }
}

/// What a list of objects of a kind is called.
pub(crate) fn list_kind(resource: &Resource) -> String {
    match berth_custom::Kind::of(resource) {
        Some(kind) => kind.list_kind().to_owned(),
        None => format!("{}List", resource.kind),
    }
}

pub(crate) fn partial(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"].take(),
    })
}
