//! Every kind goes through protobuf and back, by way of the published messages.
//!
//! A value with every field there is becomes bytes by our table; the published message reads and writes those bytes, and
//! would drop or refuse a field with another number or type; then our decoder must find the value it all began with.

use std::collections::BTreeMap;

use berth_objects::schema::{
    Definition, Form, JSON_SCHEMA, Property, Schemas, Shape, Tag, Type, Wire,
};
use prost::Message;
use serde_json::{Map, Value, json};

/// Protobuf fields, by number; messages that JSON flattens are put together at the end.
#[derive(Default)]
struct Fields {
    bytes: Vec<(u32, Vec<u8>)>,
    nested: BTreeMap<u32, Fields>,
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
}

fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, u64::from(number) << 3 | 2);
    varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn number(tag: u32, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, u64::from(tag) << 3);
    varint(&mut out, u64::from_le_bytes(value.to_le_bytes()));
    out
}

impl Fields {
    fn add(&mut self, path: &[u32], encoded: impl FnOnce(u32) -> Vec<u8>) {
        match path {
            [last] => self.bytes.push((*last, encoded(*last))),
            [first, rest @ ..] => self.nested.entry(*first).or_default().add(rest, encoded),
            [] => panic!("a field has a number"),
        }
    }

    fn finish(self) -> Vec<u8> {
        let mut all = self.bytes;
        all.extend(
            self.nested.into_iter().map(|(tag, inner)| (tag, delimited(tag, &inner.finish()))),
        );
        all.sort_by_key(|(tag, _)| *tag);
        all.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }
}

fn scalar(tag: u32, wire: Wire, property: &Property, value: &Value) -> Vec<u8> {
    match wire {
        Wire::String => delimited(tag, value.as_str().unwrap().as_bytes()),
        Wire::Bytes => {
            delimited(tag, &berth_objects::base64_decode(value.as_str().unwrap()).unwrap())
        }
        Wire::Boolean => number(tag, i64::from(value.as_bool().unwrap())),
        Wire::Integer => number(tag, value.as_i64().unwrap()),
        Wire::Double => {
            let mut out = Vec::new();
            varint(&mut out, u64::from(tag) << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap().to_le_bytes());
            out
        }
        Wire::Message => {
            let Shape::Named(_, definition) = property.shape() else {
                panic!("a message is named")
            };
            delimited(tag, &encode(definition, value))
        }
        Wire::Strings => {
            let items = value.as_array().unwrap().iter();
            let inner: Vec<u8> =
                items.flat_map(|item| delimited(1, item.as_str().unwrap().as_bytes())).collect();
            delimited(tag, &inner)
        }
    }
}

fn encode(definition: &Definition, value: &Value) -> Vec<u8> {
    match definition.form {
        Form::Quantity => delimited(1, value.as_str().unwrap().as_bytes()),
        Form::IntOrString => match value {
            Value::String(text) => [number(1, 1), delimited(3, text.as_bytes())].concat(),
            other => [number(1, 0), number(2, other.as_i64().unwrap())].concat(),
        },
        Form::Time | Form::MicroTime => {
            let moment = berth_objects::time::parse(value.as_str().unwrap()).unwrap();
            let nanos = i64::from(moment.subsec_nanosecond());
            [number(1, moment.as_second()), number(2, nanos)].concat()
        }
        Form::Raw => delimited(1, value.to_string().as_bytes()),
        Form::SchemaOrBool => number(1, i64::from(value.as_bool().unwrap())),
        Form::SchemaOrStrings => delimited(2, value[0].as_str().unwrap().as_bytes()),
        Form::SchemaOrArray => {
            let schema = Schemas::builtin().definition(JSON_SCHEMA).unwrap();
            delimited(2, &encode(schema, &value[0]))
        }
        Form::Object => {
            let mut fields = Fields::default();
            for (name, value) in value.as_object().unwrap() {
                let property = definition.property(name).unwrap();
                let Some(tag) = &property.tag else { continue };
                let path = match tag {
                    Tag::One(tag) => vec![*tag],
                    Tag::Path(tags) => tags.to_vec(),
                };
                let wire = property.wire.unwrap();
                match (value, property.element.as_deref()) {
                    (Value::Array(items), Some(element)) => {
                        for item in items {
                            fields.add(&path, |tag| scalar(tag, wire, element, item));
                        }
                    }
                    (Value::Object(entries), Some(element)) => {
                        for (key, item) in entries {
                            let entry =
                                [delimited(1, key.as_bytes()), scalar(2, wire, element, item)];
                            fields.add(&path, |tag| delimited(tag, &entry.concat()));
                        }
                    }
                    _ => fields.add(&path, |tag| scalar(tag, wire, property, value)),
                }
            }
            fields.finish()
        }
    }
}

/// A value with every field; within itself, a definition has none of its own kind.
fn full(definition: &Definition, above: &mut Vec<&'static str>) -> Value {
    match definition.form {
        Form::Quantity => json!("100m"),
        Form::IntOrString if above.len().is_multiple_of(2) => json!(7),
        Form::IntOrString => json!("25%"),
        Form::Time => json!("2025-01-02T03:04:05Z"),
        Form::MicroTime => json!("2025-01-02T03:04:05.000006Z"),
        Form::Raw => json!({"any": [1, "two", null]}),
        Form::SchemaOrBool => json!(true),
        Form::SchemaOrStrings => json!(["other"]),
        Form::SchemaOrArray => json!([{"type": "string"}]),
        Form::Object => {
            let mut fields = Map::new();
            for (name, property) in definition.properties() {
                if property.tag.is_some()
                    && let Some(value) = field(property, above)
                {
                    fields.insert(name.to_owned(), value);
                }
            }
            Value::Object(fields)
        }
    }
}

