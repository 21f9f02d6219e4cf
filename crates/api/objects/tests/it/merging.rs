//! Properties of strategic merge and of server-side apply, on objects made up at random.

use berth_objects::managed::{self, Force, Manager};
use berth_objects::schema::{Definition, Schemas};
use berth_objects::{Object, strategic_merge};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn deployments() -> &'static Definition {
    Schemas::builtin().kind("apps", "v1", "Deployment").unwrap().1
}

fn maybe<T: std::fmt::Debug>(inner: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(inner)
}

fn labels() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-c]", "[x-z]", 1..3).prop_map(|map| json!(map))
}

fn environment() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[A-C]", "[0-9]", 1..3).prop_map(|map| {
        let entries = map.into_iter().map(|(name, value)| json!({"name": name, "value": value}));
        entries.collect()
    })
}

fn ports() -> impl Strategy<Value = Value> {
    proptest::collection::btree_set((80_u16..83, prop_oneof![Just("TCP"), Just("UDP")]), 1..3)
        .prop_map(|set| {
            let ports = set
                .into_iter()
                .map(|(port, protocol)| json!({"containerPort": port, "protocol": protocol}));
            ports.collect()
        })
}

fn container() -> impl Strategy<Value = Map<String, Value>> {
    let arguments = proptest::collection::vec("[a-b]", 1..3);
    (maybe("[p-r]"), maybe(environment()), maybe(ports()), maybe(arguments)).prop_map(
        |(image, env, ports, args)| {
            let fields = [
                ("image", image.map(Value::from)),
                ("env", env),
                ("ports", ports),
                ("args", args.map(Value::from)),
            ];
            let given =
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            given.collect()
        },
    )
}

fn containers() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[k-m]", container(), 1..3).prop_map(|map| {
        let items = map.into_iter().map(|(name, mut fields)| {
            fields.insert("name".into(), name.into());
            Value::Object(fields)
        });
        items.collect()
    })
}

/// A configuration of a Deployment with any of a handful of fields.
fn configuration() -> impl Strategy<Value = Value> {
    let finalizers = proptest::collection::btree_set("[f-h]", 1..3);
    (maybe(labels()), maybe(finalizers), maybe(0_i64..3), maybe(labels()), maybe(containers()))
        .prop_map(|(labels, finalizers, replicas, selector, containers)| {
            let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "d"}});
            if let Some(labels) = labels {
                object.set(&["metadata", "labels"], labels);
            }
            if let Some(finalizers) = finalizers {
                object.set(&["metadata", "finalizers"], json!(finalizers));
            }
            if let Some(replicas) = replicas {
                object.set(&["spec", "replicas"], replicas);
            }
            if let Some(labels) = selector {
                object.set(&["spec", "selector", "matchLabels"], labels);
            }
            if let Some(containers) = containers {
                object.set(&["spec", "template", "spec", "containers"], containers);
            }
            object
        })
}

fn apply(
    object: &mut Value,
    name: &str,
    configuration: &Value,
    force: &Force,
) -> Result<(), usize> {
    let manager =
        Manager { name, api_version: "apps/v1", subresource: "", now: Timestamp::UNIX_EPOCH };
    managed::apply(deployments(), object, configuration, &manager, force, |_| ())
        .map_err(|causes| causes.len())
}

/// The object without the notes about who owns what.
fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    object.unset(&["metadata", "managedFields"]);
    object
}

/// Everything the configuration says is in the object.
fn says(object: &Value, configuration: &Value) -> bool {
    match (object, configuration) {
        (Value::Object(object), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| object.get(name).is_some_and(|found| says(found, wanted))),
        (Value::Array(items), Value::Array(wanted)) => wanted.iter().all(|wanted| {
            items.iter().any(|item| match wanted.get("name") {
                Some(name) => item.get("name") == Some(name) && says(item, wanted),
                None => says(item, wanted),
            })
        }),
        (found, wanted) => found == wanted,
    }
}

