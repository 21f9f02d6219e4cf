//! Reading pods.

use serde_json::Value;

use crate::Pod;

impl<'a> Pod<'a> {
    /// All containers: init, main, ephemeral.
    pub(crate) fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| self.spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers for which something holds.
    pub(crate) fn containers_where(self, holds: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        let chosen = self.containers().filter(|container| holds(container));
        chosen.map(|container| text(&container["name"])).collect()
    }

    /// The pod's own security context.
    pub(crate) fn context(self) -> &'a Value {
        &self.spec["securityContext"]
    }

    pub(crate) fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let annotations = self.metadata["annotations"].as_object().into_iter().flatten();
        annotations.map(|(name, value)| (name.as_str(), text(value)))
    }

    pub(crate) fn volumes(self) -> impl Iterator<Item = &'a Value> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }

    /// Whether root in it is nobody on the host.
    pub(crate) fn has_own_users(self) -> bool {
        self.spec["hostUsers"] == Value::Bool(false)
    }

    /// Whether it is for Windows, where much of this has no meaning.
    pub(crate) fn is_for_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

/// A text, the empty one if there is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `container "a"`, `containers "a", "b"`; with `pod` before it if the pod itself did it too.
pub(crate) fn setters(pod: bool, containers: &[&str]) -> String {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(format!("{} {}", plural("container", containers.len()), quoted(containers)));
    }
    parts.join(" and ")
}

pub(crate) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

pub(crate) fn quoted<T: AsRef<str>>(words: &[T]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.as_ref())).collect();
    quoted.join(", ")
}
