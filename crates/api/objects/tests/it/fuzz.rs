//! Everything in here that reads what clients send, with what clients send, spoilt.

use berth_fuzz::{Request, requests, run, run_text};
use berth_objects::managed::{self, Force, Manager};
use berth_objects::{
    FieldSelector, Fields, LabelSelector, merge_applied, protobuf, schema, strategic_merge, yaml,
};
use serde_json::{Value, json};

fn bodies(wanted: impl Fn(&Request) -> bool) -> Vec<Vec<u8>> {
    requests().into_iter().filter(wanted).map(|request| request.body).collect()
}

/// A Deployment as it is stored, to be patched.
fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "annotations": {"a": "b"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "main", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                 "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                {"name": "side", "image": "x"}],
                "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a"}]}}}})
}

fn definition() -> &'static schema::Definition {
    schema::Schemas::builtin()
        .kind("apps", "v1", "Deployment")
        .expect("Deployments have a schema")
        .1
}

#[test]
fn protobuf_of_any_form_is_read_or_refused() {
    let seeds = bodies(|request| request.kind.contains("protobuf"));
    let done = run("protobuf", &seeds, |input| match protobuf::decode(input) {
        Ok(value) => {
            assert!(value.is_object(), "an object is an object");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    });
    assert!(done.good > 40 && done.good < done.inputs, "{done:?}");
}

#[test]
fn yaml_of_any_form_is_read_or_refused() {
    let mut seeds = bodies(|request| request.kind.contains("yaml"));
    seeds.push(b"a: &x [1, 2]\nb: *x\nc: |\n  text\n  more\nd: >-\n  folded\n".to_vec());
    seeds.push(b"- {a: 1, 'b': \"\\u00e4\"}\n- !!str 1\n- 0x1f\n- ~\n- 1.5e3\n".to_vec());
    let done = run_text("yaml", &seeds, |text| match yaml::parse(text) {
        Ok(value) => {
            // What was read can be written and means the same.
            let again = yaml::parse(&value.to_string()).expect("JSON is YAML");
            assert_eq!(again, value);
            true
        }
        Err(_) => false,
    });
    assert!(done.good > 40 && done.good < done.inputs, "{done:?}");
}

#[test]
fn json_of_any_form_is_read_or_refused() {
    let seeds = bodies(|request| request.kind.contains("json"));
    run("json", &seeds, |input| match berth_objects::json::parse(input) {
        Ok((value, _)) => serde_json::from_slice::<Value>(input).is_ok_and(|other| other == value),
        Err(_) => {
            assert!(serde_json::from_slice::<Value>(input).is_err(), "we refuse what is JSON");
            false
        }
    });
}

#[test]
fn patches_of_any_form_are_applied_or_refused() {
    let seeds = bodies(|request| request.kind == "application/json-patch+json");
    run("json-patch", &seeds, |input| {
        let Ok(patch) = serde_json::from_slice::<json_patch::Patch>(input) else { return false };
        let mut object = deployment();
        let applied = json_patch::patch(&mut object, &patch).is_ok();
        assert!(applied || object == deployment(), "what is refused changes nothing");
        applied
    });
}

#[test]
fn strategic_patches_of_any_form_are_applied_or_refused() {
    let mut seeds = bodies(|request| request.kind.contains("strategic"));
    seeds.push(json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "side"}, {"name": "main"}],
        "containers": [{"name": "main", "image": "y"}, {"$patch": "delete", "name": "side"}],
        "$retainKeys": ["containers"], "$deleteFromPrimitiveList/x": ["a"], "tolerations": [{"$patch": "replace"}]}}}})
        .to_string().into_bytes());
    let definition = definition();
    let done = run("strategic", &seeds, |input| {
        let Ok(patch) = serde_json::from_slice::<Value>(input) else { return false };
        let mut object = deployment();
        let Ok(()) = strategic_merge(definition, &mut object, &patch) else { return false };
        let text = object.to_string();
        assert!(!text.contains("\"$patch\"") || input.windows(6).any(|part| part == b"$patch"));
        true
    });
    assert!(done.good > 10, "{done:?}");
}

#[test]
fn configurations_of_any_form_are_applied_twice_as_once() {
    let seeds = bodies(|request| request.kind.contains("apply"));
    let definition = definition();
    let manager = |name: &'static str| Manager {
        name,
        api_version: "apps/v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let done = run_text("apply", &seeds, |text| {
        let Ok(mut configuration) = yaml::parse(text) else { return false };
        if berth_objects::decode(definition, &mut configuration).is_err()
            || !configuration.is_object()
        {
            return false;
        }
        let owned = Fields::of(definition, &configuration);
        assert_eq!(
            Fields::from_value(&owned.to_value()),
            owned,
            "field sets survive their written form"
        );
        let mut object = deployment();
        let apply = |object: &mut Value| {
            managed::apply(
                definition,
                object,
                &configuration,
                &manager("k"),
                &Force::Always,
                |_| {},
            )
        };
        apply(&mut object).expect("force knows no conflict");
        let once = object.clone();
        apply(&mut object).expect("force knows no conflict");
        assert_eq!(object, once, "applying again changes nothing");
        let mut merged = object.clone();
        merge_applied(definition, &mut merged, &configuration);
        assert_eq!(merged, object, "what was applied is there");
        true
    });
    assert!(done.good > 40 && done.good < done.inputs, "{done:?}");
}

#[test]
fn selectors_of_any_form_are_read_or_refused() {
    let query = |request: &Request, name: &str| {
        let query = request.path.split_once('?')?.1.to_owned();
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))?;
        Some(
            value
                .replace("%3D", "=")
                .replace("%2C", ",")
                .replace("%21", "!")
                .replace('+', " ")
                .into_bytes(),
        )
    };
    let labels: Vec<_> =
        requests().iter().filter_map(|request| query(request, "labelSelector")).collect();
    let fields: Vec<_> =
        requests().iter().filter_map(|request| query(request, "fieldSelector")).collect();
    assert!(labels.len() > 5 && fields.len() > 5);
    let object = deployment();
    let own = object["metadata"]["labels"].as_object();
    run_text("labels", &labels, |text| match LabelSelector::parse(text) {
        Ok(selector) => {
            let both = (selector.matches(own), selector.matches(None));
            assert!(!selector.is_empty() || both == (true, true), "what asks for nothing gets all");
            true
        }
        Err(_) => false,
    });
    run_text("fields", &fields, |text| match FieldSelector::parse(text) {
        Ok(selector) => {
            assert!(selector.matches(&object) || !selector.is_empty());
            true
        }
        Err(_) => false,
    });
}
