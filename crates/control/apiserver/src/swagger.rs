//! OpenAPI v2: the older description of all kinds in one document, as JSON and in the protobuf form of gnostic.
//!
//! kubectl still asks for the protobuf form: it validates a `kind: List` on its own side and knows no other way. Only the
//! definitions are in it; nobody reads the paths, which the documents of version 3 have.

use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response};
use serde_json::{Map, Value, json};

use crate::kinds::Served;
use crate::service::{header, raw};
use crate::{Body, VERSION, openapi};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const TITLE: &str = "Kubernetes";

/// The document in the form the client asks for. It is large and rarely asked for, so it is made anew each time.
pub(crate) fn answer(served: &Served, headers: &HeaderMap) -> Response<Body> {
    let quoted = format!("\"{}\"", openapi::edition_of_all(served));
    if header(headers, IF_NONE_MATCH.as_str()) == quoted {
        return raw(304, "application/json", "");
    }
    let accept = header(headers, "accept");
    let protobuf = accept.split([',', ';']).any(|range| range.trim() == PROTOBUF);
    let definitions = definitions(served);
    let mut response = if protobuf {
        // What clients compare is what upstream says, which is not what they ask for.
        raw(200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", encode(&definitions))
    } else {
        let document = json!({"swagger": "2.0", "info": {"title": TITLE, "version": VERSION},
            "paths": {}, "definitions": definitions});
        raw(200, "application/json", document.to_string())
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&quoted) {
        headers.insert(ETAG, tag);
    }
    response
}

/// The schemas of version 3 as version 2 writes them.
fn definitions(served: &Served) -> Map<String, Value> {
    let mut all = openapi::schemas(served);
    for schema in all.values_mut() {
        older(schema);
        // A number with a suffix is a text here; there is no `oneOf`.
        if schema.get("oneOf").is_some()
            && let Some(fields) = schema.as_object_mut()
        {
            fields.shift_remove("oneOf");
            fields.insert("type".into(), "string".into());
        }
    }
    all
}

/// References stand alone in version 2 and lead elsewhere.
fn older(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(parts)) = fields.shift_remove("allOf")
                && let Some(reference) = parts.first().and_then(|part| part.get("$ref"))
            {
                fields.insert("$ref".into(), reference.clone());
            }
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/definitions/");
            }
            fields.values_mut().for_each(older);
        }
        Value::Array(items) => items.iter_mut().for_each(older),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Writes protobuf fields that hold bytes, which are all there are.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut number: usize) {
        loop {
            let low = u8::try_from(number & 0x7f).unwrap_or_default();
            number >>= 7;
            if number == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn bytes(&mut self, field: usize, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: usize, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }
}

fn encode(definitions: &Map<String, Value>) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(1, b"2.0");
    out.message(2, |info| {
        info.bytes(1, TITLE.as_bytes());
        info.bytes(2, VERSION.as_bytes());
    });
    out.message(8, |_paths| ());
    out.message(9, |all| named(all, definitions));
    out.0
}

/// A map of schemas as a list of pairs.
fn named(out: &mut Writer, schemas: &Map<String, Value>) {
    for (name, value) in schemas {
        out.message(1, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.message(2, |out| schema(out, value));
        });
    }
}

fn schema(out: &mut Writer, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default().as_bytes();
        match name.as_str() {
            "$ref" => out.bytes(1, text),
            "format" => out.bytes(2, text),
            "description" => out.bytes(4, text),
            "required" => {
                for name in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    out.bytes(19, name.as_bytes());
                }
            }
            "additionalProperties" => {
                out.message(21, |item| item.message(1, |out| schema(out, value)))
            }
            "type" => out.message(22, |item| item.bytes(1, text)),
            "items" => out.message(23, |item| item.message(1, |out| schema(out, value))),
            "properties" => {
                if let Some(properties) = value.as_object() {
                    out.message(25, |out| named(out, properties));
                }
            }
            // Extensions travel as YAML, of which JSON is a part.
            extension if extension.starts_with("x-") => out.message(31, |pair| {
                pair.bytes(1, extension.as_bytes());
                pair.message(2, |any| any.bytes(2, value.to_string().as_bytes()));
            }),
            _ => {}
        }
    }
}
