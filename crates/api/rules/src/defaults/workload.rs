//! Defaults of what makes pods, and of what scales it.

use berth_objects::Object;
use serde_json::{Value, json};

use super::{Always, DEPLOYMENT, Is, Row, pod_spec, row, rows, template};

const ROLLING: super::When = Is("type", &["RollingUpdate"]);

const STATEFUL_SET: &[Row] = &[
    ("spec.replicas", Always, "1"),
    ("spec.revisionHistoryLimit", Always, "10"),
    ("spec.podManagementPolicy", Always, r#""OrderedReady""#),
    ("spec.updateStrategy", Always, "{}"),
    ("spec.updateStrategy.type", Always, r#""RollingUpdate""#),
    ("spec.updateStrategy.rollingUpdate", ROLLING, "{}"),
    ("spec.updateStrategy.rollingUpdate.partition", Always, "0"),
    ("spec.persistentVolumeClaimRetentionPolicy", Always, "{}"),
    ("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", Always, r#""Retain""#),
    ("spec.persistentVolumeClaimRetentionPolicy.whenScaled", Always, r#""Retain""#),
    ("spec.volumeClaimTemplates[].apiVersion", Always, r#""v1""#),
    ("spec.volumeClaimTemplates[].kind", Always, r#""PersistentVolumeClaim""#),
    ("spec.volumeClaimTemplates[].spec.volumeMode", Always, r#""Filesystem""#),
    ("spec.volumeClaimTemplates[].status", Always, "{}"),
    ("spec.volumeClaimTemplates[].status.phase", Always, r#""Pending""#),
];

pub(super) fn stateful_set(object: &mut Value) {
    rows(object, STATEFUL_SET);
    template(object);
}

const DAEMON_SET: &[Row] = &[
    ("spec.revisionHistoryLimit", Always, "10"),
    ("spec.updateStrategy", Always, "{}"),
    ("spec.updateStrategy.type", Always, r#""RollingUpdate""#),
    ("spec.updateStrategy.rollingUpdate", ROLLING, "{}"),
    ("spec.updateStrategy.rollingUpdate.maxUnavailable", Always, "1"),
    ("spec.updateStrategy.rollingUpdate.maxSurge", Always, "0"),
];

pub(super) fn daemon_set(object: &mut Value) {
    rows(object, DAEMON_SET);
    template(object);
}

/// Labels and selector come from the template where they are left out.
pub(super) fn replication_controller(object: &mut Value) {
    rows(object, &DEPLOYMENT[..1]);
    let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        for path in [&["spec", "selector"][..], &["metadata", "labels"]] {
            if object.map(path).is_none_or(serde_json::Map::is_empty) {
                object.set(path, labels.clone());
            }
        }
    }
    template(object);
}

const JOB: &[Row] = &[
    ("spec.completionMode", Always, r#""NonIndexed""#),
    ("spec.suspend", Always, "false"),
    ("spec.manualSelector", Always, "false"),
    ("spec.podFailurePolicy.rules[].onPodConditions[].status", Always, r#""True""#),
];

pub(super) fn job(object: &mut Value) {
    rows(object, JOB);
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        // A job without any numbers runs one pod once; one with `parallelism` alone is a work queue.
        if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
            spec.set(&["completions"], 1);
        }
        spec.set_default(&["parallelism"], 1);
        let by_index = spec.get("backoffLimitPerIndex").is_some();
        spec.set_default(&["backoffLimit"], if by_index { i32::MAX } else { 6 });
        let failed = spec.get("podFailurePolicy").is_some();
        let replaced = if failed { "Failed" } else { "TerminatingOrFailed" };
        spec.set_default(&["podReplacementPolicy"], replaced);
    }
    if object.labels().is_none_or(serde_json::Map::is_empty)
        && let Some(labels) = object.at(&["spec", "template", "metadata", "labels"]).cloned()
    {
        object.set(&["metadata", "labels"], labels);
    }
    template(object);
}

const CRON_JOB: &[Row] = &[
    ("spec.concurrencyPolicy", Always, r#""Allow""#),
    ("spec.suspend", Always, "false"),
    ("spec.successfulJobsHistoryLimit", Always, "3"),
    ("spec.failedJobsHistoryLimit", Always, "1"),
];

pub(super) fn cron_job(object: &mut Value) {
    rows(object, CRON_JOB);
    if let Some(spec) = object.pointer_mut("/spec/jobTemplate/spec/template/spec") {
        pod_spec(spec);
    }
}

const AUTOSCALER: &[Row] = &[
    ("spec.minReplicas", Always, "1"),
    ("spec.behavior.scaleUp", Always, "{}"),
    ("spec.behavior.scaleUp.stabilizationWindowSeconds", Always, "0"),
    ("spec.behavior.scaleUp.selectPolicy", Always, r#""Max""#),
    (
        "spec.behavior.scaleUp.policies",
        Always,
        r#"[{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]"#,
    ),
    ("spec.behavior.scaleDown", Always, "{}"),
    ("spec.behavior.scaleDown.selectPolicy", Always, r#""Max""#),
    (
        "spec.behavior.scaleDown.policies",
        Always,
        r#"[{"type": "Percent", "value": 100, "periodSeconds": 15}]"#,
    ),
];

pub(crate) fn autoscaler(object: &mut Value) {
    rows(object, AUTOSCALER);
    if object.get("spec").is_some_and(Value::is_object)
        && object.list(&["spec", "metrics"]).is_empty()
    {
        let metric = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        object.set(&["spec", "metrics"], metric);
    }
}

/// The first version says nothing of metrics; the stored form gets their default.
pub(super) fn autoscaler_v1(object: &mut Value) {
    row(object, &["spec", "minReplicas"], Always, "1");
}

pub(super) fn pod_template(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/template/spec") {
        pod_spec(spec);
    }
}
