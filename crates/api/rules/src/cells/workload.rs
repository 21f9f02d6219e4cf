//! Cells of what makes pods, and of what scales it.

use berth_objects::{Column, Object, time};
use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, age, joined, or_none, pairs, selector, since, truth};

pub(crate) const DEPLOYMENT: &[Column] = &[
    Column::text("Ready"),
    Column::number("Up-to-date"),
    Column::number("Available"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

fn containers(object: &Value, field: &str) -> Value {
    let containers = object.list(&["spec", "template", "spec", "containers"]);
    joined(containers.iter().map(|container| container.text(&[field]))).into()
}

pub(crate) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |name: &str| object.integer(&["status", name]).unwrap_or(0);
    let wanted = object.integer(&["spec", "replicas"]).unwrap_or(0);
    vec![
        format!("{}/{wanted}", status("readyReplicas")).into(),
        status("updatedReplicas").into(),
        status("availableReplicas").into(),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        selector(object, &["spec", "selector"]),
    ]
}

pub(crate) const REPLICA_SET: &[Column] = &[
    Column::number("Desired"),
    Column::number("Current"),
    Column::number("Ready"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

pub(crate) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |name: &str| object.integer(&["status", name]).unwrap_or(0);
    vec![
        object.integer(&["spec", "replicas"]).unwrap_or(0).into(),
        status("replicas").into(),
        status("readyReplicas").into(),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        selector(object, &["spec", "selector"]),
    ]
}

pub(crate) const STATEFUL_SET: &[Column] =
    &[Column::text("Ready"), AGE, Column::wide("Containers"), Column::wide("Images")];

pub(crate) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = object.integer(&["status", "readyReplicas"]).unwrap_or(0);
    let wanted = object.integer(&["spec", "replicas"]).unwrap_or(0);
    vec![
        format!("{ready}/{wanted}").into(),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
    ]
}

pub(crate) const DAEMON_SET: &[Column] = &[
    Column::number("Desired"),
    Column::number("Current"),
    Column::number("Ready"),
    Column::number("Up-to-date"),
    Column::number("Available"),
    Column::text("Node Selector"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

pub(crate) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |name: &str| Value::from(object.integer(&["status", name]).unwrap_or(0));
    vec![
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        pairs(object.map(&["spec", "template", "spec", "nodeSelector"])),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        selector(object, &["spec", "selector"]),
    ]
}

pub(crate) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replica_set(object, now);
    if let Some(last) = cells.last_mut() {
        *last = pairs(object.map(&["spec", "selector"]));
    }
    cells
}

pub(crate) const POD_TEMPLATE: &[Column] =
    &[Column::text("Containers"), Column::text("Images"), Column::text("Pod Labels")];

pub(crate) fn pod_template(object: &Value, _now: Timestamp) -> Vec<Value> {
    let all = object.list(&["template", "spec", "containers"]);
    let field = |name: &str| or_none(&joined(all.iter().map(|container| container.text(&[name]))));
    vec![field("name"), field("image"), pairs(object.map(&["template", "metadata", "labels"]))]
}

pub(crate) const CONTROLLER_REVISION: &[Column] =
    &[Column::text("Controller"), Column::number("Revision"), AGE];

pub(crate) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owners = object.list(&["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|owner| owner.flag(&["controller"])).map(|owner| {
        let kind = owner.text(&["kind"]).to_lowercase();
        let kind = match owner.text(&["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind,
        };
        format!("{kind}/{}", owner.text(&["name"]))
    });
    let revision = object.integer(&["revision"]).unwrap_or(0);
    vec![or_none(&owner.unwrap_or_default()), revision.into(), age(object, now)]
}

/// Whether a condition holds.
fn holds(object: &Value, condition: &str) -> bool {
    let mut all = object.list(&["status", "conditions"]).iter();
    all.any(|c| c.text(&["type"]) == condition && c.text(&["status"]) == "True")
}

pub(crate) const JOB: &[Column] = &[
    Column::text("Status"),
    Column::text("Completions"),
    Column::text("Duration"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

pub(crate) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = match () {
        () if holds(object, "Complete") => "Complete",
        () if holds(object, "Failed") => "Failed",
        () if object.deleting() => "Terminating",
        () if holds(object, "Suspended") => "Suspended",
        () if holds(object, "FailureTarget") => "FailureTarget",
        () => "Running",
    };
    let succeeded = object.integer(&["status", "succeeded"]).unwrap_or(0);
    let parallelism = object.integer(&["spec", "parallelism"]).unwrap_or(0);
    let completions = match object.integer(&["spec", "completions"]) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let moment = |name: &str| time::parse(object.text(&["status", name]));
    let duration = moment("startTime")
        .map(|start| time::age(start, moment("completionTime").unwrap_or(now)))
        .unwrap_or_default();
    vec![
        status.into(),
        completions.into(),
        duration.into(),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        selector(object, &["spec", "selector"]),
    ]
}

pub(crate) const CRON_JOB: &[Column] = &[
    Column::text("Schedule"),
    Column::text("Timezone"),
    Column { name: "Suspend", kind: "boolean", wide: false },
    Column::number("Active"),
    Column::text("Last Schedule"),
    AGE,
    Column::wide("Containers"),
    Column::wide("Images"),
    Column::wide("Selector"),
];

pub(crate) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = match object.text(&["status", "lastScheduleTime"]) {
        "" => "<none>".into(),
        moment => since(moment, now),
    };
    let pod = ["spec", "jobTemplate", "spec", "template", "spec", "containers"];
    let field = |name: &str| {
        let all = object.list(&pod).iter();
        Value::from(joined(all.map(|container| container.text(&[name]))))
    };
    vec![
        object.text(&["spec", "schedule"]).into(),
        or_none(object.text(&["spec", "timeZone"])),
        truth(object.at(&["spec", "suspend"])),
        object.list(&["status", "active"]).len().into(),
        last,
        age(object, now),
        field("name"),
        field("image"),
        selector(object, &["spec", "jobTemplate", "spec", "selector"]),
    ]
}

pub(crate) const AUTOSCALER: &[Column] = &[
    Column::text("Reference"),
    Column::text("Targets"),
    Column::text("MinPods"),
    Column::text("MaxPods"),
    Column::number("Replicas"),
    AGE,
];

/// One metric of an autoscaler: what is, and what is wanted.
fn metric(wanted: &Value, current: Option<&Value>) -> String {
    let kind = wanted.text(&["type"]);
    let field = match kind {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        _ => "resource",
    };
    let target = |name: &str| wanted.at(&[field, "target", name]);
    let current = |name: &str| current.and_then(|current| current.at(&[field, "current", name]));
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "<unknown>".to_owned(),
    };
    let is_resource = matches!(kind, "Resource" | "ContainerResource");
    let shown = match target("averageUtilization") {
        Some(wanted) if is_resource => {
            let is = current("averageUtilization").map(|is| format!("{is}%"));
            format!("{}/{wanted}%", is.unwrap_or_else(|| "<unknown>".into()))
        }
        _ => match target("averageValue") {
            Some(wanted) => {
                let suffix = if is_resource || kind == "Pods" { "" } else { " (avg)" };
                format!("{}/{}{suffix}", text(current("averageValue")), text(Some(wanted)))
            }
            None => format!("{}/{}", text(current("value")), text(target("value"))),
        },
    };
    match kind {
        "Resource" | "ContainerResource" => {
            format!("{}: {shown}", wanted.text(&[field, "name"]))
        }
        _ => shown,
    }
}

