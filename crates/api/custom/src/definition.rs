//! Definitions of kinds: their defaults, and what is wrong with them.

use std::collections::HashSet;

use berth_objects::{FieldError, Object};
use serde_json::{Value, json};

use crate::check;
use crate::jsonpath::Path;
use crate::names::is_established;
use crate::schema::{Schema, Type};

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Their plural name.
pub const PLURAL: &str = "customresourcedefinitions";
/// Keeps a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(crate) const APPROVED: &str = "api-approved.kubernetes.io";
const SELECTABLE: usize = 8;

/// Fills in what was left out of a definition.
pub fn default(object: &mut Value) {
    let kind = object.text(&["spec", "names", "kind"]).to_owned();
    if !kind.is_empty() {
        object.set_default(&["spec", "names", "singular"], kind.to_lowercase());
        object.set_default(&["spec", "names", "listKind"], format!("{kind}List"));
    }
    object.set_default(&["spec", "conversion", "strategy"], "None");
    if object.at(&["spec", "conversion", "webhook", "clientConfig", "service"]).is_some() {
        let port = &["spec", "conversion", "webhook", "clientConfig", "service", "port"];
        object.set_default(port, 443);
    }
}

fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    !text.is_empty()
        && text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && edge(text.as_bytes().last())
        && text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
}

const LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
    start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  \
    or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    fn label(&mut self, path: &str, text: &str) {
        if text.is_empty() {
            self.push(FieldError::required(path, ""));
        } else if !is_label(&text.to_lowercase()) {
            self.push(FieldError::invalid(path, &text.into(), LABEL));
        }
    }
}

/// What is wrong with a new definition.
#[must_use]
pub fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors(Vec::new());
    names(object, &mut errors);
    versions(object, &mut errors);
    conversion(object, &mut errors);
    if object.flag(&["spec", "preserveUnknownFields"]) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
            spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &json!(true), why));
    }
    errors.0
}

/// What is wrong with a changed definition.
#[must_use]
pub fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors(validate(object));
    let mut fixed = vec![vec!["spec", "group"]];
    if is_established(old) {
        fixed.extend([
            vec!["spec", "scope"],
            vec!["spec", "names", "kind"],
            vec!["spec", "names", "plural"],
        ]);
    }
    for path in fixed {
        if object.at(&path) != old.at(&path) {
            let value = object.at(&path).cloned().unwrap_or_default();
            errors.push(FieldError::invalid(&path.join("."), &value, "field is immutable"));
        }
    }
    let versions: Vec<&str> =
        object.list(&["spec", "versions"]).iter().map(|it| it.text(&["name"])).collect();
    for (place, stored) in object.list(&["status", "storedVersions"]).iter().enumerate() {
        if !versions.contains(&stored.as_str().unwrap_or_default()) {
            let path = format!("status.storedVersions[{place}]");
            let why = format!(
                "missing from spec.versions; {} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {} and removes {} from status.storedVersions",
                stored.as_str().unwrap_or_default(),
                stored.as_str().unwrap_or_default(),
                stored.as_str().unwrap_or_default()
            );
            errors.push(FieldError::invalid(&path, stored, why));
        }
    }
    errors.0
}

/// Whether a group is the community's, where kinds need approval.
pub(crate) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

