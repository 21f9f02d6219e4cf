//! Cells of what nodes and pods use.

use berth_objects::{Column, Object, Quantity};
use jiff::Timestamp;
use serde_json::Value;

pub(crate) const USE: &[Column] =
    &[Column::text("cpu"), Column::text("memory"), Column::text("Window")];

pub(crate) fn node_use(object: &Value, _now: Timestamp) -> Vec<Value> {
    let used = |name| object.text(&["usage", name]).into();
    vec![used("cpu"), used("memory"), object.text(&["window"]).into()]
}

pub(crate) fn pod_use(object: &Value, _now: Timestamp) -> Vec<Value> {
    let containers = object.list(&["containers"]);
    let parsed = |name| {
        let each = containers.iter().map(move |one| one.text(&["usage", name]).parse());
        each.filter_map(Result::<Quantity, _>::ok)
    };
    let cpu: i64 = parsed("cpu").map(|used| used.milli()).sum();
    let memory: i64 = parsed("memory").map(|used| used.value()).sum();
    let (cpu, memory) = (format!("{cpu}m"), format!("{}Ki", memory / 1024));
    vec![cpu.into(), memory.into(), object.text(&["window"]).into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_added_up() {
        let used = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        let pod =
            json!({"window": "10s", "containers": [used("1500000n", "1Mi"), used("2m", "4Ki")]});
        assert_eq!(pod_use(&pod, Timestamp::UNIX_EPOCH), ["4m", "1028Ki", "10s"]);
    }
}
