//! Validation of what matters: names, labels, required fields, words from a known set, and what may not change.

mod names;
mod pod;
pub(crate) mod rbac;
mod service;
mod workload;

use berth_objects::{FieldError, Object, Quantity, Resource};
use serde_json::{Value, json};

/// Errors found so far. A walk adds to it and never stops at the first.
pub(crate) type Errors = Vec<FieldError>;

pub(crate) fn create(resource: &Resource, object: &Value) -> Errors {
    let mut errors = Errors::new();
    names::metadata(resource, object, &mut errors);
    content(resource, object, &mut errors);
    errors
}

pub(crate) fn update(resource: &Resource, object: &Value, old: &Value) -> Errors {
    let mut errors = create(resource, object);
    let mut fixed = |path: &[&str]| {
        let (new, before) = (object.at(path), old.at(path));
        if new != before {
            let value = new.cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(&path.join("."), &value, "field is immutable"));
        }
    };
    match (resource.group, resource.kind) {
        ("apps", _) => fixed(&["spec", "selector"]),
        ("", "Secret") => fixed(&["type"]),
        ("storage.k8s.io", _) => {
            for path in [["parameters"], ["provisioner"], ["reclaimPolicy"], ["volumeBindingMode"]]
            {
                fixed(&path);
            }
        }
        ("discovery.k8s.io", _) => fixed(&["addressType"]),
        _ => {}
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::update(object, old, &mut errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rbac::update(object, old, &mut errors);
        }
        ("certificates.k8s.io", _) => rbac::signing_request_update(object, old, &mut errors),
        ("", "Service") => service::update(object, old, &mut errors),
        ("", "PersistentVolumeClaim") => claim_update(object, old, &mut errors),
        ("", "Secret" | "ConfigMap") if old.flag(&["immutable"]) => {
            for field in ["data", "binaryData"] {
                if object.get(field) != old.get(field) {
                    let why = "field is immutable when `immutable` is set";
                    errors.push(FieldError::forbidden(field, why));
                }
            }
            if !object.flag(&["immutable"]) {
                let why = "field is immutable when `immutable` is set";
                errors.push(FieldError::forbidden("immutable", why));
            }
        }
        _ => {}
    }
    errors
}

fn content(resource: &Resource, object: &Value, errors: &mut Errors) {
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::spec(&Place::root(object).field("spec"), errors),
        ("", "Service") => service::create(object, errors),
        ("apps", _) => workload::create(resource, object, errors),
        ("", "ConfigMap" | "Secret") => data(object, errors),
        ("", "PersistentVolumeClaim") => claim(object, errors),
        ("", "PersistentVolume") => volume(object, errors),
        ("storage.k8s.io", _) => {
            let root = Place::root(object);
            root.field("provisioner").required(errors);
            root.field("reclaimPolicy").one_of(&["Delete", "Retain"], errors);
            root.field("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"], errors);
        }
        ("networking.k8s.io", _) => network_policy(object, errors),
        ("rbac.authorization.k8s.io", _) => rbac::create(resource, object, errors),
        ("certificates.k8s.io", _) => rbac::signing_request(object, errors),
        ("discovery.k8s.io", _) => {
            let kind = Place::root(object).field("addressType");
            kind.required(errors);
            kind.one_of(&["IPv4", "IPv6", "FQDN"], errors);
        }
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

const MODES: &[&str] = &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

fn claim(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    if spec.field("accessModes").required(errors) {
        spec.field("accessModes").items().for_each(|mode| mode.one_of(MODES, errors));
    }
    let storage = spec.field("resources").field("requests").field("storage");
    if storage.required(errors) && quantity(&storage, errors) == Some(Quantity::ZERO) {
        storage.invalid("must be greater than zero", errors);
    }
    spec.field("volumeMode").one_of(&["Block", "Filesystem"], errors);
}

fn claim_update(object: &Value, old: &Value, errors: &mut Errors) {
    let mask = |claim: &Value| {
        let mut spec = claim.get("spec").cloned().unwrap_or_default();
        for path in [&["resources"][..], &["volumeAttributesClassName"]] {
            spec.unset(path);
        }
        if old.text(&["spec", "volumeName"]).is_empty() {
            spec.unset(&["volumeName"]);
        }
        if old.at(&["spec", "storageClassName"]).is_none() {
            spec.unset(&["storageClassName"]);
        }
        spec
    };
    if mask(object) != mask(old) {
        let why = "spec is immutable after creation except resources.requests and \
                   volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", why));
    }
}

fn volume(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    if spec.field("accessModes").required(errors) {
        spec.field("accessModes").items().for_each(|mode| mode.one_of(MODES, errors));
    }
    if spec.field("capacity").required(errors) {
        let storage = spec.field("capacity").field("storage");
        if storage.required(errors) {
            quantity(&storage, errors);
        }
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    policy.one_of(&["Delete", "Recycle", "Retain"], errors);
}

fn network_policy(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    spec.field("policyTypes").items().for_each(|kind| kind.one_of(&["Ingress", "Egress"], errors));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            for port in rule.field("ports").items() {
                port.field("protocol").one_of(&["TCP", "UDP", "SCTP"], errors);
                port.field("port").port(errors);
            }
            for peer in rule.field(peers).items() {
                let block = peer.field("ipBlock");
                let selects = !peer.field("podSelector").is_empty()
                    || !peer.field("namespaceSelector").is_empty();
                if block.is_empty() && !selects {
                    errors.push(FieldError::required(&peer.path, "must specify a peer"));
                } else if !block.is_empty() && selects {
                    let why = "may not specify both ipBlock and another peer";
                    errors.push(FieldError::forbidden(&peer.path, why));
                }
                if !block.is_empty() {
                    let exceptions = block.field("except");
                    for cidr in std::iter::once(block.field("cidr")).chain(exceptions.items()) {
                        if cidr.text().parse::<ipnet::IpNet>().is_err() {
                            cidr.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24)", errors);
                        }
                    }
                }
            }
        }
    }
}
