//! A pod's state in the words of docker's users.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// The status of the container that people mean, the first one.
pub fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// The pod's phase, `Pending` before it has one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether it has ended for good.
pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// How often its containers were started again.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

/// The reason for which a container does not start and will not by waiting, with its message.
pub fn obstacle(pod: &Pod) -> Option<(&str, &str)> {
    const HOPELESS: [&str; 8] = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "ConfigError",
    ];
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter_map(|status| status.state.as_ref()?.waiting.as_ref()).find_map(|waiting| {
        let reason = waiting.reason.as_deref().filter(|reason| HOPELESS.contains(reason))?;
        Some((reason, waiting.message.as_deref().unwrap_or_default()))
    })
}

/// One short phrase: `running (healthy)`, `exited (1)`, `starting`.
pub fn status(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "stopping".to_owned();
    }
    if let Some((reason, _)) = obstacle(pod) {
        return format!("failing: {reason}");
    }
    let Some(status) = container(pod) else { return without_container(pod) };
    let state = status.state.clone().unwrap_or_default();
    if let Some(ended) = state.terminated {
        return match ended.reason.as_deref() {
            Some("OOMKilled") => format!("exited ({}, out of memory)", ended.exit_code),
            Some("StartError" | "ContainerCannotRun") => {
                format!("could not start ({})", ended.exit_code)
            }
            _ => format!("exited ({})", ended.exit_code),
        };
    }
    if state.running.is_some() {
        return running(pod, status).to_owned();
    }
    match state.waiting.and_then(|waiting| waiting.reason).as_deref() {
        Some("CrashLoopBackOff") => "restarting".to_owned(),
        None | Some("ContainerCreating" | "PodInitializing" | "Pulling") => without_container(pod),
        Some(other) => format!("waiting: {other}"),
    }
}

fn running(pod: &Pod, status: &ContainerStatus) -> &'static str {
    let spec = pod.spec.as_ref();
    let container =
        spec.and_then(|spec| spec.containers.iter().find(|one| one.name == status.name));
    let checked = container.is_some_and(|container| container.readiness_probe.is_some());
    match (checked, status.ready, status.started.unwrap_or(true)) {
        (false, _, _) => "running",
        (true, true, _) => "running (healthy)",
        (true, false, false) => "running (starting)",
        (true, false, true) if was_ready(pod, status) => "running (unhealthy)",
        (true, false, true) => "running (starting)",
    }
}

/// Whether this run of the container had been ready before: the pod's condition then changed after its start.
fn was_ready(pod: &Pod, status: &ContainerStatus) -> bool {
    let running = status.state.as_ref().and_then(|state| state.running.as_ref());
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let changed = conditions
        .and_then(|conditions| conditions.iter().find(|one| one.type_ == "ContainersReady"))
        .and_then(|condition| condition.last_transition_time.as_ref());
    let begun = running.and_then(|running| running.started_at.as_ref());
    begun.zip(changed).is_some_and(|(begun, changed)| changed.0 > begun.0)
}

fn without_container(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    if let Some(reason) = status.and_then(|status| status.reason.as_deref()) {
        return format!("failed: {reason}");
    }
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let unbound = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if unbound { "waiting for a node".to_owned() } else { "starting".to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn word(status: Value) -> String {
        let pod = json!({
            "spec": { "containers": [{ "name": "a", "readinessProbe": { "exec": { "command": ["x"] } } }] },
            "status": status,
        });
        super::status(&serde_json::from_value(pod).unwrap())
    }

    fn of(state: Value, ready: bool, started: bool) -> String {
        word(json!({ "phase": "Running", "containerStatuses": [{
            "name": "a", "image": "x", "imageID": "", "restartCount": 0,
            "ready": ready, "started": started, "state": state,
        }] }))
    }

    #[test]
    fn only_what_was_healthy_can_be_unhealthy() {
        let at = |changed: &str| {
            word(json!({
                "phase": "Running",
                "conditions": [{ "type": "ContainersReady", "status": "False", "lastTransitionTime": changed }],
                "containerStatuses": [{
                    "name": "a", "image": "x", "imageID": "", "restartCount": 0, "ready": false, "started": true,
                    "state": { "running": { "startedAt": "2026-01-01T00:00:05Z" } },
                }],
            }))
        };
        assert_eq!(at("2026-01-01T00:00:04Z"), "running (starting)");
        assert_eq!(at("2026-01-01T00:00:09Z"), "running (unhealthy)");
    }

    #[test]
    fn states_have_docker_words() {
        let running = || json!({ "running": {} });
        assert_eq!(of(running(), true, true), "running (healthy)");
        assert_eq!(of(running(), false, false), "running (starting)");
        assert_eq!(of(running(), false, true), "running (starting)");
        assert_eq!(of(json!({ "terminated": { "exitCode": 3 } }), false, false), "exited (3)");
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        assert_eq!(of(killed, false, false), "exited (137, out of memory)");
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason } });
        assert_eq!(of(waiting("ErrImagePull"), false, false), "failing: ErrImagePull");
        assert_eq!(of(waiting("CrashLoopBackOff"), false, false), "restarting");
        assert_eq!(of(waiting("ContainerCreating"), false, false), "starting");
        assert_eq!(word(json!({})), "starting");
        let unbound = json!({ "conditions": [{ "type": "PodScheduled", "status": "False" }] });
        assert_eq!(word(unbound), "waiting for a node");
    }
}