/// A patch from one value to another in the way kubectl makes them: nulls, merge keys, deletions by directive.
fn difference(from: &Value, to: &Value) -> Value {
    let (Some(before), Some(after)) = (from.as_object(), to.as_object()) else { return to.clone() };
    let mut patch = Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, wanted) in after {
        let change = match (before.get(name), wanted) {
            (Some(known), wanted) if known == wanted => continue,
            (Some(known @ Value::Object(_)), Value::Object(_)) => difference(known, wanted),
            (Some(Value::Array(known)), Value::Array(items)) => {
                let key = match name.as_str() {
                    "containers" | "env" => "name",
                    "ports" => "containerPort",
                    "finalizers" => {
                        let gone: Vec<_> =
                            known.iter().filter(|item| !items.contains(item)).cloned().collect();
                        patch.insert(format!("$deleteFromPrimitiveList/{name}"), gone.into());
                        patch.insert(format!("$setElementOrder/{name}"), wanted.clone());
                        patch.insert(name.clone(), wanted.clone());
                        continue;
                    }
                    _ => {
                        patch.insert(name.clone(), wanted.clone());
                        continue;
                    }
                };
                let mut list = Vec::new();
                for item in items {
                    match known.iter().find(|other| other[key] == item[key]) {
                        Some(other) => {
                            let mut change = difference(other, item);
                            change[key] = item[key].clone();
                            list.push(change);
                        }
                        None => list.push(item.clone()),
                    }
                }
                for gone in known.iter().filter(|old| items.iter().all(|new| new[key] != old[key]))
                {
                    list.push(json!({key: gone[key], "$patch": "delete"}));
                }
                let order: Value = items.iter().map(|item| json!({key: item[key]})).collect();
                patch.insert(format!("$setElementOrder/{name}"), order);
                list.into()
            }
            (_, wanted) => wanted.clone(),
        };
        patch.insert(name.clone(), change);
    }
    Value::Object(patch)
}

/// Ports with one number and two protocols cannot be told apart by strategic merge, which is why apply has other keys.
fn unambiguous(object: &Value) -> bool {
    let containers = object.list(&["spec", "template", "spec", "containers"]);
    containers.iter().all(|container| {
        let ports = container.list(&["ports"]);
        ports.iter().enumerate().all(|(at, port)| {
            ports[..at].iter().all(|other| other["containerPort"] != port["containerPort"])
        })
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(one in configuration(), two in configuration()) {
        let mut object = Value::Null;
        apply(&mut object, "one", &one, &Force::Never).unwrap();
        prop_assert!(says(&object, &one));
        let before = object.clone();
        apply(&mut object, "one", &one, &Force::Never).unwrap();
        prop_assert_eq!(&object, &before);
        apply(&mut object, "one", &two, &Force::Never).unwrap();
        prop_assert_eq!(plain(&object), two, "alone, a manager has exactly what it says");
    }

    #[test]
    fn managers_agree_or_conflict(one in configuration(), two in configuration()) {
        let mut object = Value::Null;
        apply(&mut object, "one", &one, &Force::Never).unwrap();
        let before = object.clone();
        match apply(&mut object, "two", &two, &Force::Never) {
            Ok(()) => {
                prop_assert!(says(&object, &one), "{object} {one}");
                prop_assert!(says(&object, &two));
            }
            Err(count) => {
                prop_assert!(count > 0);
                prop_assert_eq!(&object, &before, "a refused application changes nothing");
                apply(&mut object, "two", &two, &Force::Always).unwrap();
                prop_assert!(says(&object, &two));
                // Who was overruled learns of it.
                prop_assert!(apply(&mut object.clone(), "one", &one, &Force::Never).is_err());
            }
        }
    }

    #[test]
    fn letting_go_leaves_what_others_hold(one in configuration(), two in configuration()) {
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        let mut object = Value::Null;
        apply(&mut object, "one", &one, &Force::Never).unwrap();
        apply(&mut object, "two", &two, &Force::Always).unwrap();
        apply(&mut object, "one", &nothing, &Force::Never).unwrap();
        prop_assert!(says(&object, &two), "{object} {two}");
        apply(&mut object, "two", &nothing, &Force::Never).unwrap();
        prop_assert_eq!(object, nothing);
    }

    #[test]
    fn a_strategic_patch_leads_from_one_to_the_other(from in configuration(), to in configuration()) {
        prop_assume!(unambiguous(&from) && unambiguous(&to));
        let patch = difference(&from, &to);
        let mut object = from.clone();
        strategic_merge(deployments(), &mut object, &patch).unwrap();
        prop_assert_eq!(&object, &to, "{}", patch);
        strategic_merge(deployments(), &mut object, &json!({})).unwrap();
        prop_assert_eq!(object, to);
    }

    #[test]
    fn strategic_patches_never_panic_and_leave_no_directives(from in configuration(), name in "[a-z$/]{0,12}") {
        for patch in [
            json!({"spec": {format!("$setElementOrder/{name}"): [1, {"a": null}], name.as_str(): null}}),
            json!({"spec": {"template": {"spec": {"containers": [{"$patch": name, "name": "k"}]}}}}),
            json!({"spec": {"$patch": "replace", name.trim_start_matches('$'): {"$patch": "delete"}}}),
            json!({"spec": {"$retainKeys": [name.as_str()]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [name.as_str()]}}),
        ] {
            let mut object = from.clone();
            if strategic_merge(deployments(), &mut object, &patch).is_ok() {
                prop_assert!(!object.to_string().contains("$patch"), "{object} {patch}");
            }
        }
    }
}
