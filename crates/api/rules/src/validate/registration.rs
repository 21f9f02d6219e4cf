//! Validation of who answers for which version of a group.

use berth_objects::{FieldError, Object, base64_decode};
use serde_json::Value;

use super::{Errors, Place, names};

const HIGHEST_GROUP: i64 = 20_000;
const HIGHEST_VERSION: i64 = 1_000;

pub(crate) fn create(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let (group, version) = (spec.field("group"), spec.field("version"));
    let wanted = format!("{}.{}", version.text(), group.text());
    if object.name() != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\"");
        let name = Value::from(object.name());
        errors.push(FieldError::invalid("metadata.name", &name, why));
    }
    // The core has no name, and cannot be given away.
    if group.is_empty() && version.text() != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&group.path, why));
    } else if !group.is_empty() && !names::is_subdomain(group.text()) {
        names::subdomain(&group, errors);
    }
    names::old_label(&version, errors);
    within(&spec.field("groupPriorityMinimum"), HIGHEST_GROUP, errors);
    within(&spec.field("versionPriority"), HIGHEST_VERSION, errors);
    let (service, roots) = (spec.field("service"), spec.field("caBundle"));
    let blind = spec.field("insecureSkipTLSVerify");
    if service.value.is_null() {
        for field in [&roots, &blind] {
            if !field.is_empty() && field.value != &Value::Bool(false) {
                let why = "local APIServices have no server to connect to";
                errors.push(FieldError::forbidden(&field.path, why));
            }
        }
        return;
    }
    if group.is_empty() {
        errors
            .push(FieldError::forbidden(&service.path, "the core is served by this server alone"));
    }
    service.field("namespace").required(errors);
    service.field("name").required(errors);
    service.field("port").port(errors);
    if blind.value == &Value::Bool(true) && !roots.is_empty() {
        let why = "may not be true if caBundle is present";
        blind.invalid(why, errors);
    }
    if !roots.is_empty() && !is_pem(roots.text()) {
        let why = "must be certificates in PEM, in base64";
        errors.push(FieldError::invalid(&roots.path, &Value::from("..."), why));
    }
}

fn is_pem(encoded: &str) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let bytes = base64_decode(encoded).unwrap_or_default();
    bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
}

fn within(place: &Place<'_>, highest: i64, errors: &mut Errors) {
    let number = place.value.as_i64().unwrap_or(0);
    if !(1..=highest).contains(&number) {
        place.invalid(format!("must be between 1 and {highest}"), errors);
    }
}
