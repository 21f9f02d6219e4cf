//! Objects as JSON, and how they get to a server.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Berth, Said};

/// Puts what the second says into the first: objects by field, lists of one length item by item.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if into.len() == from.len() => {
            into.iter_mut().zip(from).for_each(|(into, from)| merge(into, from));
        }
        (into, from) => *into = from,
    }
}

/// Applies objects.
pub fn apply(berth: &Berth, objects: &[Value]) -> Said {
    bring(berth, "apply", objects)
}

/// Creates objects.
pub fn create(berth: &Berth, objects: &[Value]) -> Said {
    bring(berth, "create", objects)
}

fn bring(berth: &Berth, verb: &str, objects: &[Value]) -> Said {
    // Beside the data directory, which may be on a disk that is full.
    let path = berth.data.with_extension("objects.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fs::write(&path, list.to_string()).unwrap();
    berth.kubectl(&[verb, "-f", path.to_str().unwrap()])
}

/// A condition of an object; null if it has none of this type.
pub fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or(Value::Null)
}

/// A configuration of the node in a file of its own.
pub fn configuration(name: &str, fields: &Value) -> PathBuf {
    let mut file = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    });
    merge(&mut file, fields.clone());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.node.json"));
    fs::write(&path, file.to_string()).unwrap();
    path
}

/// Memory of this machine, in bytes.
pub fn memory_total() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
