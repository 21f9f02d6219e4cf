//! Validation of what matters: names, labels, required fields, words from a known set, and what may not change.

mod admission;
mod batch;
mod cluster;
mod names;
mod network;
mod placement;
mod pod;
pub(crate) mod rbac;
mod registration;
mod restart;
mod scaling;
mod schedule;
mod security;
mod service;
mod storage;
mod workload;

use berth_objects::{FieldError, Object, Quantity, Resource};
use serde_json::{Value, json};

pub use cluster::SYSTEM_PRIORITIES;

/// Errors found so far. A walk adds to it and never stops at the first.
pub(crate) type Errors = Vec<FieldError>;

pub(crate) fn create(resource: &Resource, object: &Value) -> Errors {
    let mut errors = Errors::new();
    names::metadata(resource, object, &mut errors);
    if let Some(custom) = resource.custom {
        errors.extend(custom.validate(object, None, None));
        return errors;
    }
    content(resource, object, true, &mut errors);
    errors
}

pub(crate) fn ephemeral(resource: &Resource, object: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    content(resource, object, false, &mut errors);
    pod::added(object, old, &mut errors);
    crate::reference::as_it_is(object, "ephemeral containers", &mut errors);
    errors
}

pub(crate) fn resize(resource: &Resource, object: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    content(resource, object, false, &mut errors);
    pod::resized(object, old, &mut errors);
    crate::reference::as_it_is(object, "a change of size", &mut errors);
    errors
}

pub(crate) fn update(resource: &Resource, object: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    names::metadata(resource, object, &mut errors);
    finalizers(object, old, &mut errors);
    if let Some(custom) = resource.custom {
        errors.extend(custom.validate(object, Some(old), None));
        return errors;
    }
    content(resource, object, false, &mut errors);
    let errors_of = &mut errors;
    match (resource.group, resource.kind) {
        ("", kind) => core_update(kind, object, old, errors_of),
        ("apps", kind) => workload::update(kind, object, old, errors_of),
        ("batch", "Job") => batch::job_update(object, old, errors_of),
        ("storage.k8s.io", kind) => storage::update(kind, object, old, errors_of),
        ("discovery.k8s.io", _) => immutable(object, old, &["addressType"], errors_of),
        ("networking.k8s.io", "IngressClass") => {
            immutable(object, old, &["spec", "controller"], errors_of);
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rbac::update(object, old, errors_of);
        }
        ("certificates.k8s.io", _) => rbac::signing_request_update(object, old, errors_of),
        ("networking.k8s.io", "IPAddress") => immutable(object, old, &["spec"], errors_of),
        ("networking.k8s.io", "ServiceCIDR") => {
            immutable(object, old, &["spec", "cidrs"], errors_of);
        }
        ("scheduling.k8s.io", _) => cluster::priority_class_update(object, old, errors_of),
        ("node.k8s.io", _) => immutable(object, old, &["handler"], errors_of),
        (berth_custom::GROUP, _) => {
            let wrong = berth_custom::validate_update(object, old);
            errors_of.extend(wrong);
        }
        ("resource.k8s.io", kind) => cluster::devices_update(kind, object, old, errors_of),
        _ => {}
    }
    errors
}

/// Nobody may begin to wait for the end of what is already ending: it would never end.
fn finalizers(object: &Value, old: &Value, errors: &mut Errors) {
    if !old.deleting() {
        return;
    }
    let known = old.list(&["metadata", "finalizers"]);
    let all = object.list(&["metadata", "finalizers"]).iter();
    let mut new: Vec<String> = all.filter(|it| !known.contains(it)).map(Value::to_string).collect();
    if new.is_empty() {
        return;
    }
    new.sort();
    new.dedup();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers \
         []string{{{}}}",
        new.join(", ")
    );
    errors.push(FieldError::forbidden("metadata.finalizers", why));
}

/// Complains when a field is not what it was.
pub(crate) fn immutable(object: &Value, old: &Value, path: &[&str], errors: &mut Errors) {
    let (new, before) = (object.at(path), old.at(path));
    if new != before {
        let value = new.cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&path.join("."), &value, "field is immutable"));
    }
}

