//! Validation of what governs others: quotas, limits, classes, flow control, devices.

use berth_objects::{FieldError, Object, Quantity};
use serde_json::Value;

use super::{Errors, Place, immutable, names, quantity};

pub(crate) fn resource_quota(object: &Value, errors: &mut Errors) {
    const SCOPES: [&str; 7] = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let spec = Place::root(object).field("spec");
    for (_, hard) in spec.field("hard").entries() {
        quantity(&hard, errors);
    }
    for scope in spec.field("scopes").items() {
        scope.one_of(&SCOPES, errors);
    }
    for rule in spec.field("scopeSelector").field("matchExpressions").items() {
        rule.field("scopeName").one_of(&SCOPES, errors);
        rule.field("operator").one_of(&["DoesNotExist", "Exists", "In", "NotIn"], errors);
    }
}

pub(crate) fn limit_range(object: &Value, errors: &mut Errors) {
    let limits = Place::root(object).field("spec").field("limits");
    limits.unique("type", errors);
    for limit in limits.items() {
        limit.field("type").required(errors);
        let amount = |side: &str, name: &str| limit.value.text(&[side, name]).parse().ok();
        for side in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (_, bound) in limit.field(side).entries() {
                quantity(&bound, errors);
            }
        }
        for (low, high) in [
            ("min", "max"),
            ("min", "default"),
            ("min", "defaultRequest"),
            ("default", "max"),
            ("defaultRequest", "max"),
            ("defaultRequest", "default"),
        ] {
            for (name, bound) in limit.field(low).entries() {
                let (least, most): (Option<Quantity>, Option<Quantity>) =
                    (amount(low, name), amount(high, name));
                if let (Some(least), Some(most)) = (least, most)
                    && least > most
                {
                    bound.invalid(
                        format!("{low} value {least} is greater than {high} value {most}"),
                        errors,
                    );
                }
            }
        }
        if limit.value.text(&["type"]) == "Pod" {
            for side in ["default", "defaultRequest"] {
                if !limit.field(side).is_empty() {
                    let why = "may not be specified when `type` is 'Pod'";
                    errors.push(FieldError::forbidden(&limit.field(side).path, why));
                }
            }
        }
    }
}

pub(crate) fn controller_revision(object: &Value, errors: &mut Errors) {
    let root = Place::root(object);
    root.field("data").required(errors);
    root.field("revision").not_negative(errors);
}

/// Priority classes every cluster has, with their values.
pub const SYSTEM_PRIORITIES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(crate) fn priority_class(object: &Value, errors: &mut Errors) {
    const HIGHEST: i64 = 1_000_000_000;
    let (name, value) = (object.name(), object.integer(&["value"]).unwrap_or(0));
    let system = SYSTEM_PRIORITIES.contains(&(name, value));
    if name.starts_with("system-") && !system {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(FieldError::forbidden("metadata.name", why));
    } else if value > HIGHEST && !system {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden("value", why));
    }
    let policy = Place::root(object).field("preemptionPolicy");
    policy.one_of(&["Never", "PreemptLowerPriority"], errors);
}

pub(crate) fn priority_class_update(object: &Value, old: &Value, errors: &mut Errors) {
    for field in ["value", "preemptionPolicy"] {
        if object.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(field, "may not be changed in an update."));
        }
    }
}

pub(crate) fn lease(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let duration = spec.field("leaseDurationSeconds");
    if duration.value.as_i64().is_some_and(|seconds| seconds < 1) {
        duration.invalid("must be greater than 0", errors);
    }
    spec.field("leaseTransitions").not_negative(errors);
}

pub(crate) fn runtime_class(object: &Value, errors: &mut Errors) {
    let root = Place::root(object);
    names::label(&root.field("handler"), errors);
    for (_, amount) in root.field("overhead").field("podFixed").entries() {
        quantity(&amount, errors);
    }
    names::labels(&root.field("scheduling").field("nodeSelector"), errors);
}

pub(crate) fn flow_schema(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    spec.field("priorityLevelConfiguration").field("name").required(errors);
    let precedence = spec.field("matchingPrecedence");
    let exempt = object.name() == "exempt" && precedence.value == 1;
    if !exempt && precedence.value.as_i64().is_some_and(|number| !(1..=10_000).contains(&number)) {
        precedence.invalid("must be a value between 1 and 10000", errors);
    }
    let method = spec.field("distinguisherMethod").field("type");
    method.one_of(&["ByNamespace", "ByUser"], errors);
    for rule in spec.field("rules").items() {
        rule.field("subjects").required(errors);
        for subject in rule.field("subjects").items() {
            subject.field("kind").one_of(&["Group", "ServiceAccount", "User"], errors);
        }
        if rule.field("resourceRules").is_empty() && rule.field("nonResourceRules").is_empty() {
            let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
            errors.push(FieldError::required(&rule.path, why));
        }
    }
}

