//! Brings the default roles and bindings to what they should be, at every start.
//!
//! What is missing is added; what somebody added stays; what carries `autoupdate: "false"` is left alone. All changes are one
//! commit: a new cluster has over a hundred of these objects, and waits for the disk once.

use std::collections::HashMap;

use berth_access::AUTOUPDATE;
use berth_objects::{Object, Resource, Status, time};
use berth_store::{Expect, Operation, Range, Revision, Store, StoreError};
use serde_json::{Value, json};

use crate::server::Options;
use crate::{registry, status};

pub(crate) async fn reconcile(store: &dyn Store, options: &Options) -> Result<(), Status> {
    const ATTEMPTS: usize = 10;
    let now = time::seconds((options.clock)());
    for _ in 0..ATTEMPTS {
        let operations = plan(store, &now).await?;
        if operations.is_empty() {
            return Ok(());
        }
        match store.commit(operations).await {
            Ok(_) => return Ok(()),
            // Another server of the same store was faster.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(status::store(error)),
        }
    }
    Err(Status::internal("the default roles change faster than they can be written"))
}

async fn plan(store: &dyn Store, now: &str) -> Result<Vec<Operation>, Status> {
    let wanted = [
        ("clusterroles", berth_access::cluster_roles()),
        ("clusterrolebindings", berth_access::cluster_role_bindings()),
        ("roles", berth_access::roles()),
        ("rolebindings", berth_access::role_bindings()),
    ];
    let mut operations = Vec::new();
    for (plural, wanted) in wanted {
        let resource = berth_rules::find(berth_access::GROUP, "v1", plural)
            .ok_or_else(|| Status::internal("roles are not served"))?;
        let known = read(store, resource).await?;
        for object in wanted {
            let place = (object.namespace().to_owned(), object.name().to_owned());
            operations.extend(step(resource, object, known.get(&place), now)?);
        }
    }
    Ok(operations)
}

type Known = HashMap<(String, String), (Value, Revision)>;

async fn read(store: &dyn Store, resource: &Resource<'_>) -> Result<Known, Status> {
    let prefix = registry::prefix(resource, "").into();
    let page = store.range(Range { prefix, ..Range::default() }).await.map_err(status::store)?;
    let mut known = Known::new();
    for record in &page.records {
        let object = registry::decode(resource, record)?;
        let place = (object.namespace().to_owned(), object.name().to_owned());
        known.insert(place, (object, record.revision));
    }
    Ok(known)
}

fn step(
    resource: &Resource,
    wanted: Value,
    known: Option<&(Value, Revision)>,
    now: &str,
) -> Result<Option<Operation>, Status> {
    let key = registry::key(resource, wanted.namespace(), wanted.name());
    let (object, expect) = match known {
        None => (begin(wanted, now), Expect::Absent),
        Some((old, _)) if old.annotation(AUTOUPDATE) == Some("false") => return Ok(None),
        // The role of a binding cannot be changed, only the whole binding.
        Some((old, revision)) if old.get("roleRef") != wanted.get("roleRef") => {
            (begin(wanted, now), Expect::Revision(*revision))
        }
        Some((old, revision)) => {
            let mut object = old.clone();
            complete(&mut object, &wanted);
            if object == *old {
                return Ok(None);
            }
            (object, Expect::Revision(*revision))
        }
    };
    let value = registry::encode(resource, &object)?;
    Ok(Some(Operation::Put { key, value, expect }))
}

fn begin(mut object: Value, now: &str) -> Value {
    object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string());
    object.set(&["metadata", "creationTimestamp"], now);
    object
}

/// Adds what is missing.
fn complete(object: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        for (name, value) in wanted.map(&["metadata", field]).into_iter().flatten() {
            object.set_default(&["metadata", field, name], value.clone());
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        // Its rules are the sum of others, which a controller keeps.
        object.set(&["aggregationRule"], rule.clone());
        return;
    }
    let fields = if wanted.get("roleRef").is_some() { ["subjects"] } else { ["rules"] };
    for field in fields {
        let missing: Vec<Value> = wanted
            .list(&[field])
            .iter()
            .filter(|item| !covers(object, field, item))
            .cloned()
            .collect();
        if missing.is_empty() {
            continue;
        }
        let place = object.place(&[field]);
        if !place.is_array() {
            *place = json!([]);
        }
        if let Some(items) = place.as_array_mut() {
            items.extend(missing);
        }
    }
}

fn covers(object: &Value, field: &str, item: &Value) -> bool {
    if field == "rules" {
        let owned = berth_access::Rule::of(object);
        return berth_access::uncovered(&owned, &[berth_access::Rule::parse(item)]).is_empty();
    }
    object.list(&[field]).contains(item)
}

#[cfg(test)]
mod tests {
    use berth_store::Memory;

    use super::*;

    async fn change(store: &Memory, name: &str, change: impl Fn(&mut Value)) {
        let resource = berth_rules::find(berth_access::GROUP, "v1", "clusterroles").unwrap();
        let key = registry::key(resource, "", name);
        let record = store.get(key.clone(), None).await.unwrap().record.unwrap();
        let mut object = registry::decode(resource, &record).unwrap();
        change(&mut object);
        let value = registry::encode(resource, &object).unwrap();
        store.commit(vec![Operation::Put { key, value, expect: Expect::Any }]).await.unwrap();
    }

    async fn rules(store: &Memory, name: &str) -> usize {
        let resource = berth_rules::find(berth_access::GROUP, "v1", "clusterroles").unwrap();
        let key = registry::key(resource, "", name);
        let record = store.get(key, None).await.unwrap().record.unwrap();
        registry::decode(resource, &record).unwrap().list(&["rules"]).len()
    }

    #[tokio::test]
    async fn defaults_come_back_additions_stay_and_a_second_start_writes_nothing() {
        let store = Memory::default();
        let options = Options::default();
        reconcile(&store, &options).await.unwrap();
        let after = store.current();
        reconcile(&store, &options).await.unwrap();
        assert_eq!(store.current(), after);
        let basic = rules(&store, "system:basic-user").await;
        let own = json!({"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]});
        change(&store, "system:basic-user", |role| role["rules"] = json!([own])).await;
        change(&store, "system:discovery", |role| {
            role["rules"] = json!([]);
            role["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        })
        .await;
        reconcile(&store, &options).await.unwrap();
        assert_eq!(rules(&store, "system:basic-user").await, basic + 1);
        assert_eq!(rules(&store, "system:discovery").await, 0);
    }
}
