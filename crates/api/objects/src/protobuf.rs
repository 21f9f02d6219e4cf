//! Protobuf request bodies to JSON, by the numbers in the schema table.
//!
//! Clients send some objects only in this form. The envelope is `k8s\0` and a message with type, encoding and the object's
//! own bytes; nothing is ever answered in it.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::schema::{Definition, Form, JSON_SCHEMA, Property, Schemas, Shape, Tag, Type, Wire};
use crate::{base64_encode, time};

const MAGIC: &[u8] = b"k8s\0";
const DEEPEST: usize = 64;

/// The bytes are no object we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// They do not begin as an envelope.
    #[error("the body is no Kubernetes protobuf")]
    Magic,
    /// They end within a field, or nest too deeply.
    #[error("the protobuf message is malformed")]
    Malformed,
    /// The kind has no schema.
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    Kind {
        /// The kind.
        kind: String,
        /// The group and version.
        version: String,
    },
}

/// Decodes an enveloped object; `apiVersion` and `kind` come from the envelope.
///
/// # Errors
/// When the bytes are malformed or the kind is unknown.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        let (number, wire) = field?;
        match (number, wire) {
            (1, Raw::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Raw::Bytes(text)) => version = text_of(text)?,
                        (2, Raw::Bytes(text)) => kind = text_of(text)?,
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, short) = version.split_once('/').unwrap_or(("", &version));
    let found = Schemas::builtin().kind(group, short, &kind).or_else(|| {
        // Options of requests belong to every group.
        (kind == "DeleteOptions").then(|| Schemas::builtin().kind("", "v1", &kind)).flatten()
    });
    let Some((_, definition)) = found else {
        return Err(ProtobufError::Kind { kind, version });
    };
    let mut object = message(definition, raw, 0)?;
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".into(), version.into());
        fields.insert("kind".into(), kind.into());
    }
    Ok(object)
}

#[derive(Clone, Copy)]
enum Raw<'bytes> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'bytes [u8]),
}

/// The fields of a message, in order.
struct Fields<'bytes>(&'bytes [u8]);

impl<'bytes> Fields<'bytes> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'bytes [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Raw<'bytes>)> {
        let key = self.varint()?;
        let raw = match key & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Raw::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Raw::Fixed32
            }
            _ => return None,
        };
        Some((u32::try_from(key >> 3).ok()?, raw))
    }
}

impl<'bytes> Iterator for Fields<'bytes> {
    type Item = Result<(u32, Raw<'bytes>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(ProtobufError::Malformed);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn text_of(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed)
}

/// Two's complement, as the wire carries negative numbers.
fn signed(number: u64) -> i64 {
    i64::from_le_bytes(number.to_le_bytes())
}

fn message(definition: &Definition, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if depth > DEEPEST {
        return Err(ProtobufError::Malformed);
    }
    match definition.form {
        Form::Object => {
            let mut object = Map::new();
            object_fields(definition, bytes, &mut Vec::new(), &mut object, depth)?;
            Ok(Value::Object(object))
        }
        Form::Quantity => {
            let mut value = Value::Null;
            for field in Fields(bytes) {
                if let (1, Raw::Bytes(text)) = field? {
                    value = text_of(text)?.into();
                }
            }
            Ok(value)
        }
        Form::IntOrString => int_or_string(bytes),
        Form::Time | Form::MicroTime => moment(definition.form, bytes),
        Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => {
            alternative(definition.form, bytes, depth)
        }
        Form::Raw => {
            let mut value = Value::Null;
            for field in Fields(bytes) {
                if let (1, Raw::Bytes(text)) = field? {
                    value = serde_json::from_slice(text).map_err(|_| ProtobufError::Malformed)?;
                }
            }
            Ok(value)
        }
    }
}

/// A schema, or what else may stand in its place.
fn alternative(form: Form, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let schema = Schemas::builtin().definition(JSON_SCHEMA).ok_or(ProtobufError::Malformed)?;
    let (mut items, mut found) = (Vec::new(), Value::Null);
    for field in Fields(bytes) {
        match (form, field?) {
            (Form::SchemaOrBool, (1, Raw::Varint(allows))) if found.is_null() => {
                found = (allows != 0).into();
            }
            (Form::SchemaOrBool, (2, Raw::Bytes(inner)))
            | (Form::SchemaOrArray | Form::SchemaOrStrings, (1, Raw::Bytes(inner))) => {
                found = message(schema, inner, depth + 1)?;
            }
            (Form::SchemaOrArray, (2, Raw::Bytes(inner))) => {
                items.push(message(schema, inner, depth + 1)?);
            }
            (Form::SchemaOrStrings, (2, Raw::Bytes(text))) => items.push(text_of(text)?.into()),
            _ => {}
        }
    }
    Ok(if items.is_empty() { found } else { items.into() })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Raw::Varint(kind)) => is_text = kind == 1,
            (2, Raw::Varint(value)) => number = signed(value),
            (3, Raw::Bytes(bytes)) => text = text_of(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn moment(form: Form, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Raw::Varint(value)) => seconds = signed(value),
            (2, Raw::Varint(value)) => nanos = signed(value),
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Malformed)?;
    let moment = Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Malformed)?;
    Ok(match form {
        Form::MicroTime => time::micros(moment),
        _ => time::seconds(moment),
    }
    .into())
}