pub(crate) fn priority_level(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let kind = spec.field("type");
    if !kind.required(errors) {
        return;
    }
    kind.one_of(&["Exempt", "Limited"], errors);
    let (limited, exempt) = (spec.field("limited"), spec.field("exempt"));
    match kind.text() {
        "Exempt" if !limited.value.is_null() => {
            let why = "must be nil if the type is not Limited";
            errors.push(FieldError::forbidden(&limited.path, why));
        }
        "Limited" if !exempt.value.is_null() => {
            let why = "must be nil if the type is Limited";
            errors.push(FieldError::forbidden(&exempt.path, why));
        }
        "Limited" => {
            let response = limited.field("limitResponse");
            let kind = response.field("type");
            if kind.required(errors) {
                kind.one_of(&["Queue", "Reject"], errors);
            }
            let queuing = response.field("queuing");
            for field in ["queues", "handSize", "queueLengthLimit"] {
                if queuing.field(field).value.as_i64().is_some_and(|number| number < 1) {
                    queuing.field(field).invalid("must be positive", errors);
                }
            }
            // Queues are there as soon as the level is.
            if queuing.field("queues").value.as_i64().is_some_and(|number| number > 100_000) {
                queuing.field("queues").invalid("must not be greater than 100000", errors);
            }
            let (hand, queues) =
                (queuing.value.integer(&["handSize"]), queuing.value.integer(&["queues"]));
            if hand > queues {
                let why =
                    format!("should not be greater than queues ({})", queues.unwrap_or_default());
                queuing.field("handSize").invalid(why, errors);
            }
        }
        _ => {}
    }
}

pub(crate) fn devices(kind: &str, object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    match kind {
        "ResourceClaim" => claim(&spec, errors),
        "ResourceClaimTemplate" => claim(&spec.field("spec"), errors),
        "ResourceSlice" => {
            spec.field("driver").required(errors);
            let pool = spec.field("pool");
            pool.field("name").required(errors);
            if pool.value.integer(&["resourceSliceCount"]).is_none_or(|count| count < 1) {
                pool.field("resourceSliceCount").invalid("must be greater than zero", errors);
            }
            let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
            let given = places.iter().filter(|name| {
                let place = spec.field(name);
                !place.is_empty() && place.value != &Value::Bool(false)
            });
            if given.count() != 1 {
                let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                           `perDeviceNodeSelection` is required";
                errors.push(FieldError::invalid(&spec.path, &Value::Null, why));
            }
            spec.field("devices").unique("name", errors);
        }
        _ => {}
    }
}

fn claim(spec: &Place<'_>, errors: &mut Errors) {
    let requests = spec.field("devices").field("requests");
    requests.unique("name", errors);
    for request in requests.items() {
        names::label(&request.field("name"), errors);
        let (exactly, several) = (request.field("exactly"), request.field("firstAvailable"));
        match (exactly.value.is_null(), several.is_empty()) {
            (true, true) | (false, false) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required";
                request.invalid(why, errors);
            }
            (false, true) => device(&exactly, errors),
            (true, false) => several.items().for_each(|one| device(&one, errors)),
        }
    }
}

fn device(request: &Place<'_>, errors: &mut Errors) {
    request.field("deviceClassName").required(errors);
    let mode = request.field("allocationMode");
    mode.one_of(&["All", "ExactCount"], errors);
    if mode.text() == "ExactCount" && request.value.integer(&["count"]).is_none_or(|n| n < 1) {
        request.field("count").invalid("must be greater than zero", errors);
    }
}

pub(crate) fn devices_update(kind: &str, object: &Value, old: &Value, errors: &mut Errors) {
    let paths: &[&[&str]] = match kind {
        "ResourceClaim" | "ResourceClaimTemplate" => &[&["spec"]],
        "ResourceSlice" => &[&["spec", "nodeName"], &["spec", "driver"], &["spec", "pool", "name"]],
        _ => &[],
    };
    for path in paths {
        immutable(object, old, path, errors);
    }
}