fn field(property: &Property, above: &mut Vec<&'static str>) -> Option<Value> {
    Some(match property.shape() {
        Shape::Named(name, definition) => {
            if above.contains(&name) {
                return None;
            }
            above.push(name);
            let value = full(definition, above);
            above.pop();
            value
        }
        Shape::Basic(basic) => match basic {
            Type::String if property.format == Some("byte") => json!("AAEC"),
            Type::String => json!("text"),
            Type::Integer => json!(if property.format == Some("int32") { -5_i64 } else { 1 << 40 }),
            Type::Number => json!(1.5),
            Type::Boolean => json!(true),
            Type::Array => json!([field(property.element.as_deref()?, above)?]),
            Type::Map => json!({"key": field(property.element.as_deref()?, above)?}),
            Type::Object => return None,
        },
    })
}

/// Reads and writes bytes as the published message.
fn through<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap().encode_to_vec()
}

/// Bytes through the published message, if the kind has one here.
fn published(group: &str, version: &str, kind: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    use k8s_pb::api;
    use k8s_pb::apimachinery::pkg::apis::meta;
    macro_rules! table {
        ($($group:literal $version:ident $module:path { $($kind:ident)* })*) => {
            match (group, version, kind) {
                $($(($group, stringify!($version), stringify!($kind)) => {
                    use $module as module;
                    Some(through::<module::$kind>(bytes))
                })*)*
                _ => None,
            }
        };
    }
    table! {
        "" v1 api::core::v1 {
            Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret
            Service ServiceAccount
        }
        "" v1 meta::v1 { DeleteOptions Status }
        "apps" v1 api::apps::v1 {
            ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet
        }
        "batch" v1 api::batch::v1 { CronJob Job }
        "autoscaling" v1 api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        "autoscaling" v2 api::autoscaling::v2 { HorizontalPodAutoscaler }
        "authentication.k8s.io" v1 api::authentication::v1 {
            SelfSubjectReview TokenRequest TokenReview
        }
        "authorization.k8s.io" v1 api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview
        }
        "certificates.k8s.io" v1 api::certificates::v1 { CertificateSigningRequest }
        "coordination.k8s.io" v1 api::coordination::v1 { Lease }
        "discovery.k8s.io" v1 api::discovery::v1 { EndpointSlice }
        "events.k8s.io" v1 api::events::v1 { Event }
        "networking.k8s.io" v1 api::networking::v1 {
            IPAddress ServiceCIDR Ingress IngressClass NetworkPolicy }
        "node.k8s.io" v1 api::node::v1 { RuntimeClass }
        "policy" v1 api::policy::v1 { Eviction PodDisruptionBudget }
        "rbac.authorization.k8s.io" v1 api::rbac::v1 {
            ClusterRole ClusterRoleBinding Role RoleBinding
        }
        "scheduling.k8s.io" v1 api::scheduling::v1 { PriorityClass }
        "storage.k8s.io" v1 api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
        "admissionregistration.k8s.io" v1 api::admissionregistration::v1 {
            MutatingWebhookConfiguration ValidatingAdmissionPolicy
            ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        "admissionregistration.k8s.io" v1beta1 api::admissionregistration::v1beta1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding
        }
        "flowcontrol.apiserver.k8s.io" v1 api::flowcontrol::v1 {
            FlowSchema PriorityLevelConfiguration
        }
        "resource.k8s.io" v1 api::resource::v1 {
            DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice
        }
        "apiextensions.k8s.io" v1 k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 {
            CustomResourceDefinition
        }
        "apiregistration.k8s.io" v1 k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1 {
            APIService
        }
    }
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [delimited(1, version.as_bytes()), delimited(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), delimited(1, &meta), delimited(2, raw)].concat()
}

#[track_caller]
fn same(before: &Value, after: &Value, path: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                same(value, after.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"));
            }
            let more: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
            assert!(more.is_empty(), "{path} has {more:?} besides");
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{path}");
            before.iter().zip(after).for_each(|(before, after)| same(before, after, path));
        }
        _ => assert_eq!(before, after, "{path}"),
    }
}

#[test]
fn every_field_of_every_kind_survives() {
    let mut count = 0;
    let kinds: std::collections::BTreeSet<_> = Schemas::builtin().kinds().collect();
    for (group, version, kind) in kinds {
        // Only ever read, and in JSON.
        if group == "metrics.k8s.io" {
            continue;
        }
        let (_, definition) = Schemas::builtin().kind(group, version, kind).unwrap();
        let mut value = full(definition, &mut Vec::new());
        let bytes = encode(definition, &value);
        let bytes = published(group, version, kind, &bytes)
            .unwrap_or_else(|| panic!("{group}/{version} {kind} is in no table of this test"));
        let api_version =
            if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let decoded = berth_objects::protobuf::decode(&envelope(&api_version, kind, &bytes));
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
        same(&value, &decoded.unwrap(), kind);
        count += 1;
    }
    assert!(count >= 70, "{count}");
}

#[test]
fn options_of_a_deletion_belong_to_every_group() {
    let (_, definition) = Schemas::builtin().kind("", "v1", "DeleteOptions").unwrap();
    let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground",
        "preconditions": {"uid": "1"}, "dryRun": ["All"]});
    let bytes = encode(definition, &options);
    for version in ["v1", "apps/v1", "policy/v1", "meta.k8s.io/v1"] {
        let decoded = berth_objects::protobuf::decode(&envelope(version, "DeleteOptions", &bytes));
        let mut wanted = options.clone();
        wanted["apiVersion"] = version.into();
        wanted["kind"] = "DeleteOptions".into();
        assert_eq!(decoded.unwrap(), wanted);
    }
}