pub(crate) fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 2;
    let wanted = object.list(&["spec", "metrics"]);
    let current = object.list(&["status", "currentMetrics"]);
    let all = wanted.iter().enumerate().map(|(at, wanted)| metric(wanted, current.get(at)));
    let all: Vec<_> = all.collect();
    let targets = match all.len() {
        0 => "<none>".to_owned(),
        many if many > SHOWN => {
            format!("{} + {} more...", all[..SHOWN].join(", "), many - SHOWN)
        }
        _ => all.join(", "),
    };
    autoscaler_row(object, targets, now)
}

pub(crate) fn autoscaler_v1(object: &Value, now: Timestamp) -> Vec<Value> {
    let percent = |path: &[&str]| object.integer(path).map(|percent| format!("{percent}%"));
    let is = percent(&["status", "currentCPUUtilizationPercentage"]);
    let targets = match percent(&["spec", "targetCPUUtilizationPercentage"]) {
        Some(wanted) => {
            format!("cpu: {}/{wanted}", is.unwrap_or_else(|| "<unknown>".into()))
        }
        None => "<none>".to_owned(),
    };
    autoscaler_row(object, targets, now)
}

fn autoscaler_row(object: &Value, targets: String, now: Timestamp) -> Vec<Value> {
    let reference = |name: &str| object.text(&["spec", "scaleTargetRef", name]);
    let least = object.integer(&["spec", "minReplicas"]);
    vec![
        format!("{}/{}", reference("kind"), reference("name")).into(),
        targets.into(),
        least.map_or("<unset>".to_owned(), |least| least.to_string()).into(),
        object.integer(&["spec", "maxReplicas"]).unwrap_or(0).to_string().into(),
        object.integer(&["status", "currentReplicas"]).unwrap_or(0).into(),
        age(object, now),
    ]
}
