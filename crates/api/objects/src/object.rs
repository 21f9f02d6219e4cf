//! Access to the parts every object has, on plain JSON.

use serde_json::{Map, Value};

/// Reading and writing metadata. Absent texts read as empty.
pub trait Object {
    /// The value at a path of field names.
    fn at(&self, path: &[&str]) -> Option<&Value>;
    /// The text at a path, or the empty text.
    fn text(&self, path: &[&str]) -> &str;
    /// The integer at a path.
    fn integer(&self, path: &[&str]) -> Option<i64>;
    /// Whether the value at a path is `true`.
    fn flag(&self, path: &[&str]) -> bool;
    /// The elements of the list at a path.
    fn list(&self, path: &[&str]) -> &[Value];
    /// The map at a path.
    fn map(&self, path: &[&str]) -> Option<&Map<String, Value>>;
    /// The place at a path, with objects made on the way. What stands in the way is replaced.
    fn place(&mut self, path: &[&str]) -> &mut Value;
    /// Sets a value at a path.
    fn set(&mut self, path: &[&str], value: impl Into<Value>);
    /// Sets a value at a path unless there is one.
    fn set_default(&mut self, path: &[&str], value: impl Into<Value>);
    /// Takes the value at a path away.
    fn unset(&mut self, path: &[&str]) -> Option<Value>;

    /// `metadata.name`.
    fn name(&self) -> &str {
        self.text(&["metadata", "name"])
    }
    /// `metadata.namespace`.
    fn namespace(&self) -> &str {
        self.text(&["metadata", "namespace"])
    }
    /// `metadata.uid`.
    fn uid(&self) -> &str {
        self.text(&["metadata", "uid"])
    }
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str {
        self.text(&["metadata", "resourceVersion"])
    }
    /// `metadata.labels`.
    fn labels(&self) -> Option<&Map<String, Value>> {
        self.map(&["metadata", "labels"])
    }
    /// An annotation.
    fn annotation(&self, name: &str) -> Option<&str> {
        self.at(&["metadata", "annotations", name])?.as_str()
    }
    /// Whether its deletion was asked for.
    fn deleting(&self) -> bool {
        !self.text(&["metadata", "deletionTimestamp"]).is_empty()
    }
    /// Whether somebody must act before it may go.
    fn has_finalizers(&self) -> bool {
        !self.list(&["metadata", "finalizers"]).is_empty()
    }
}

impl Object for Value {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, part| value.get(part))
    }

    fn text(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    fn integer(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    fn flag(&self, path: &[&str]) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or_default()
    }

    fn list(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn map(&self, path: &[&str]) -> Option<&Map<String, Value>> {
        self.at(path).and_then(Value::as_object)
    }

    fn place(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(self, |value, part| {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            &mut value[*part]
        })
    }

    fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        *self.place(path) = value.into();
    }

    fn set_default(&mut self, path: &[&str], value: impl Into<Value>) {
        let place = self.place(path);
        if place.is_null() {
            *place = value.into();
        }
    }

    fn unset(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(self, |value, part| value.get_mut(part))?;
        parent.as_object_mut()?.shift_remove(*last)
    }
}