fn names(object: &Value, errors: &mut Errors) {
    let group = object.text(&["spec", "group"]);
    let label = |part: &str| {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(
            "spec.group",
            &group.into(),
            "should be a domain with at least one dot",
        ));
    } else if !group.split('.').all(label) || group.len() > 253 {
        errors.push(FieldError::invalid(
            "spec.group",
            &group.into(),
            "must be a lowercase RFC 1123 subdomain",
        ));
    }
    if is_protected(group) {
        let path = format!("metadata.annotations[{APPROVED}]");
        match object.annotation(APPROVED) {
            None | Some("") => errors.push(FieldError::required(
                &path,
                "protected groups must have approval annotation \"api-approved.kubernetes.io\", \
                 see https://github.com/kubernetes/enhancements/pull/1111",
            )),
            Some(text) if text.starts_with("https://") || text.starts_with("http://") || text.starts_with("unapproved") => {}
            Some(text) => errors.push(FieldError::invalid(
                &path,
                &text.into(),
                "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either \
                 a URL or a reason starting with \"unapproved\"",
            )),
        }
    }
    let name = |field: &str| object.text(&["spec", "names", field]);
    for field in ["plural", "singular", "kind", "listKind"] {
        errors.label(&format!("spec.names.{field}"), name(field));
    }
    for list in ["shortNames", "categories"] {
        for (place, short) in object.list(&["spec", "names", list]).iter().enumerate() {
            let path = format!("spec.names.{list}[{place}]");
            if !is_label(short.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(&path, short, LABEL));
            }
        }
    }
    if !name("kind").is_empty() && name("kind") == name("listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid("spec.names.listKind", &name("listKind").into(), why));
    }
    let wanted = format!("{}.{group}", name("plural"));
    if object.name() != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), why));
    }
    match object.text(&["spec", "scope"]) {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => {
            let known = ["Cluster", "Namespaced"];
            errors.push(FieldError::not_supported("spec.scope", &other.into(), &known));
        }
    }
}

fn versions(object: &Value, errors: &mut Errors) {
    let versions = object.list(&["spec", "versions"]);
    if versions.is_empty() {
        errors.push(FieldError::required("spec.versions", "must have at least one version"));
        return;
    }
    let mut seen = HashSet::new();
    for (place, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{place}]");
        let name = version.text(&["name"]);
        errors.label(&format!("{path}.name"), name);
        if !seen.insert(name) {
            let why = "must contain unique version names";
            errors.push(FieldError::invalid("spec.versions", &"array".into(), why));
        }
        let schema = format!("{path}.schema.openAPIV3Schema");
        match version.at(&["schema", "openAPIV3Schema"]) {
            None => errors.push(FieldError::required(&schema, "schemas are required")),
            Some(value) => {
                let wrong = check::root(value, &schema);
                // What is refused is not read: it may be too large to be.
                if wrong.is_empty() {
                    parts(version, &Schema::parse_root(value), &path, errors);
                }
                errors.0.extend(wrong);
            }
        }
        columns(version.list(&["additionalPrinterColumns"]), &path, errors);
    }
    let stored = versions.iter().filter(|version| version.flag(&["storage"])).count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &"array".into(), why));
    }
}

/// Whether a path has only names and begins with this one.
fn is_under(text: &str, first: &str) -> bool {
    let path = Path::parse(text);
    let names = path.as_ref().and_then(Path::plain);
    text.starts_with('.') && names.is_some_and(|names| names.len() > 1 && names[0] == first)
}

fn parts(version: &Value, schema: &Schema, path: &str, errors: &mut Errors) {
    if let Some(scale) = version.at(&["subresources", "scale"]) {
        let path = format!("{path}.subresources.scale");
        for (field, place, required) in [
            ("specReplicasPath", vec!["spec"], true),
            ("statusReplicasPath", vec!["status"], true),
            ("labelSelectorPath", vec!["spec", "status"], false),
        ] {
            let text = scale.text(&[field]);
            let path = format!("{path}.{field}");
            if text.is_empty() {
                if required {
                    errors.push(FieldError::required(&path, ""));
                }
            } else if !place.iter().any(|place| is_under(text, place)) {
                let why = format!("should be a json path under .{}", place.join(" or ."));
                errors.push(FieldError::invalid(&path, &text.into(), why));
            }
        }
    }
    let fields = version.list(&["selectableFields"]);
    if fields.len() > SELECTABLE {
        errors.push(FieldError::too_many(
            &format!("{path}.selectableFields"),
            fields.len(),
            SELECTABLE,
        ));
    }
    let mut seen = HashSet::new();
    for (place, field) in fields.iter().enumerate() {
        let path = format!("{path}.selectableFields[{place}].jsonPath");
        let text = field.text(&["jsonPath"]);
        let parsed = Path::parse(text);
        let names = parsed.as_ref().and_then(Path::plain).filter(|_| text.starts_with('.'));
        let why = match names {
            _ if text.is_empty() => {
                errors.push(FieldError::required(&path, ""));
                continue;
            }
            None => Some("is an invalid path"),
            Some(names) if names.first() == Some(&"metadata") => {
                Some("must not point to fields in metadata")
            }
            Some(names) => match schema.at(&names).map(|schema| schema.kind) {
                Some(Some(Type::String | Type::Boolean | Type::Integer)) => None,
                Some(_) => Some("must point to a field of type string, boolean or integer"),
                None => Some("is an invalid path: does not refer to a valid field"),
            },
        };
        if let Some(why) = why {
            errors.push(FieldError::invalid(&path, &text.into(), why));
        }
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(&path, &text.into()));
        }
    }
}

