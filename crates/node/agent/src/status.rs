//! A pod's status as the API shows it.

use berth_client::demand::Quality;
pub use berth_report::chain;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus};
use serde_json::{Value, json};

use crate::directory::{ContainerRecord, Ended, Record};
use crate::pod::ephemeral;
use crate::pod::observe::{Observed, Phase, View};
use crate::pod::plan::{Goal, is_finished};
use crate::pod::resize::Progress;

/// `Pending`, `Running`, `Succeeded` or `Failed`.
pub fn phase(goal: &Goal, record: &Record, observed: &Observed) -> &'static str {
    if is_finished(goal, record, observed) {
        let good = observed.failed.is_none()
            && goal.main.iter().all(|wanted| {
                let ended =
                    record.containers.get(&wanted.name).and_then(|known| known.ended.as_ref());
                ended.is_some_and(|ended| ended.code == 0) || goal.stopping && ended.is_none()
            });
        return if good { "Succeeded" } else { "Failed" };
    }
    let begun = goal
        .main
        .iter()
        .any(|wanted| record.containers.get(&wanted.name).is_some_and(|known| known.starts > 0));
    if begun { "Running" } else { "Pending" }
}

/// The whole status, without what the API server keeps itself.
pub fn status(
    pod: &Pod,
    goal: &Goal,
    record: &Record,
    observed: &Observed,
    node_address: &str,
) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = phase(goal, record, observed);
    let main: Vec<Value> = spec
        .containers
        .iter()
        .map(|container| main_status(container, &spec, record, observed))
        .collect();
    let init: Vec<Value> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| container_status(container, record, observed))
        .collect();
    let initialized = spec.containers.iter().any(|container| started(container, record))
        || goal.init.is_empty() && observed.sandbox
        || phase == "Succeeded";
    let ready = observed.failed.is_none()
        && !spec.containers.is_empty()
        && spec.containers.iter().all(|container| is_ready(container, observed));
    let finished = matches!(phase, "Succeeded" | "Failed");
    let unready: Vec<&str> = spec
        .containers
        .iter()
        .filter(|container| !is_ready(container, observed))
        .map(|container| container.name.as_str())
        .collect();
    let reason = match (finished, phase) {
        (true, "Succeeded") => Some("PodCompleted"),
        (true, _) => Some("PodFailed"),
        (false, _) => (!ready).then_some("ContainersNotReady"),
    };
    let message = (!ready && !finished)
        .then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    let mut conditions = vec![
        condition(pod, "PodReadyToStartContainers", observed.sandbox, None, None),
        condition(pod, "Initialized", initialized, None, None),
        ready_condition(pod, ready, finished, reason, message.as_deref()),
        condition(pod, "ContainersReady", ready, reason, message.as_deref()),
        condition(pod, "PodScheduled", true, None, None),
    ];
    conditions.extend(further(pod, observed));
    let host_network = spec.host_network.unwrap_or(false);
    let address = if host_network {
        Some(node_address.to_owned())
    } else {
        record.address.map(|address| address.to_string())
    };
    let mut status = json!({
        "phase": phase,
        "conditions": conditions,
        "hostIP": node_address,
        "hostIPs": [{ "ip": node_address }],
        "qosClass": Quality::of(&spec).as_str(),
        "startTime": start_time(pod),
        "containerStatuses": main,
        "observedGeneration": pod.metadata.generation,
    });
    if !init.is_empty() {
        status["initContainerStatuses"] = Value::Array(init);
    }
    let ephemeral: Vec<Value> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| container_status(&ephemeral::as_container(container), record, observed))
        .collect();
    if !ephemeral.is_empty() {
        status["ephemeralContainerStatuses"] = Value::Array(ephemeral);
    }
    if let Some(address) = address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{ "ip": address }]);
    }
    if let Some(failed) = &observed.failed {
        status["reason"] = json!(failed.reason);
        status["message"] = json!(failed.message);
    }
    status
}

/// Ready is a pod whose containers are, and with which everybody else is satisfied who has a say.
fn ready_condition(
    pod: &Pod,
    ready: bool,
    finished: bool,
    reason: Option<&str>,
    message: Option<&str>,
) -> Value {
    match closed_gate(pod).filter(|_| ready && !finished) {
        Some(why) => condition(pod, "Ready", false, Some("ReadinessGatesNotReady"), Some(&why)),
        None => condition(pod, "Ready", ready, reason, message),
    }
}

