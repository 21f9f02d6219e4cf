//! Managed fields: who last said what, kept for each manager, operation and subresource.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fields::{Fields, merge_applied};
use crate::schema::Schema;
use crate::{Cause, Object, time};

/// The newest entries of updates are kept up to this number; older ones flow together.
const UPDATERS: usize = 10;

/// Who changes an object, and how.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// The name.
    pub name: &'a str,
    /// Group and version of the request.
    pub api_version: &'a str,
    /// The subresource, or nothing.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
}

/// What to do about fields of others that would change.
#[derive(Debug, Clone)]
pub enum Force {
    /// Refuse.
    Never,
    /// Take these over and refuse all others.
    Only(Fields),
    /// Take them over.
    Always,
}

impl Force {
    /// The part of a conflict that stands.
    fn refuses(&self, conflict: &Fields) -> Fields {
        match self {
            Self::Never => conflict.clone(),
            Self::Only(free) => conflict.difference(free),
            Self::Always => Fields::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: String,
    fields: Fields,
}

impl Entry {
    fn read(value: &Value) -> Self {
        Self {
            manager: value.text(&["manager"]).to_owned(),
            apply: value.text(&["operation"]) == "Apply",
            api_version: value.text(&["apiVersion"]).to_owned(),
            subresource: value.text(&["subresource"]).to_owned(),
            time: value.text(&["time"]).to_owned(),
            fields: Fields::from_value(value.get("fieldsV1").unwrap_or(&Value::Null)),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_value(),
        });
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }

    fn new(manager: &Manager<'_>, apply: bool, fields: Fields) -> Self {
        Self {
            manager: manager.name.to_owned(),
            apply,
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: time::seconds(manager.now),
            fields,
        }
    }

    fn conflict(&self, field: String) -> Cause {
        let mut message = format!("conflict with \"{}\"", self.manager);
        if !self.apply {
            if !self.subresource.is_empty() {
                message += &format!(" with subresource \"{}\"", self.subresource);
            }
            message += &format!(" using {}", self.api_version);
        }
        Cause { reason: "FieldManagerConflict".into(), message, field }
    }

    fn is(&self, manager: &Manager<'_>, apply: bool) -> bool {
        self.apply == apply
            && self.manager == manager.name
            && self.subresource == manager.subresource
            && (apply || self.api_version == manager.api_version)
    }
}

fn read(object: &Value) -> Vec<Entry> {
    object.list(&["metadata", "managedFields"]).iter().map(Entry::read).collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    let updaters = entries.iter().filter(|entry| !entry.apply).count();
    if updaters > UPDATERS {
        let mut old = Vec::new();
        let mut spare = updaters - UPDATERS + 1;
        entries.sort_by(|left, right| left.time.cmp(&right.time));
        entries.retain(|entry| {
            let take = !entry.apply && spare > 0;
            if take {
                spare -= 1;
                old.push(entry.clone());
            }
            !take
        });
        if let Some(mut all) = old.pop() {
            all.fields = old.iter().fold(all.fields, |sum, entry| sum.union(&entry.fields));
            "ancient-changes".clone_into(&mut all.manager);
            entries.push(all);
        }
    }
    entries.sort_by(|left, right| {
        (!left.apply, &left.time, &left.manager).cmp(&(!right.apply, &right.time, &right.manager))
    });
    match entries.as_slice() {
        [] => drop(object.unset(&["metadata", "managedFields"])),
        some => {
            let values: Vec<_> = some.iter().map(Entry::to_value).collect();
            object.set(&["metadata", "managedFields"], values);
        }
    }
}

/// Notes who made `new` of `old` by any change but apply. `new` may carry managed fields of its own, for example none to
/// reset them.
pub fn track_update<'schema>(
    schema: impl Into<Schema<'schema>>,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager<'_>,
) {
    let schema = schema.into();
    let sent = new.at(&["metadata", "managedFields"]).cloned();
    let reset = sent
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(|list| list.is_empty() || list.iter().all(|entry| entry == &json!({})));
    let before = match old {
        Some(_) if reset => {
            new.unset(&["metadata", "managedFields"]);
            return;
        }
        Some(_) if sent.is_some() => read(new),
        Some(old) => read(old),
        None => Vec::new(),
    };
    let nothing = Value::Null;
    let changed = Fields::changed(schema, old.unwrap_or(&nothing), new);
    let present = Fields::of(schema, new);
    let mut entries = before;
    let mut own = None;
    for entry in &mut entries {
        if entry.is(manager, false) {
            own = Some(entry.fields.clone());
        }
        entry.fields =
            entry.fields.difference(&changed).intersection(&present_with(&present, &entry.fields));
    }
    if changed.is_empty() {
        write(new, entries);
        return;
    }
    entries.retain(|entry| !entry.is(manager, false));
    let own = own.unwrap_or_default();
    let own = own.intersection(&present_with(&present, &own)).union(&changed);
    entries.push(Entry::new(manager, false, own));
    write(new, entries);
}

/// Members of `owned` may name containers, which `present` only leads through; those count as present, too.
fn present_with(present: &Fields, owned: &Fields) -> Fields {
    present.clone().containers(owned)
}

