//! Names, labels and annotations.

use berth_objects::{FieldError, Resource, is_label_value, is_qualified_name};
use serde_json::{Value, json};

use super::{Errors, Place};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const OLD_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
    start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  \
    or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, \
    '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
    'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
    regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const ANNOTATIONS: usize = 256 << 10;

pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 63 && has_label_form(text)
}

fn has_label_form(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| inner(*byte));
    edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(has_label_form)
}

/// Complains that this is no DNS name.
pub(crate) fn subdomain(place: &Place<'_>, errors: &mut Errors) {
    place.invalid(SUBDOMAIN, errors);
}

fn is_old_label(text: &str) -> bool {
    is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// A DNS label that begins with a letter, with its complaint.
pub(crate) fn old_label(place: &Place<'_>, errors: &mut Errors) {
    if place.required(errors) && !is_old_label(place.text()) {
        place.invalid(OLD_LABEL, errors);
    }
}

/// A DNS label with its complaint.
pub(crate) fn label(place: &Place<'_>, errors: &mut Errors) {
    if place.required(errors) && !is_label(place.text()) {
        place.invalid(LABEL, errors);
    }
}

pub(crate) fn metadata(resource: &Resource, object: &Value, errors: &mut Errors) {
    let metadata = Place::root(object).field("metadata");
    let name = metadata.field("name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        if resource.group == "rbac.authorization.k8s.io" {
            super::rbac::name(&name, errors);
        }
        let (fits, why) = match (resource.group, resource.kind) {
            // Named by their address, which has rules of its own.
            ("networking.k8s.io", "IPAddress") => (true, SUBDOMAIN),
            ("", "Namespace") => (is_label(name.text()), LABEL),
            // The name is that of the version and the group, which are judged themselves.
            ("apiregistration.k8s.io", _) => (!name.text().contains('/'), SUBDOMAIN),
            // Judged above.
            ("rbac.authorization.k8s.io", _) => (true, ""),
            ("", "Service") => (is_old_label(name.text()), OLD_LABEL),
            _ => (is_subdomain(name.text()), SUBDOMAIN),
        };
        if !fits {
            name.invalid(why, errors);
        }
    }
    labels(&metadata.field("labels"), errors);
    let mut size = 0;
    for (key, value) in metadata.field("annotations").entries() {
        if !is_qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &json!(key), QUALIFIED));
        }
        size += key.len() + value.text().len();
    }
    if size > ANNOTATIONS {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS));
    }
    for owner in metadata.field("ownerReferences").items() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.field(field).is_empty() {
                let why = format!("{field} must not be empty");
                errors.push(FieldError::invalid(&owner.field(field).path, &json!(""), why));
            }
        }
    }
    for finalizer in metadata.field("finalizers").items() {
        if !is_qualified_name(finalizer.text()) {
            finalizer.invalid(QUALIFIED, errors);
        }
    }
}

pub(crate) fn labels(labels: &Place<'_>, errors: &mut Errors) {
    for (key, value) in labels.entries() {
        if !is_qualified_name(key) {
            errors.push(FieldError::invalid(&labels.path, &json!(key), QUALIFIED));
        }
        if !is_label_value(value.text()) {
            errors.push(FieldError::invalid(&labels.path, value.value, LABEL_VALUE));
        }
    }
}