/// Why the pod ends, if the node ends it, and what others say of it.
fn further(pod: &Pod, observed: &Observed) -> Vec<Value> {
    let disrupted = observed.failed.as_ref().filter(|failed| failed.disrupted);
    let own = disrupted.map(|failed| {
        let (reason, message) = (Some("TerminationByKubelet"), Some(failed.message.as_str()));
        condition(pod, DISRUPTED, true, reason, message)
    });
    let others = foreign(pod).filter(|it| disrupted.is_none() || it.type_ != DISRUPTED);
    let own = own.into_iter().chain(resizing(pod, &observed.resize));
    own.chain(others.map(|condition| json!(condition))).collect()
}

/// The condition of a pod that ends for the good of others. Whoever evicts a pod by the API writes it, too.
pub const DISRUPTED: &str = "DisruptionTarget";

/// A change of size that waits, and one that is under way.
fn resizing(pod: &Pod, progress: &Progress) -> Vec<Value> {
    let pending = progress.pending.as_ref().map(|(reason, message)| {
        condition(pod, "PodResizePending", true, Some(reason), Some(message))
    });
    let under_way = progress.under_way.as_ref().map(|why| {
        let reason = why.as_ref().map(|_| "Error");
        condition(pod, "PodResizeInProgress", true, reason, why.as_deref())
    });
    let mut all: Vec<Value> = pending.into_iter().chain(under_way).collect();
    for condition in &mut all {
        condition["observedGeneration"] = json!(progress.generation);
    }
    all
}

/// Conditions that the agent writes itself.
const OWN: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// A status that is known here, with what others have written into the one that the API shows. Of that nothing else counts.
pub fn with_foreign(own: Option<&PodStatus>, shown: &Pod) -> PodStatus {
    let mut status = own.cloned().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    let own = |kind: &str| OWN.contains(&kind) || kind == DISRUPTED;
    conditions.retain(|condition| own(&condition.type_));
    // An eviction of what the API shows disrupts nothing.
    conditions.extend(foreign(shown).filter(|condition| condition.type_ != DISRUPTED).cloned());
    status.conditions = Some(conditions);
    status
}

/// Conditions that somebody else has written.
fn foreign(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.filter(|condition| !OWN.contains(&condition.type_.as_str()))
}

/// Whether others write conditions of the pod.
pub fn has_foreign(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty()) || foreign(pod).next().is_some()
}

/// Why the first readiness gate that is not open is not.
fn closed_gate(pod: &Pod) -> Option<String> {
    let mut gates = pod.spec.as_ref()?.readiness_gates.iter().flatten();
    gates.find_map(|gate| {
        let name = &gate.condition_type;
        match foreign(pod).find(|condition| condition.type_ == *name) {
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{name}\" does not exist."
            )),
            Some(found) if found.status == "True" => None,
            Some(found) => Some(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                found.status
            )),
        }
    })
}

fn start_time(pod: &Pod) -> Value {
    let known = pod.status.as_ref().and_then(|status| status.start_time.clone());
    known.map_or_else(|| json!(second(Timestamp::now())), |time| json!(second(time.0)))
}

fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A condition that keeps the time of its last change.
fn condition(
    pod: &Pod,
    kind: &str,
    holds: bool,
    reason: Option<&str>,
    message: Option<&str>,
) -> Value {
    let word = if holds { "True" } else { "False" };
    let known = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|condition| condition.type_ == kind));
    let since = known
        .filter(|known| known.status == word)
        .and_then(|known| known.last_transition_time.as_ref())
        .map_or_else(Timestamp::now, |time| time.0);
    let mut condition =
        json!({ "type": kind, "status": word, "lastTransitionTime": second(since) });
    if let Some(reason) = reason {
        condition["reason"] = json!(reason);
    }
    if let Some(message) = message {
        condition["message"] = json!(message);
    }
    condition
}

fn started(container: &Container, record: &Record) -> bool {
    record.containers.get(&container.name).is_some_and(|known| known.starts > 0)
}

fn is_ready(container: &Container, observed: &Observed) -> bool {
    observed.containers.get(&container.name).is_some_and(|view| view.is_running() && view.ready)
}

/// Containers that others are run before wait for those.
fn main_status(
    container: &Container,
    spec: &PodSpec,
    record: &Record,
    observed: &Observed,
) -> Value {
    let mut status = container_status(container, record, observed);
    let creating = status["state"]["waiting"]["reason"] == "ContainerCreating";
    let behind = spec.init_containers.as_ref().is_some_and(|before| !before.is_empty());
    if behind && creating && !started(container, record) {
        status["state"]["waiting"]["reason"] = json!("PodInitializing");
    }
    status
}

