//! Bodies of requests: JSON, YAML or protobuf, fitted to the schema.

use berth_objects::{Object, Status, protobuf, schema::Schemas, yaml};
use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::Value;

use crate::call::{Call, FieldValidation};
use crate::service::header;
use crate::{Body, body};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a request, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    header(headers, "content-type").split(';').next().unwrap_or_default().trim()
}

/// Any body as JSON.
pub(crate) fn parse(media_type: &str, bytes: &[u8]) -> Result<Value, Status> {
    parse_noting(media_type, bytes).map(|(value, _)| value)
}

/// Any body as JSON, and the paths of the fields it has twice.
pub(crate) fn parse_noting(media_type: &str, bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    match media_type {
        "" | "application/json" => parse_json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => parse_yaml(bytes),
        PROTOBUF => protobuf::decode(bytes)
            .map(|value| (value, Vec::new()))
            .map_err(|error| Status::bad_request(error.to_string())),
        other => {
            let message = format!(
                "the body of the request was in an unknown format - accepted \
                media types include: application/json, application/yaml, \
                application/vnd.kubernetes.protobuf; this was {other}"
            );
            Err(Status::new(415, "UnsupportedMediaType", message))
        }
    }
}

pub(crate) fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    berth_objects::json::parse(bytes)
        .map_err(|error| Status::bad_request(format!("the body is no JSON: {error}")))
}

pub(crate) fn parse_yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Status::bad_request("the body is not valid UTF-8"))?;
    yaml::parse_noting(text).map_err(|error| Status::bad_request(error.to_string()))
}

/// Reads a whole body with its media type.
pub(crate) async fn read(request: Request<Body>) -> Result<(String, Bytes), Status> {
    let media_type = media_type(request.headers()).to_owned();
    Ok((media_type, body::collect(request.into_body()).await?))
}

/// Reads a body of a kind that is not stored, such as `Scale`. An absent kind is taken to be the right one.
pub(crate) async fn other(
    request: Request<Body>,
    (group, version, kind): (&str, &str, &str),
) -> Result<Value, Status> {
    let (media_type, bytes) = read(request).await?;
    let mut object = parse(&media_type, &bytes)?;
    if !object.is_object() {
        return Err(Status::bad_request("the body is no object"));
    }
    let found = object.text(&["kind"]);
    if !found.is_empty() && found != kind {
        return Err(Status::bad_request(format!("{kind} expected, {found} found")));
    }
    if let Some((_, definition)) = Schemas::builtin().kind(group, version, kind) {
        berth_objects::decode(definition, &mut object)
            .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    Ok(object)
}

impl Call {
    /// Reads the object a request carries.
    pub async fn body(&mut self, request: Request<Body>) -> Result<Value, Status> {
        let (media_type, bytes) = read(request).await?;
        if media_type == PROTOBUF && self.resource().custom.is_some() {
            // Nobody has given numbers to its fields.
            let message = "the body of the request was in an unknown format - accepted media types \
                include: application/json, application/yaml";
            return Err(Status::new(415, "UnsupportedMediaType", message));
        }
        let (mut object, duplicates) = parse_noting(&media_type, &bytes)?;
        self.twice(duplicates);
        self.fit(&mut object)?;
        Ok(object)
    }

    /// Notes the fields a body has twice, to be complained about with those nobody knows.
    pub fn twice(&mut self, paths: Vec<String>) {
        self.doubtful.extend(paths.iter().map(|path| format!("duplicate field \"{path}\"")));
    }

    /// Fits an object to the schema of the resource and acts on unknown fields as asked.
    pub fn fit(&mut self, object: &mut Value) -> Result<(), Status> {
        let handle = self.handle.clone();
        let resource = handle.get();
        if !object.is_object() {
            return Err(Status::bad_request("the body is no object"));
        }
        let (version, kind) = (resource.api_version(), resource.kind);
        for (field, wanted) in [("apiVersion", version.as_str()), ("kind", kind)] {
            let found = object.text(&[field]);
            if !found.is_empty() && found != wanted {
                let message = format!(
                    "{field} in the data ({found}) does not match the expected {field} ({wanted})"
                );
                return Err(Status::bad_request(message));
            }
        }
        let unknown = berth_objects::fit(resource, object).map_err(|error| {
            Status::bad_request(format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: {error}",
                resource.version
            ))
        })?;
        object.set(&["apiVersion"], version);
        object.set(&["kind"], kind);
        let mut texts = std::mem::take(&mut self.doubtful);
        texts.extend(unknown.iter().map(|path| format!("unknown field \"{path}\"")));
        match self.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => self.warn(texts),
            FieldValidation::Strict if texts.is_empty() => {}
            FieldValidation::Strict => {
                let message = format!("strict decoding error: {}", texts.join(", "));
                return Err(Status::bad_request(format!(
                    "{kind} in version \"{}\" cannot be handled as a {kind}: {message}",
                    resource.version
                )));
            }
        }
        Ok(())
    }

    /// Checks that an object belongs where the path says, and fills in what the path knows.
    pub fn place(&self, object: &mut Value) -> Result<(), Status> {
        let namespace = object.namespace();
        if self.resource().namespaced() {
            if !namespace.is_empty() && namespace != self.namespace {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            object.set(&["metadata", "namespace"], self.namespace.as_str());
        } else {
            object.unset(&["metadata", "namespace"]);
        }
        if !self.name.is_empty() {
            if !object.name().is_empty() && object.name() != self.name {
                let message = format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    object.name(),
                    self.name
                );
                return Err(Status::bad_request(message));
            }
            object.set(&["metadata", "name"], self.name.as_str());
        }
        Ok(())
    }
}
