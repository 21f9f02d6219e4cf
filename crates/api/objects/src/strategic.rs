//! Strategic merge patch: lists merge by their keys where the schema says so, and directives say the rest.
//!
//! Directives: `$patch: replace|delete|merge`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x`, `$retainKeys`, and null,
//! which deletes.

use serde_json::{Map, Value};

use crate::schema::{Definition, Form, Property, Shape, Type};

const PATCH: &str = "$patch";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";
const RETAIN: &str = "$retainKeys";

/// The patch cannot be applied to anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A directive is unknown.
    #[error("invalid value for `$patch`: {0}")]
    Directive(String),
    /// A list element lacks what it is merged by.
    #[error("map: {element} does not contain declared merge key: {key}")]
    Key {
        /// The element.
        element: String,
        /// The key.
        key: &'static str,
    },
    /// A directive does not have the form it must have.
    #[error("directive `{0}` is not a list")]
    Form(String),
}

/// Applies a patch to an object.
///
/// # Errors
/// When the patch is malformed.
pub fn strategic_merge(
    definition: &Definition,
    object: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    merge(Some(definition), object, patch)
}

fn schema_of(property: Option<&Property>) -> Option<&'static Definition> {
    match property?.shape() {
        Shape::Named(_, definition) if definition.form == Form::Object => Some(definition),
        Shape::Named(..) | Shape::Basic(_) => None,
    }
}

/// Merges an object; `definition` is absent for maps and objects without a schema.
fn merge(
    definition: Option<&Definition>,
    object: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    let Some(changes) = patch.as_object() else {
        *object = patch.clone();
        return Ok(());
    };
    match changes.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *object = clean(patch);
            return Ok(());
        }
        Some("delete") => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(PatchError::Directive(other.to_owned())),
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(fields) = object.as_object_mut() else { return Ok(()) };
    if let Some(retained) = changes.get(RETAIN) {
        let retained = retained.as_array().ok_or_else(|| PatchError::Form(RETAIN.into()))?;
        fields.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (directive, gone) in changes {
        let Some(name) = directive.strip_prefix(DELETE_FROM) else { continue };
        let gone = gone.as_array().ok_or_else(|| PatchError::Form(directive.clone()))?;
        if let Some(Value::Array(items)) = fields.get_mut(name) {
            items.retain(|item| !gone.contains(item));
        }
    }
    // What the lists were before, for those whose order is given.
    let mut orders = Vec::new();
    for (directive, order) in changes {
        let Some(name) = directive.strip_prefix(ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| PatchError::Form(directive.clone()))?;
        let before = fields.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        orders.push((name, order, before));
    }
    for (name, change) in changes {
        if !name.starts_with('$') {
            field(definition, fields, name, change)?;
        }
    }
    for (name, order, before) in orders {
        let key = definition.and_then(|schema| schema.property(name)?.merge_key);
        if let Some(Value::Array(items)) = fields.get_mut(name) {
            arrange(items, order, &before, key);
        }
    }
    Ok(())
}

fn field(
    definition: Option<&Definition>,
    fields: &mut Map<String, Value>,
    name: &str,
    change: &Value,
) -> Result<(), PatchError> {
    if change.is_null() {
        fields.shift_remove(name);
        return Ok(());
    }
    let property = definition.and_then(|definition| definition.property(name));
    match change {
        Value::Object(_) if property.is_some_and(Property::replaces) => {
            fields.insert(name.to_owned(), clean(change));
            Ok(())
        }
        Value::Object(changes) => {
            if changes.get(PATCH).is_some_and(|directive| directive == "delete") {
                fields.shift_remove(name);
                return Ok(());
            }
            let place = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
            match property.map(Property::shape) {
                Some(Shape::Basic(Type::Map)) => {
                    let element = property.and_then(|property| property.element.as_deref());
                    map(element, place, changes, change)
                }
                _ => merge(schema_of(property), place, change),
            }
        }
        Value::Array(changes) if property.is_some_and(Property::merges) => {
            let place = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if !place.is_array() {
                *place = Value::Array(Vec::new());
            }
            let Some(items) = place.as_array_mut() else { return Ok(()) };
            let element = property.and_then(|property| property.element.as_deref());
            let before = items.clone();
            let key = property.and_then(|property| property.merge_key);
            match key {
                Some(key) => elements(schema_of(element), items, changes, key)?,
                None => {
                    for change in changes.iter().filter(|change| !change.is_null()) {
                        if !items.contains(change) {
                            items.push(change.clone());
                        }
                    }
                }
            }
            arrange(items, changes, &before, key);
            Ok(())
        }
        other => {
            fields.insert(name.to_owned(), clean(other));
            Ok(())
        }
    }
}

/// Merges a map whose values all have one schema.
fn map(
    element: Option<&Property>,
    place: &mut Value,
    changes: &Map<String, Value>,
    whole: &Value,
) -> Result<(), PatchError> {
    let Some(schema) = schema_of(element) else { return merge(None, place, whole) };
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    let Some(entries) = place.as_object_mut() else { return Ok(()) };
    for (name, change) in changes {
        if change.is_null() {
            entries.shift_remove(name);
        } else {
            let entry = entries.entry(name).or_insert_with(|| Value::Object(Map::new()));
            merge(Some(schema), entry, change)?;
        }
    }
    Ok(())
}

