//! The name of a template: a short text that is the same for the same template.
//!
//! It must not change between releases of Berth, or every Deployment would be rolled out anew if its ReplicaSet were lost;
//! so it is a fixed function (FNV-1a) over JSON with sorted keys rather than the standard library's hasher.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// Letters and digits that make no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The text of a template. A collision count other than zero gives another text for the same template.
pub fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut state = Fnv(0xcbf2_9ce4_8422_2325);
    let value = serde_json::to_value(template).unwrap_or_default();
    state.value(&value);
    if collisions > 0 {
        state.bytes(&collisions.to_le_bytes());
    }
    let mut rest = state.0 ^ (state.0 >> 32);
    let mut text = String::new();
    for _ in 0..10 {
        let letter = usize::try_from(rest % 27).unwrap_or(0);
        text.push(char::from(ALPHABET[letter]));
        rest /= 27;
    }
    text
}

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by_key(|(key, _)| *key);
                self.bytes(b"{");
                for (key, value) in sorted {
                    self.bytes(key.as_bytes());
                    self.bytes(b":");
                    self.value(value);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                    self.bytes(b",");
                }
                self.bytes(b"]");
            }
            other => self.bytes(other.to_string().as_bytes()),
        }
    }
}
