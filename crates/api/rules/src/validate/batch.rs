//! Validation of jobs, once and on a schedule.

use berth_objects::{FieldError, LabelSelector, Object};
use serde_json::Value;

use super::{Errors, Place, names, pod};

pub(crate) fn job(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    job_spec(&spec, errors);
    let selector = spec.field("selector");
    if !selector.required(errors) {
        return;
    }
    match LabelSelector::from_object(Some(selector.value)) {
        Ok(Some(parsed)) => {
            let labels = spec.value.map(&["template", "metadata", "labels"]);
            if !parsed.matches(labels) {
                let place = spec.field("template").field("metadata").field("labels");
                place.invalid("`selector` does not match template `labels`", errors);
            }
        }
        Ok(None) => {}
        Err(error) => selector.invalid(error.to_string(), errors),
    }
    if !object.flag(&["spec", "manualSelector"]) {
        let labels = spec.field("template").field("metadata").field("labels");
        let own = labels.value.text(&["batch.kubernetes.io/controller-uid"]);
        if own != object.uid() {
            selector.invalid("`selector` not auto-generated", errors);
        }
    }
}

fn job_spec(spec: &Place<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "backoffLimit",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        spec.field(field).not_negative(errors);
    }
    let mode = spec.field("completionMode");
    mode.one_of(&["Indexed", "NonIndexed"], errors);
    let indexed = mode.text() == "Indexed";
    if indexed && spec.field("completions").is_empty() {
        let why = "when completion mode is Indexed";
        errors.push(FieldError::required(&spec.field("completions").path, why));
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if !indexed && !spec.field(field).is_empty() {
            spec.field(field).invalid("requires indexed completion mode", errors);
        }
    }
    spec.field("podReplacementPolicy").one_of(&["Failed", "TerminatingOrFailed"], errors);
    let template = spec.field("template");
    template_metadata(&template, errors);
    let pod = template.field("spec");
    pod::spec(&pod, errors);
    let policy = pod.field("restartPolicy");
    match policy.text() {
        "Always" | "" => {
            let why = r#"valid values: "OnFailure", "Never""#;
            errors.push(FieldError::required(&policy.path, why));
        }
        _ => policy.one_of(&["OnFailure", "Never"], errors),
    }
    let failure = spec.field("podFailurePolicy");
    if failure.value.is_null() {
        return;
    }
    if policy.text() != "Never" {
        let why = "only \"Never\" is supported when podFailurePolicy is specified";
        policy.invalid(why, errors);
    }
    for rule in failure.field("rules").items() {
        let action = rule.field("action");
        if action.required(errors) {
            action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"], errors);
        }
        let codes = rule.field("onExitCodes");
        let conditions = rule.field("onPodConditions");
        if codes.is_empty() == conditions.is_empty() {
            let why = "specifying one of onExitCodes and onPodConditions is required";
            rule.invalid(why, errors);
        }
        if !codes.is_empty() {
            codes.field("operator").one_of(&["In", "NotIn"], errors);
            codes.field("values").required(errors);
        }
    }
}

fn template_metadata(template: &Place<'_>, errors: &mut Errors) {
    names::labels(&template.field("metadata").field("labels"), errors);
}

pub(crate) fn job_update(object: &Value, old: &Value, errors: &mut Errors) {
    let suspended = old.flag(&["spec", "suspend"]) && old.text(&["status", "startTime"]).is_empty();
    let elastic = object.text(&["spec", "completionMode"]) == "Indexed"
        && object.integer(&["spec", "completions"]) == object.integer(&["spec", "parallelism"]);
    let mut fixed = vec![
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    if !elastic {
        fixed.push("completions");
    }
    for field in fixed {
        super::immutable(object, old, &["spec", field], errors);
    }
    if suspended {
        // Where its pods run may be decided until the first of them starts.
        let mask = |job: &Value| {
            let mut template = job.at(&["spec", "template"]).cloned().unwrap_or_default();
            for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                template.unset(&["spec", field]);
            }
            for field in ["annotations", "labels"] {
                template.unset(&["metadata", field]);
            }
            template
        };
        if mask(object) != mask(old) {
            let place = Place::root(object).field("spec").field("template");
            place.invalid("field is immutable", errors);
        }
    } else {
        super::immutable(object, old, &["spec", "template"], errors);
    }
}

/// Names of the jobs a schedule makes end in ten digits and a hyphen.
const LONGEST_NAME: usize = 52;

pub(crate) fn cron_job(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    if object.name().len() > LONGEST_NAME {
        let name = Place::root(object).field("metadata").field("name");
        name.invalid("must be no more than 52 characters", errors);
    }
    let schedule = spec.field("schedule");
    if schedule.required(errors) {
        if schedule.text().contains("TZ") {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            schedule.invalid(why, errors);
        } else if let Err(why) = super::schedule::check(schedule.text()) {
            schedule.invalid(why, errors);
        }
    }
    let zone = spec.field("timeZone");
    if !zone.value.is_null() {
        match zone.text() {
            "" => zone.invalid("timeZone must be nil or non-empty string", errors),
            "Local" | "local" => {
                let why = "timeZone must be an explicit time zone as defined in \
                           https://www.iana.org/time-zones";
                zone.invalid(why, errors);
            }
            name if jiff::tz::TimeZone::get(name).is_err() => {
                zone.invalid(format!("unknown time zone {name}"), errors);
            }
            _ => {}
        }
    }
    spec.field("concurrencyPolicy").one_of(&["Allow", "Forbid", "Replace"], errors);
    let counts =
        ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    for field in counts {
        spec.field(field).not_negative(errors);
    }
    let job = spec.field("jobTemplate").field("spec");
    job_spec(&job, errors);
    if job.value.flag(&["manualSelector"]) {
        let place = job.field("manualSelector");
        place.invalid("may not be true in the template of a CronJob", errors);
    }
}
