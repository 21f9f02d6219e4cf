//! Several versions of one stored object. Each version shows all of it: what a version has no field for travels in an
//! annotation, so that a client of the older version can write back what it read without losing anything.

use berth_objects::{Object, Resource};
use serde_json::{Value, json};

use crate::defaults;

/// Names of the same fields of events in the older and the newer group.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The object as this resource shows it, from its stored form.
pub(crate) fn present(resource: &Resource, mut object: Value) -> Value {
    match (resource.group, resource.version) {
        ("events.k8s.io", _) => event(&mut object, false),
        ("autoscaling", "v1") => autoscaler_to_v1(&mut object),
        _ => return object,
    }
    object.set(&["apiVersion"], resource.api_version());
    object
}

/// The stored form of an object that this resource shows.
pub(crate) fn stored(resource: &Resource, mut object: Value) -> Value {
    match (resource.group, resource.version) {
        ("events.k8s.io", _) => {
            event(&mut object, true);
            object.set(&["apiVersion"], "v1");
        }
        ("autoscaling", "v1") => {
            autoscaler_from_v1(&mut object);
            object.set(&["apiVersion"], "autoscaling/v2");
            defaults::autoscaler(&mut object);
        }
        _ => {}
    }
    object
}

fn event(event: &mut Value, to_core: bool) {
    for (core, newer) in EVENT_FIELDS {
        let (from, to) = if to_core { (newer, core) } else { (core, newer) };
        if let Some(value) = event.unset(&[from]) {
            event.set(&[to], value);
        }
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Where the second version says it and which annotation carries it in the first.
const CARRIED: [(&[&str], &str); 2] =
    [(&["spec", "behavior"], BEHAVIOR), (&["status", "conditions"], CONDITIONS)];

/// The use of processors, which is all the first version knows of metrics.
fn take_cpu(metrics: &mut Vec<Value>, side: &str) -> Option<Value> {
    let position = metrics.iter().position(|metric| {
        metric.text(&["type"]) == "Resource"
            && metric.text(&["resource", "name"]) == "cpu"
            && metric.at(&["resource", side, "averageUtilization"]).is_some()
    })?;
    // Anything else the metric says would be lost.
    let metric = metrics[position].at(&["resource", side])?;
    if side == "current" && metric.as_object().is_some_and(|fields| fields.len() > 1) {
        return metric.get("averageUtilization").cloned();
    }
    metrics.remove(position).at(&["resource", side, "averageUtilization"]).cloned()
}

fn carry(object: &mut Value, annotation: &str, value: &Value) {
    object.set(&["metadata", "annotations", annotation], value.to_string());
}

fn autoscaler_to_v1(object: &mut Value) {
    for (path, side, field, annotation) in [
        (&["spec", "metrics"], "target", "targetCPUUtilizationPercentage", METRICS),
        (&["status", "currentMetrics"], "current", "currentCPUUtilizationPercentage", CURRENT),
    ] {
        let Some(Value::Array(mut metrics)) = object.unset(path) else { continue };
        if let Some(percent) = take_cpu(&mut metrics, side) {
            object.set(&[path[0], field], percent);
        }
        if !metrics.is_empty() {
            carry(object, annotation, &metrics.into());
        }
    }
    for (path, annotation) in CARRIED {
        if let Some(value) = object.unset(path) {
            carry(object, annotation, &value);
        }
    }
}

/// What an annotation carries, which is taken away.
fn carried(object: &mut Value, annotation: &str) -> Option<Value> {
    let text = object.unset(&["metadata", "annotations", annotation])?;
    if object.map(&["metadata", "annotations"]).is_some_and(serde_json::Map::is_empty) {
        object.unset(&["metadata", "annotations"]);
    }
    // What somebody wrote there by hand and is no JSON means nothing.
    serde_json::from_str(text.as_str()?).ok()
}

fn autoscaler_from_v1(object: &mut Value) {
    for (path, side, field, annotation) in [
        (&["spec", "metrics"], "target", "targetCPUUtilizationPercentage", METRICS),
        (&["status", "currentMetrics"], "current", "currentCPUUtilizationPercentage", CURRENT),
    ] {
        let mut metrics = match carried(object, annotation) {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        let percent = object.unset(&[path[0], field]);
        let known = metrics.iter().any(|metric| {
            metric.text(&["resource", "name"]) == "cpu"
                && metric.at(&["resource", side, "averageUtilization"]) == percent.as_ref()
        });
        if let Some(percent) = percent.filter(|_| !known) {
            let mut amount = json!({"averageUtilization": percent});
            if side == "target" {
                amount.set(&["type"], "Utilization");
            }
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", side: amount}});
            metrics.insert(0, metric);
        }
        if !metrics.is_empty() {
            object.set(path, metrics);
        }
    }
    for (path, annotation) in CARRIED {
        if let Some(value) = carried(object, annotation) {
            object.set(path, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, version: &str, plural: &str) -> &'static Resource<'static> {
        crate::find(group, version, plural).unwrap()
    }

    #[test]
    fn the_older_autoscaler_loses_nothing() {
        let (v1, v2) = (
            resource("autoscaling", "v1", "horizontalpodautoscalers"),
            resource("autoscaling", "v2", "horizontalpodautoscalers"),
        );
        let mut whole = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {"x": "y"}},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "behavior": {"scaleDown": {"selectPolicy": "Min"}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Pods", "pods": {"metric": {"name": "m"},
                        "target": {"type": "AverageValue", "averageValue": "5"}}}]},
            "status": {"currentReplicas": 1, "desiredReplicas": 1,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 10, "averageValue": "20m"}}}]}});
        crate::default(v2, &mut whole);
        let shown = present(v1, whole.clone());
        assert_eq!(shown["apiVersion"], "autoscaling/v1");
        assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 10);
        assert!(shown["spec"].get("metrics").is_none() && shown["spec"].get("behavior").is_none());
        assert_eq!(stored(v1, shown), whole);
    }

    #[test]
    fn an_autoscaler_of_the_first_version_gets_the_default_metric() {
        let v1 = resource("autoscaling", "v1", "horizontalpodautoscalers");
        let object = json!({"spec": {"maxReplicas": 2}});
        let object = stored(v1, object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    }

    #[test]
    fn events_have_two_faces() {
        let newer = resource("events.k8s.io", "v1", "events");
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "p"},
            "message": "m", "count": 3, "reportingComponent": "c"});
        let shown = present(newer, core.clone());
        assert_eq!(shown["regarding"]["name"], "p");
        assert_eq!(stored(newer, shown), core);
    }
}
