//! The form of an answer: whole objects, tables, or metadata alone.

use berth_objects::Resource;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::service::header;
use crate::table::{self, Include};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Table(Include),
    Metadata,
}

impl Form {
    /// The first form of the Accept header that is served.
    pub fn negotiate(headers: &HeaderMap, include: &str) -> Self {
        for range in header(headers, "accept").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                continue;
            }
            return match parts.find_map(|part| part.strip_prefix("as=")) {
                Some("Table") => Self::Table(Include::parse(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Self::Metadata,
                None => Self::Whole,
                Some(_) => continue,
            };
        }
        Self::Whole
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
                "kind": format!("{}List", resource.kind),
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

pub(crate) fn partial(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"].take(),
    })
}