/// Fills an object from a message, or from one nested in it whose fields JSON shows on the same level.
fn object_fields(
    definition: &Definition,
    bytes: &[u8],
    path: &mut Vec<u32>,
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    for field in Fields(bytes) {
        let (number, raw) = field?;
        path.push(number);
        let mut found = false;
        let mut leads_on = false;
        for (name, property) in definition.unordered() {
            let here = match &property.tag {
                Some(Tag::One(tag)) => *path == [*tag],
                Some(Tag::Path(tags)) => {
                    leads_on |= tags.len() > path.len() && tags.starts_with(path);
                    **tags == **path
                }
                None => false,
            };
            if here {
                set(name, property, raw, object, depth)?;
                found = true;
                break;
            }
        }
        if let (false, true, Raw::Bytes(inner)) = (found, leads_on, raw) {
            object_fields(definition, inner, path, object, depth + 1)?;
        }
        path.pop();
    }
    Ok(())
}

fn set(
    name: &str,
    property: &Property,
    raw: Raw<'_>,
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let basic = match property.shape() {
        Shape::Basic(basic) => Some(basic),
        Shape::Named(..) => None,
    };
    match (basic, property.element.as_deref()) {
        (Some(Type::Array), Some(element)) => {
            let place = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Some(items) = place.as_array_mut() else { return Err(ProtobufError::Malformed) };
            if let (Some(Wire::Integer | Wire::Boolean), Raw::Bytes(packed)) = (property.wire, raw)
            {
                let mut packed = Fields(packed);
                while !packed.0.is_empty() {
                    let number = packed.varint().ok_or(ProtobufError::Malformed)?;
                    items.push(value(element, property.wire, Raw::Varint(number), depth)?);
                }
            } else {
                items.push(value(element, property.wire, raw, depth)?);
            }
        }
        (Some(Type::Map), Some(element)) => {
            let Raw::Bytes(entry) = raw else { return Err(ProtobufError::Malformed) };
            let (mut key, mut found) = (String::new(), Value::Null);
            for field in Fields(entry) {
                match field? {
                    (1, Raw::Bytes(text)) => key = text_of(text)?,
                    (2, raw) => found = value(element, property.wire, raw, depth)?,
                    _ => {}
                }
            }
            if found.is_null() && matches!(property.wire, Some(Wire::String | Wire::Bytes)) {
                found = Value::String(String::new());
            }
            let place = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Some(entries) = place.as_object_mut() else { return Err(ProtobufError::Malformed) };
            entries.insert(key, found);
        }
        _ => {
            let found = value(property, property.wire, raw, depth)?;
            // Typed clients write every text, also the empty ones they never set.
            if found != "" {
                object.insert(name.to_owned(), found);
            }
        }
    }
    Ok(())
}

fn value(
    property: &Property,
    wire: Option<Wire>,
    raw: Raw<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    Ok(match (wire, raw) {
        (Some(Wire::String), Raw::Bytes(text)) => text_of(text)?.into(),
        (Some(Wire::Bytes), Raw::Bytes(bytes)) => base64_encode(bytes).into(),
        (Some(Wire::Boolean), Raw::Varint(number)) => (number != 0).into(),
        (Some(Wire::Integer), Raw::Varint(number)) => signed(number).into(),
        (Some(Wire::Double), Raw::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Some(Wire::Message), Raw::Bytes(bytes)) => match property.shape() {
            Shape::Named(_, definition) => message(definition, bytes, depth + 1)?,
            Shape::Basic(_) => return Err(ProtobufError::Malformed),
        },
        (Some(Wire::Strings), Raw::Bytes(bytes)) => {
            let mut texts = Vec::new();
            for field in Fields(bytes) {
                if let (1, Raw::Bytes(text)) = field? {
                    texts.push(Value::String(text_of(text)?));
                }
            }
            Value::Array(texts)
        }
        (_, Raw::Fixed32 | Raw::Fixed64(_) | Raw::Varint(_) | Raw::Bytes(_)) => {
            return Err(ProtobufError::Malformed);
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        assert!(length < 128);
        [&[number << 3 | 2, length], bytes].concat()
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw), &field(3, b""), &field(4, b"")].concat()
    }

    #[test]
    fn decodes_what_clients_send() {
        let meta = [field(1, b"web"), field(2, b""), field(8, b"")].concat();
        let labels = field(11, &[field(1, b"app"), field(2, b"x")].concat());
        let meta = field(1, &[meta, labels].concat());
        let spec = field(2, &[&[1 << 3, 3][..], &[7 << 3, 1]].concat());
        let body = envelope("apps/v1", "Deployment", &[meta, spec].concat());
        assert_eq!(
            decode(&body).unwrap(),
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "web", "creationTimestamp": null, "labels": {"app": "x"}},
                "spec": {"replicas": 3, "paused": true}})
        );
        let data = field(2, &[field(1, b"k"), field(2, b"v")].concat());
        let body = envelope("v1", "Secret", &data);
        assert_eq!(decode(&body).unwrap()["data"], json!({"k": "dg=="}));
    }

    #[test]
    fn refuses_what_is_malformed() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
        let body = envelope("v1", "Thing", b"");
        assert!(matches!(decode(&body), Err(ProtobufError::Kind { .. })));
        let body = envelope("v1", "Secret", &[0x0a, 0x7f, 1]);
        assert_eq!(decode(&body), Err(ProtobufError::Malformed));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let short = &bytes[..bytes.len().min(100)];
            if let Ok(value) = decode(&envelope("v1", "Pod", short)) {
                proptest::prop_assert!(value.is_object());
            }
        }
    }
}