fn columns(columns: &[Value], path: &str, errors: &mut Errors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    for (place, column) in columns.iter().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{place}]");
        if column.text(&["name"]).is_empty() {
            errors.push(FieldError::required(&format!("{path}.name"), ""));
        }
        match column.text(&["type"]) {
            "" => errors.push(FieldError::required(
                &format!("{path}.type"),
                "must be one of boolean,date,integer,number,string",
            )),
            kind if TYPES.contains(&kind) => {}
            other => {
                errors.push(FieldError::not_supported(
                    &format!("{path}.type"),
                    &other.into(),
                    &TYPES,
                ));
            }
        }
        match column.text(&["jsonPath"]) {
            "" => errors.push(FieldError::required(&format!("{path}.jsonPath"), "")),
            text if text.starts_with('.') && Path::parse(text).is_some() => {}
            text => {
                let why = "must be a simple json path starting with .";
                errors.push(FieldError::invalid(&format!("{path}.jsonPath"), &text.into(), why));
            }
        }
    }
}

fn conversion(object: &Value, errors: &mut Errors) {
    let conversion = object.at(&["spec", "conversion"]).unwrap_or(&Value::Null);
    match conversion.text(&["strategy"]) {
        "None" => {
            if conversion.get("webhook").is_some() {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden("spec.conversion.webhook", why));
            }
        }
        "Webhook" => {
            let Some(webhook) = conversion.get("webhook") else {
                let why = "required when strategy is set to Webhook";
                errors.push(FieldError::required("spec.conversion.webhook", why));
                return;
            };
            let config = webhook.get("clientConfig");
            let path = "spec.conversion.webhook.clientConfig";
            match config.map(|config| (config.get("url"), config.get("service"))) {
                None => errors
                    .push(FieldError::required(path, "required when strategy is set to Webhook")),
                Some((Some(_), Some(_)) | (None, None)) => {
                    errors.push(FieldError::required(
                        path,
                        "exactly one of url or service is required",
                    ));
                }
                Some((Some(url), None)) => {
                    if !url.as_str().unwrap_or_default().starts_with("https://") {
                        let path = format!("{path}.url");
                        errors.push(FieldError::invalid(
                            &path,
                            url,
                            "'https' is the only allowed URL scheme",
                        ));
                    }
                }
                Some((None, Some(service))) => {
                    for field in ["namespace", "name"] {
                        if service.text(&[field]).is_empty() {
                            errors
                                .push(FieldError::required(&format!("{path}.service.{field}"), ""));
                        }
                    }
                }
            }
            let path = "spec.conversion.webhook.conversionReviewVersions";
            let versions = webhook.list(&["conversionReviewVersions"]);
            if versions.is_empty() {
                errors.push(FieldError::required(path, ""));
            } else if !versions.iter().any(|version| version == "v1") {
                let shown = Value::from(versions.to_vec());
                let why = "must include at least one of v1";
                errors.push(FieldError::invalid(path, &shown, why));
            }
        }
        other => {
            let known = ["None", "Webhook"];
            errors.push(FieldError::not_supported(
                "spec.conversion.strategy",
                &other.into(),
                &known,
            ));
        }
    }
}