fn container_status(container: &Container, record: &Record, observed: &Observed) -> Value {
    let empty = ContainerRecord::default();
    let known = record.containers.get(&container.name).unwrap_or(&empty);
    let waiting = View::new();
    let view = observed.containers.get(&container.name).unwrap_or(&waiting);
    let (image, digest) = known.image.clone().unwrap_or_default();
    let state = match &view.phase {
        Phase::Waiting { reason, message } => waiting_state(reason, message),
        Phase::Running { .. } if view.starting => waiting_state("ContainerCreating", ""),
        Phase::Running { since } => json!({ "running": { "startedAt": second(*since) } }),
        Phase::Ended if view.not_before.is_some() => waiting_state(
            "CrashLoopBackOff",
            &format!(
                "the container ended {} times in a row and waits for its next start",
                known.failures
            ),
        ),
        Phase::Ended => known.ended.as_ref().map_or_else(
            || waiting_state("ContainerCreating", ""),
            |ended| json!({ "terminated": terminated(ended) }),
        ),
    };
    let last = match &view.phase {
        Phase::Ended if view.not_before.is_none() => known.previous.as_ref(),
        Phase::Ended => known.ended.as_ref(),
        Phase::Running { .. } | Phase::Waiting { .. } => {
            known.ended.as_ref().or(known.previous.as_ref())
        }
    };
    let mut status = json!({
        "name": container.name,
        "image": if image.is_empty() { container.image.clone().unwrap_or_default() } else { image },
        "imageID": digest,
        "ready": view.is_running() && view.ready,
        "started": view.is_running() && view.started,
        "restartCount": known.restarts(),
        "state": state,
        "lastState": last.map_or_else(|| json!({}), |ended| json!({ "terminated": terminated(ended) })),
    });
    if let Some(size) = record.sizes.get(&container.name) {
        // What is promised, and what the processes are held to.
        status["allocatedResources"] = json!(size.promised.requests);
        status["resources"] = json!(size.applied);
    }
    if known.starts > 0 {
        let instance = known.instance(&container.name);
        status["containerID"] = json!(format!("berth://{}/{instance}", record.uid));
    }
    status
}

fn waiting_state(reason: &str, message: &str) -> Value {
    let mut state = json!({ "reason": reason });
    if !message.is_empty() {
        state["message"] = json!(message);
    }
    json!({ "waiting": state })
}

fn terminated(ended: &Ended) -> Value {
    let mut state = json!({
        "exitCode": ended.code,
        "reason": ended.reason,
        "finishedAt": second(ended.finished),
        "startedAt": ended.started.map(second),
    });
    if let Some(signal) = ended.signal {
        state["signal"] = json!(signal);
    }
    if let Some(message) = &ended.message {
        state["message"] = json!(message);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_open_once_somebody_says_so_and_their_words_are_kept() {
        let pod = |conditions: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "a"},
                "spec": {"containers": [], "readinessGates": [{"conditionType": "example.com/ok"}]},
                "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let none = pod(json!([condition("Ready", "False")]));
        assert!(closed_gate(&none).unwrap().ends_with("does not exist."));
        assert!(has_foreign(&none) && foreign(&none).next().is_none());
        let closed = pod(json!([condition("example.com/ok", "False")]));
        assert!(closed_gate(&closed).unwrap().ends_with("is not \"True\", but False"));
        let open = pod(json!([condition("example.com/ok", "True"), condition("Other", "False")]));
        assert_eq!((closed_gate(&open), foreign(&open).count()), (None, 2));
    }

    #[test]
    fn only_conditions_of_others_are_taken_from_what_the_api_shows() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let pod = |start: &str, conditions: Value| -> Pod {
            let status = json!({"startTime": start, "phase": "Failed", "conditions": conditions});
            serde_json::from_value(json!({"status": status})).unwrap()
        };
        let own = pod(
            "2026-01-02T00:00:00Z",
            json!([condition("Ready", "True"), condition("example.com/gate", "False")]),
        );
        let shown = pod(
            "2000-01-01T00:00:00Z",
            json!([
                condition("Ready", "False"),
                condition("DisruptionTarget", "True"),
                condition("example.com/gate", "True")
            ]),
        );
        let taken = with_foreign(own.status.as_ref(), &shown);
        assert_eq!(taken.start_time, own.status.unwrap().start_time);
        let conditions = taken.conditions.unwrap();
        let conditions: Vec<_> =
            conditions.iter().map(|it| format!("{}={}", it.type_, it.status)).collect();
        assert_eq!(conditions, ["Ready=True", "example.com/gate=True"]);
    }
}
