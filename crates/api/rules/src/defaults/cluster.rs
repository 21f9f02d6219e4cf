//! Defaults of what governs others: limits, classes, admission, flow control, storage drivers, devices.

use berth_objects::Object;
use serde_json::Value;

use super::{Always, Is, Row, rows};

pub(super) const ENDPOINTS: &[Row] = &[("subsets[].ports[].protocol", Always, r#""TCP""#)];

pub(super) const INGRESS_CLASS: &[Row] = &[("spec.parameters.scope", Always, r#""Cluster""#)];

pub(super) const CSI_DRIVER: &[Row] = &[
    ("spec.attachRequired", Always, "true"),
    ("spec.podInfoOnMount", Always, "false"),
    ("spec.storageCapacity", Always, "false"),
    ("spec.fsGroupPolicy", Always, r#""ReadWriteOnceWithFSType""#),
    ("spec.volumeLifecycleModes", Always, r#"["Persistent"]"#),
    ("spec.requiresRepublish", Always, "false"),
    ("spec.seLinuxMount", Always, "false"),
];

pub(super) const PRIORITY_CLASS: &[Row] =
    &[("preemptionPolicy", Always, r#""PreemptLowerPriority""#)];

pub(super) const WEBHOOKS: &[Row] = &[
    ("webhooks[].failurePolicy", Always, r#""Fail""#),
    ("webhooks[].matchPolicy", Always, r#""Equivalent""#),
    ("webhooks[].namespaceSelector", Always, "{}"),
    ("webhooks[].objectSelector", Always, "{}"),
    ("webhooks[].timeoutSeconds", Always, "10"),
    ("webhooks[].clientConfig.service.port", Always, "443"),
    ("webhooks[].rules[].scope", Always, r#""*""#),
];

pub(super) const MUTATING: &[Row] = &[("webhooks[].reinvocationPolicy", Always, r#""Never""#)];

const fn policy_rows() -> [Row; 6] {
    [
        ("failurePolicy", Always, r#""Fail""#),
        ("matchConstraints.matchPolicy", Always, r#""Equivalent""#),
        ("matchConstraints.namespaceSelector", Always, "{}"),
        ("matchConstraints.objectSelector", Always, "{}"),
        ("matchConstraints.resourceRules[].scope", Always, r#""*""#),
        ("matchConstraints.excludeResourceRules[].scope", Always, r#""*""#),
    ]
}

pub(super) fn admission_policy(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        rows(spec, &policy_rows());
    }
}

pub(super) const ADMISSION_BINDING: &[Row] = &[
    ("spec.matchResources.matchPolicy", Always, r#""Equivalent""#),
    ("spec.matchResources.namespaceSelector", Always, "{}"),
    ("spec.matchResources.objectSelector", Always, "{}"),
    ("spec.matchResources.resourceRules[].scope", Always, r#""*""#),
    ("spec.matchResources.excludeResourceRules[].scope", Always, r#""*""#),
];

pub(super) const API_SERVICE: &[Row] = &[("spec.service.port", Always, "443")];

pub(super) const FLOW_SCHEMA: &[Row] = &[("spec.matchingPrecedence", Always, "1000")];

pub(super) const PRIORITY_LEVEL: &[Row] = &[
    ("spec.limited", Is("type", &["Limited"]), "{}"),
    ("spec.limited.nominalConcurrencyShares", Always, "30"),
    ("spec.limited.lendablePercent", Always, "0"),
    ("spec.limited.limitResponse.queuing", Is("type", &["Queue"]), "{}"),
    ("spec.limited.limitResponse.queuing.queues", Always, "64"),
    ("spec.limited.limitResponse.queuing.handSize", Always, "8"),
    ("spec.limited.limitResponse.queuing.queueLengthLimit", Always, "50"),
    ("spec.exempt", Is("type", &["Exempt"]), "{}"),
    ("spec.exempt.nominalConcurrencyShares", Always, "0"),
    ("spec.exempt.lendablePercent", Always, "0"),
];

const REQUESTS: &[Row] = &[
    ("devices.requests[].exactly.allocationMode", Always, r#""ExactCount""#),
    ("devices.requests[].exactly.tolerations[].operator", Always, r#""Equal""#),
    ("devices.requests[].firstAvailable[].allocationMode", Always, r#""ExactCount""#),
    ("devices.requests[].firstAvailable[].tolerations[].operator", Always, r#""Equal""#),
];

/// Requests for devices, in a claim or in the template of one.
pub(super) fn device_requests(object: &mut Value, spec: &str) {
    let Some(spec) = object.pointer_mut(spec) else { return };
    rows(spec, REQUESTS);
    let requests = spec.pointer_mut("/devices/requests").and_then(Value::as_array_mut);
    for request in requests.into_iter().flatten() {
        if let Some(exactly) = request.get_mut("exactly") {
            count(exactly);
        }
        let alternatives = request.get_mut("firstAvailable").and_then(Value::as_array_mut);
        alternatives.into_iter().flatten().for_each(count);
    }
}

fn count(request: &mut Value) {
    if request.text(&["allocationMode"]) == "ExactCount" {
        request.set_default(&["count"], 1);
    }
}

/// What a limit leaves out follows from what it says: the default from the maximum, the request from the default or
/// else from the minimum.
pub(super) fn limit_range(object: &mut Value) {
    let limits = object.pointer_mut("/spec/limits").and_then(Value::as_array_mut);
    for limit in limits.into_iter().flatten() {
        if limit.text(&["type"]) != "Container" {
            continue;
        }
        for (from, to) in
            [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
        {
            for (name, amount) in limit.map(&[from]).cloned().unwrap_or_default() {
                limit.set_default(&[to, &name], amount);
            }
        }
    }
}

/// What a node does not reserve may be used.
pub(super) fn node(object: &mut Value) {
    let capacity = object.map(&["status", "capacity"]).cloned().unwrap_or_default();
    for (name, amount) in capacity {
        object.set_default(&["status", "allocatable", &name], amount);
    }
}