fn elements(
    schema: Option<&Definition>,
    items: &mut Vec<Value>,
    changes: &[Value],
    key: &'static str,
) -> Result<(), PatchError> {
    let replaces = |change: &Value| {
        change.get(PATCH).is_some_and(|directive| directive == "replace")
            && change.as_object().is_some_and(|fields| fields.len() == 1)
    };
    if changes.iter().any(replaces) {
        items.clear();
    }
    for change in changes.iter().filter(|change| !replaces(change)) {
        let value =
            change.get(key).ok_or_else(|| PatchError::Key { element: change.to_string(), key })?;
        let found = items.iter().position(|item| item.get(key) == Some(value));
        let deletes = change.get(PATCH).is_some_and(|directive| directive == "delete");
        match found {
            Some(position) if deletes => drop(items.remove(position)),
            None if deletes => {}
            Some(position) => merge(schema, &mut items[position], change)?,
            None => {
                let mut item = Value::Object(Map::new());
                merge(schema, &mut item, change)?;
                items.push(item);
            }
        }
    }
    Ok(())
}

/// A value that replaces another carries no directives into the object.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, value)| {
                let directive = *name == PATCH
                    || *name == RETAIN
                    || name.starts_with(DELETE_FROM)
                    || name.starts_with(ORDER);
                !directive && !value.is_null()
            });
            Value::Object(kept.map(|(name, value)| (name.clone(), clean(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(clean).collect()),
        other => other.clone(),
    }
}

/// Brings a merged list into its order: the elements named in `order` as they are named there, the others as they stood
/// in `before`. Where both lists go on, an element that stood before the other stays before it; one that is new comes first.
fn arrange(items: &mut Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) {
    let same = |left: &Value, right: &Value| match key {
        Some(key) => left.get(key).is_some() && left.get(key) == right.get(key),
        None => left == right,
    };
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(one), Some(other)) = (named.peek(), others.peek()) {
        let stood = place(before, other).zip(place(before, one));
        let other_first = stood.is_some_and(|(other, one)| other < one);
        items.extend(if other_first { others.next() } else { named.next() });
    }
    items.extend(named);
    items.extend(others);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schemas;

    fn deployment(object: Value, patch: Value) -> Result<Value, PatchError> {
        let (_, definition) = Schemas::builtin().kind("apps", "v1", "Deployment").unwrap();
        let mut object = json!({"spec": {"template": {"spec": object}}});
        strategic_merge(definition, &mut object, &json!({"spec": {"template": {"spec": patch}}}))?;
        Ok(object["spec"]["template"]["spec"].take())
    }

    #[test]
    fn merges_lists_by_key_and_replaces_the_others() {
        let before = json!({"containers": [{"name": "a", "image": "1", "args": ["x"]},
            {"name": "b", "image": "1"}], "nodeName": "n"});
        let patch = json!({"containers": [{"name": "b", "image": "2", "args": ["y"]},
            {"name": "c", "image": "3"}, {"name": "a", "$patch": "delete"}], "nodeName": null});
        let after = deployment(before, patch).unwrap();
        assert_eq!(
            after,
            json!({"containers": [{"name": "b", "image": "2", "args": ["y"]},
            {"name": "c", "image": "3"}]})
        );
    }

    #[test]
    fn follows_its_directives() {
        let before = json!({"containers": [{"name": "a", "env": [{"name": "x", "value": "1"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {"a": "1", "b": "2"}});
        let patch = json!({
            "containers": [{"$patch": "replace"}, {"name": "z"}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}],
            "nodeSelector": {"$patch": "replace", "c": "3"}});
        let after = deployment(before, patch).unwrap();
        assert_eq!(
            after,
            json!({"containers": [{"name": "z"}],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}], "nodeSelector": {"c": "3"}})
        );
    }

    #[test]
    fn orders_and_deletes_elements() {
        let before = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        let patch = json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
            "containers": [{"name": "b", "$patch": "delete"}]});
        let after = deployment(before, patch).unwrap();
        assert_eq!(after, json!({"containers": [{"name": "c"}, {"name": "a"}]}));

        let (_, pod) = Schemas::builtin().kind("", "v1", "Pod").unwrap();
        let mut object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
            "finalizers": ["c"], "$setElementOrder/finalizers": ["c", "b"]}});
        strategic_merge(pod, &mut object, &patch).unwrap();
        assert_eq!(object, json!({"metadata": {"finalizers": ["c", "b"]}}));
    }

    #[test]
    fn refuses_what_it_cannot_place() {
        let missing = deployment(json!({}), json!({"containers": [{"image": "x"}]}));
        assert!(matches!(missing, Err(PatchError::Key { key: "name", .. })));
        let unknown = deployment(json!({}), json!({"$patch": "what"}));
        assert!(matches!(unknown, Err(PatchError::Directive(_))));
    }
}