/// Applies a configuration. On success `object` is the merged object with its managed fields; `object` may begin as null,
/// for creation. `settle` fills in defaults: whatever they make equal to what is there is no change and so no conflict.
///
/// # Errors
/// The causes, one for each field that another manager owns and that would change, unless `force` takes it over.
///
/// Fields of a manager's earlier application that it no longer applies, and that nobody else owns, go.
pub fn apply<'schema>(
    schema: impl Into<Schema<'schema>>,
    object: &mut Value,
    configuration: &Value,
    manager: &Manager<'_>,
    force: &Force,
    settle: impl Fn(&mut Value),
) -> Result<(), Vec<Cause>> {
    let schema = schema.into();
    let live = object.clone();
    let mut entries = read(&live);
    let wanted = Fields::of(schema, configuration);
    let mut merged = if live.is_null() { json!({}) } else { live.clone() };
    merge_applied(schema, &mut merged, configuration);
    let own = entries.iter().position(|entry| entry.is(manager, true));
    let before = own.map(|place| entries.remove(place));
    if let Some(before) = &before {
        // What this manager applied before and nobody wants any more. A field with something wanted inside is wanted.
        let managed = entries.iter().fold(wanted.clone(), |all, entry| all.union(&entry.fields));
        let gone = before.fields.clone().with_named(schema);
        let gone = gone.difference(&managed.with_named(schema));
        gone.remove_from(schema, &mut merged);
    }
    let mut settled = merged.clone();
    settle(&mut settled);
    let changed = Fields::changed(schema, &live, &settled);
    let changed = changed.intersection(&wanted.clone().with_named(schema));
    let present = Fields::of(schema, &settled);
    let mut causes = Vec::new();
    for entry in &mut entries {
        let conflict = entry.fields.intersection(&changed);
        if !conflict.is_empty() {
            let refused = force.refuses(&conflict);
            causes.extend(refused.paths().into_iter().map(|field| entry.conflict(field)));
            entry.fields = entry.fields.difference(&conflict);
        }
        // What went with this application is nobody's any more.
        entry.fields = entry.fields.intersection(&present_with(&present, &entry.fields));
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    let mut entry = Entry::new(manager, true, wanted);
    if let Some(before) = before.filter(|before| before.fields == entry.fields) {
        entry.time = before.time;
    }
    entries.push(entry);
    write(&mut merged, entries);
    *object = merged;
    Ok(())
}

/// The fields that stand in an object as `kubectl apply` last applied them on its own side: whoever goes on with
/// server-side apply may change them.
#[must_use]
pub fn unchanged<'schema>(
    schema: impl Into<Schema<'schema>>,
    last: &Value,
    live: &Value,
) -> Fields {
    let schema = schema.into();
    let changed = Fields::changed(schema, live, last);
    Fields::of(schema, last).difference(&changed.with_named(schema))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Definition, Schemas};

    fn schema() -> &'static Definition {
        Schemas::builtin().kind("apps", "v1", "Deployment").unwrap().1
    }

    fn by(name: &str) -> Manager<'_> {
        Manager { name, api_version: "apps/v1", subresource: "", now: Timestamp::UNIX_EPOCH }
    }

    fn run(object: &mut Value, name: &str, force: bool, spec: Value) -> Result<(), Vec<Cause>> {
        let configuration = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a"}, "spec": spec});
        let force = if force { Force::Always } else { Force::Never };
        apply(schema(), object, &configuration, &by(name), &force, |_| ())
    }

    #[test]
    fn what_is_no_longer_applied_goes() {
        let mut object = Value::Null;
        let spec = json!({"replicas": 1, "paused": true,
            "template": {"spec": {"containers": [{"name": "x", "image": "1"}, {"name": "y"}]}}});
        run(&mut object, "one", false, spec).unwrap();
        let spec = json!({"replicas": 1,
            "template": {"spec": {"containers": [{"name": "x", "image": "2"}]}}});
        run(&mut object, "one", false, spec.clone()).unwrap();
        assert_eq!(object["spec"], spec);
        assert_eq!(
            object["metadata"]["managedFields"][0]["fieldsV1"],
            json!({"f:spec": {
            "f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"x\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
        );
    }

    #[test]
    fn others_fields_conflict_unless_forced() {
        let mut object = Value::Null;
        run(&mut object, "one", false, json!({"replicas": 1})).unwrap();
        run(&mut object, "two", false, json!({"replicas": 1}))
            .expect("the same value is no conflict");
        let causes = run(&mut object, "two", false, json!({"replicas": 2})).unwrap_err();
        assert_eq!((causes[0].field.as_str(), causes.len()), (".spec.replicas", 1));
        run(&mut object, "two", true, json!({"replicas": 2})).unwrap();
        assert_eq!(object["metadata"]["managedFields"].as_array().unwrap().len(), 1);
        run(&mut object, "two", false, json!({"paused": true})).unwrap();
        assert!(object["spec"].get("replicas").is_none(), "nobody wants it any more");
    }

    #[test]
    fn updates_take_what_they_change() {
        let mut object = Value::Null;
        run(&mut object, "one", false, json!({"replicas": 1, "paused": true})).unwrap();
        let old = object.clone();
        object["spec"]["replicas"] = json!(5);
        track_update(schema(), Some(&old), &mut object, &by("scaler"));
        let managed = object["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(managed[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
        assert_eq!(managed[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
        let causes = run(&mut object, "one", false, json!({"replicas": 1, "paused": true}));
        assert_eq!(causes.unwrap_err()[0].message, "conflict with \"scaler\" using apps/v1");
        let before = object.clone();
        track_update(schema(), Some(&before.clone()), &mut object, &by("idle"));
        assert_eq!(object, before, "no change, no note");
    }
}