fn core_update(kind: &str, object: &Value, old: &Value, errors: &mut Errors) {
    match kind {
        "Pod" => {
            pod::update(object, old, errors);
            crate::reference::kept(object, old, errors);
        }
        "Service" => service::update(object, old, errors),
        "PersistentVolumeClaim" => storage::claim_update(object, old, errors),
        "ResourceQuota" => immutable(object, old, &["spec", "scopes"], errors),
        "Secret" | "ConfigMap" => {
            if kind == "Secret" {
                immutable(object, old, &["type"], errors);
            }
            if old.flag(&["immutable"]) {
                let why = "field is immutable when `immutable` is set";
                for field in ["data", "binaryData"] {
                    if object.get(field) != old.get(field) {
                        errors.push(FieldError::forbidden(field, why));
                    }
                }
                if !object.flag(&["immutable"]) {
                    errors.push(FieldError::forbidden("immutable", why));
                }
            }
        }
        _ => {}
    }
}

fn content(resource: &Resource, object: &Value, creating: bool, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        // A changed definition is judged with what it was.
        (berth_custom::GROUP, _) if creating => errors.extend(berth_custom::validate(object)),
        (berth_custom::GROUP, _) => {}
        ("", kind) => core(resource, (kind, creating), object, errors),
        ("apps", "ControllerRevision") => cluster::controller_revision(object, errors),
        ("apps", _) => workload::create(resource, object, errors),
        ("rbac.authorization.k8s.io", _) => rbac::create(resource, object, errors),
        ("certificates.k8s.io", _) => rbac::signing_request(object, errors),
        ("batch", "Job") => batch::job(object, errors),
        ("batch", _) => batch::cron_job(object, errors),
        ("autoscaling", _) => scaling::autoscaler(object, errors),
        ("policy", _) => scaling::disruption_budget(object, errors),
        ("storage.k8s.io", kind) => storage::create(kind, object, errors),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(object, errors),
        ("networking.k8s.io", "Ingress") => network::ingress(object, creating, errors),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(object, errors),
        ("networking.k8s.io", "IPAddress") => network::ip_address(object, errors),
        ("networking.k8s.io", _) => network::service_cidr(object, errors),
        ("discovery.k8s.io", _) => network::endpoint_slice(object, errors),
        ("coordination.k8s.io", _) => cluster::lease(object, errors),
        ("scheduling.k8s.io", _) => cluster::priority_class(object, errors),
        ("node.k8s.io", _) => cluster::runtime_class(object, errors),
        ("admissionregistration.k8s.io", kind) => admission::create(kind, object, errors),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => cluster::flow_schema(object, errors),
        ("flowcontrol.apiserver.k8s.io", _) => cluster::priority_level(object, errors),
        ("resource.k8s.io", kind) => cluster::devices(kind, object, errors),
        ("apiregistration.k8s.io", _) => registration::create(object, errors),
        _ => {}
    }
}

fn core(resource: &Resource, (kind, creating): (&str, bool), object: &Value, errors: &mut Errors) {
    match kind {
        "Pod" => {
            let spec = Place::root(object).field("spec");
            pod::spec(&spec, errors);
            if creating {
                pod::fresh(&spec, errors);
                crate::reference::fresh(object, errors);
            }
        }
        "PodTemplate" => {
            let template = Place::root(object).field("template");
            names::labels(&template.field("metadata").field("labels"), errors);
            pod::spec(&template.field("spec"), errors);
        }
        "Service" => service::create(object, errors),
        "ReplicationController" => workload::create(resource, object, errors),
        "ConfigMap" | "Secret" => data(object, errors),
        "PersistentVolumeClaim" => storage::claim(object, errors),
        "PersistentVolume" => storage::volume(object, errors),
        "Endpoints" => network::endpoints(object, errors),
        "ResourceQuota" => cluster::resource_quota(object, errors),
        "LimitRange" => cluster::limit_range(object, errors),
        _ => {}
    }
}

/// A value with its path.
#[derive(Clone)]
pub(crate) struct Place<'value> {
    pub path: String,
    pub value: &'value Value,
}

impl<'value> Place<'value> {
    pub fn root(value: &'value Value) -> Self {
        Self { path: String::new(), value }
    }

    pub fn field(&self, name: &str) -> Self {
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        Self { path, value: self.value.get(name).unwrap_or(&Value::Null) }
    }

