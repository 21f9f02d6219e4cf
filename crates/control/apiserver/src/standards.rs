//! Pod Security admission: pods are judged by the standards their namespace asks for, `baseline` if it asks for none.
//!
//! A pod that breaks what is enforced is refused. Templates of pods are never refused, only warned about: their pods would be.

use berth_objects::{Cause, FieldError, Object, Status, Subresource};
use berth_standards::{Level, Pod, Policies, Policy, Version, judge, sentence};
use serde_json::Value;

use crate::call::Call;

/// For namespaces whose labels say nothing.
const DEFAULT: Policies =
    Policies::all(Policy { level: Level::Baseline, version: Version::Latest });
/// The cluster's own components need the host.
const EXEMPT: [&str; 1] = ["kube-system"];
/// At most so many violations of pods that already run are told.
const TOLD: usize = 10;

/// What a request's object is judged by; nothing for objects that hold no pod. `namespace` is asked for only then.
pub(crate) async fn policies(
    call: &Call,
    namespace: impl Future<Output = Result<Option<Value>, Status>> + Send,
) -> Result<Option<Policies>, Status> {
    let parts = [None, Some(Subresource::EphemeralContainers), Some(Subresource::Resize)];
    let path = template(call.resource().group, call.resource().kind);
    if path.is_none()
        || !parts.contains(&call.subresource)
        || EXEMPT.contains(&call.namespace.as_str())
    {
        return Ok(None);
    }
    let labels = namespace
        .await?
        .map_or(Value::Null, |mut namespace| namespace["metadata"]["labels"].take());
    Ok(Some(Policies::of(&labels, DEFAULT).0))
}

/// Where a kind has its pods.
fn template(group: &str, kind: &str) -> Option<&'static str> {
    Some(match (group, kind) {
        ("", "Pod") => "",
        ("", "PodTemplate") => "/template",
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return None,
    })
}

/// Judges an object that is to be written. Returns what to warn about.
pub(crate) fn admit(
    call: &Call,
    policies: &Policies,
    object: &Value,
    old: Option<&Value>,
) -> Result<Vec<String>, Status> {
    let path = template(call.resource().group, call.resource().kind);
    let Some(pod) = path.and_then(|path| object.pointer(path)) else { return Ok(Vec::new()) };
    if old.is_some_and(|old| !is_changed(pod, path.and_then(|path| old.pointer(path)))) {
        return Ok(Vec::new());
    }
    let pod = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
    let found = |policy| Some(judge(policy, pod)).filter(|found| !found.is_empty());
    if call.resource().kind == "Pod"
        && let Some(violations) = found(policies.enforce)
    {
        let mut subject = call.subject();
        subject.name = object.name().to_owned();
        let why = sentence(policies.enforce, &violations);
        let mut status = Status::forbidden(subject, &why);
        status.causes.extend(violations.iter().map(|violation| Cause {
            reason: violation.check.to_owned(),
            message: violation.to_string(),
            field: String::new(),
        }));
        return Err(status);
    }
    // A template is warned about when its pods would be refused, too.
    let enforced = (call.resource().kind != "Pod").then_some(policies.enforce);
    let mut warnings = Vec::new();
    for policy in [Some(policies.warn), enforced].into_iter().flatten() {
        if let Some(violations) = found(policy) {
            let warning = format!(
                "would {}",
                sentence(policy, &violations).replacen("violates", "violate", 1)
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    Ok(warnings)
}

/// Whether more of a pod has changed than its images and tolerations, which no check reads.
fn is_changed(new: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return true };
    let reduced = |pod: &Value| {
        let mut pod = pod.clone();
        let annotations = pod["metadata"]["annotations"].take();
        let mut spec = pod["spec"].take();
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        spec["tolerations"] = Value::Null;
        (annotations, spec)
    };
    reduced(new) != reduced(old)
}

/// What is wrong with a namespace's labels. Labels that were wrong before are left alone.
pub(crate) fn check_labels(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned().unwrap_or_default();
    let (_, before) =
        old.map(|old| Policies::of(&labels(old), DEFAULT)).unwrap_or((DEFAULT, Vec::new()));
    let (_, errors) = Policies::of(&labels(object), DEFAULT);
    let new = errors.into_iter().filter(|error| !before.contains(error));
    new.map(|error| {
        FieldError::invalid(
            &format!("metadata.labels[{}]", error.label),
            &Value::from(error.value.as_str()),
            format!("must be one of {}", error.expected),
        )
    })
    .collect()
}

/// Warnings for a namespace that enforces more than before: its pods that could not be made any more.
pub(crate) async fn existing(
    call: &Call,
    object: &Value,
    old: &Value,
) -> Result<Vec<String>, Status> {
    let enforce = |object: &Value| {
        let labels = object.pointer("/metadata/labels").unwrap_or(&Value::Null);
        Policies::of(labels, DEFAULT).0.enforce
    };
    let (policy, before) = (enforce(object), enforce(old));
    if policy == before || EXEMPT.contains(&object.name()) {
        return Ok(Vec::new());
    }
    let pods = berth_rules::find("", "v1", "pods")
        .ok_or_else(|| Status::internal("pods are not served"))?;
    let mut told = Vec::new();
    for pod in call.shared.list(pods, object.name()).await? {
        let judged = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
        let violations = judge(policy, judged);
        if !violations.is_empty() {
            let reasons: Vec<&str> =
                violations.iter().map(|violation| violation.reason.as_str()).collect();
            told.push(format!("{}: {}", pod.name(), reasons.join(", ")));
        }
    }
    if told.is_empty() {
        return Ok(told);
    }
    let count = told.len();
    told.truncate(TOLD);
    if count > TOLD {
        told.push(format!("and {} more pods", count - TOLD));
    }
    let first = format!(
        "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{policy}\"",
        object.name()
    );
    told.insert(0, first);
    Ok(told)
}
