//! Definitions and objects that make no sense: none of them may be our fault.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::{DEFINITIONS, WIDGETS, usual, widget, widgets};
use crate::nonsense::spoil;
use crate::support::Client;

const ROUNDS: u64 = 1000;

/// A definition with something of everything.
fn rich() -> Value {
    let mut schema = usual();
    schema["x-kubernetes-validations"] =
        json!([{"rule": "self.metadata.name != 'x'", "messageExpression": "'a' + self.kind"}]);
    let spec = &mut schema["properties"]["spec"];
    spec["x-kubernetes-validations"] = json!([{"rule": "self.replicas >= oldSelf.replicas", "reason": "FieldValueForbidden", "fieldPath": ".replicas"}]);
    spec["properties"]["deep"] = json!({"type": "object", "default": {"a": 1}, "nullable": true, "properties": {
        "a": {"type": "integer", "maximum": 9, "allOf": [{"minimum": 1}], "oneOf": [{"multipleOf": 1}]},
        "map": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[a-z]*$", "format": "date"}},
        "any": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
    widgets(&schema)
}

/// What was made before and may not be served under the same names.
async fn clear(client: &Client) {
    let path = format!("{DEFINITIONS}/widgets.example.com");
    client.delete(&path).await;
    let gone = async {
        while client.get(&path).await.code != 404 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_or_taken() {
    let client = Client::start().await;
    let mut taken = 0;
    for seed in 0..ROUNDS {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut definition = rich();
        let places = random.random_range(1..4);
        // Most of it is spoilt where it is interesting.
        for _ in 0..places {
            let all = random.random_ratio(1, 5) || definition.pointer("/spec/versions/0").is_none();
            let place = if all {
                Some(&mut definition)
            } else {
                definition.pointer_mut("/spec/versions/0")
            };
            spoil(random, place.unwrap());
        }
        let made = client.post(DEFINITIONS, &definition).await;
        assert!(made.code < 500, "seed {seed}: {definition}\n{}", made.body);
        if made.code != 201 {
            continue;
        }
        taken += 1;
        let good = json!({"color": "red", "ports": [{"name": "a", "port": 1}], "tags": ["x"], "deep": {"a": 3, "map": {"x": "y"}}});
        let mut object = widget("w", good);
        for _ in 0..3 {
            let answer = client.post(WIDGETS, &object).await;
            assert!(answer.code < 500, "seed {seed}: {definition}\n{object}\n{}", answer.body);
            let answer = client.merge(&format!("{WIDGETS}/w"), &object).await;
            assert!(answer.code < 500, "seed {seed}: {definition}\n{object}\n{}", answer.body);
            let answer = client.apply(&format!("{WIDGETS}/w"), "m", true, &object).await;
            assert!(answer.code < 500, "seed {seed}: {definition}\n{object}\n{}", answer.body);
            spoil(random, &mut object["spec"]);
        }
        let table = client.get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
        assert!(table.code < 500, "seed {seed}: {definition}\n{}", table.body);
        let document = client.get("/openapi/v3/apis/example.com/v1").await;
        assert!(document.code < 500, "seed {seed}: {definition}\n{}", document.body);
        clear(&client).await;
    }
    assert!(taken > 20, "only {taken} of {ROUNDS} made sense");
}