    pub fn items(&self) -> impl Iterator<Item = Place<'value>> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, value)| Place { path: format!("{}[{index}]", self.path), value })
    }

    pub fn entries(&self) -> impl Iterator<Item = (&'value String, Place<'value>)> {
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name, Place { path: format!("{}[{name}]", self.path), value }))
    }

    pub fn text(&self) -> &'value str {
        self.value.as_str().unwrap_or_default()
    }

    /// Whether there is nothing, or the same as nothing.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(_) | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    pub fn required(&self, errors: &mut Errors) -> bool {
        if self.is_empty() {
            errors.push(FieldError::required(&self.path, ""));
        }
        !self.is_empty()
    }

    pub fn one_of(&self, words: &[&str], errors: &mut Errors) {
        if !self.is_empty() && !words.contains(&self.text()) {
            errors.push(FieldError::not_supported(&self.path, self.value, words));
        }
    }

    pub fn invalid(&self, why: impl Into<String>, errors: &mut Errors) {
        errors.push(FieldError::invalid(&self.path, self.value, why));
    }

    pub fn not_negative(&self, errors: &mut Errors) {
        if self.value.as_i64().is_some_and(|number| number < 0) {
            self.invalid("must be greater than or equal to 0", errors);
        }
    }

    pub fn port(&self, errors: &mut Errors) {
        if let Some(number) = self.value.as_i64()
            && !(1..=65535).contains(&number)
        {
            self.invalid("must be between 1 and 65535, inclusive", errors);
        }
    }

    /// A number must be at least this.
    pub fn at_least(&self, least: i64, errors: &mut Errors) {
        if self.value.as_i64().is_some_and(|number| number < least) {
            self.invalid(format!("must be greater than or equal to {least}"), errors);
        }
    }

    /// A count, or a share of all.
    pub fn number_or_percent(&self, errors: &mut Errors) {
        self.not_negative(errors);
        let Some(text) = self.value.as_str() else { return };
        match text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok()) {
            Some(percent) if percent > 100 => {
                self.invalid("must not be greater than 100%", errors);
            }
            Some(_) => {}
            None => {
                let why = "a valid percent string must be a numeric string followed by an ending \
                           '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                self.invalid(why, errors);
            }
        }
    }

    /// Whether this is a number or a share, and nothing.
    pub fn is_zero(&self) -> bool {
        matches!(self.value.as_i64(), Some(0)) || self.value.as_str() == Some("0%")
    }

    /// No two items may have the same value at `name`.
    pub fn unique(&self, name: &str, errors: &mut Errors) {
        let mut seen = Vec::new();
        for item in self.items() {
            let key = item.field(name);
            if key.is_empty() {
                continue;
            }
            if seen.contains(&key.value) {
                errors.push(FieldError::duplicate(&key.path, key.value));
            }
            seen.push(key.value);
        }
    }
}

fn data(object: &Value, errors: &mut Errors) {
    const LARGEST: usize = 1 << 20;
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (name, value) in Place::root(object).field(field).entries() {
            let fits = !name.is_empty()
                && name.len() <= 253
                && name != "."
                && !name.starts_with("..")
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !fits {
                let why =
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                errors.push(FieldError::invalid(&value.path, &json!(name), why));
            }
            size += value.text().len();
        }
    }
    // Data of Secrets is base64, a third larger than what counts.
    if object.text(&["kind"]) == "Secret" {
        size = size / 4 * 3;
        let kind = object.text(&["type"]);
        let needs: &[&str] = match kind {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for name in needs {
            if object.at(&["data", name]).is_none() {
                errors.push(FieldError::required(&format!("data[{name}]"), ""));
            }
        }
    }
    if size > LARGEST {
        errors.push(FieldError::too_long("data", LARGEST));
    }
}

pub(crate) fn quantity(place: &Place<'_>, errors: &mut Errors) -> Option<Quantity> {
    match place.text().parse::<Quantity>() {
        Ok(quantity) if quantity.is_negative() => {
            place.invalid("must be greater than or equal to 0", errors);
            None
        }
        Ok(quantity) => Some(quantity),
        Err(error) => {
            place.invalid(error.to_string(), errors);
            None
        }
    }
}
