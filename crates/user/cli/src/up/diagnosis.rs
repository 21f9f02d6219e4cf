//! Why a service does not work, in the order in which people ask: what happened, what it waits for, what it said last.

use k8s_openapi::api::core::v1::{Container, Event, Pod, Probe};
use kube::Client;

use super::wait::{Goal, last_unhealthy};
use crate::failure::Failure;
use crate::{cluster, words};

const LINES: i64 = 10;

/// The whole explanation.
pub async fn explain(
    client: &Client,
    project: &str,
    goal: &Goal,
    why: &str,
    pod: Option<&Pod>,
    events: &[&Event],
) -> Failure {
    let mut failure = Failure::new(format!("service `{}` does not work: {why}", goal.service));
    let Some(pod) = pod else {
        return failure.hint(format!(
            "`kubectl -n {project} describe deployment {}` shows its conditions",
            goal.object
        ));
    };
    for line in facts(pod, last_unhealthy(pod, events)) {
        failure = failure.detail(line);
    }
    let lines = cluster::last_lines(client, pod, LINES).await;
    if lines.is_empty() {
        failure = failure.detail("log: nothing was written");
    } else {
        failure = failure.detail("last lines of its log:");
        for line in lines {
            failure = failure.detail(format!("  {line}"));
        }
    }
    failure.hint(next(project, goal, pod))
}

/// What is known of the pod, a line each.
fn facts(pod: &Pod, unhealthy: Option<&Event>) -> Vec<String> {
    let mut facts = vec![format!(
        "container: {}, restarted {} times",
        words::status(pod),
        words::restarts(pod)
    )];
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let probe = container.and_then(probe);
    if let Some((kind, probe)) = probe {
        facts.push(format!("waits for: {kind} ({})", describe(probe)));
        let answer = unhealthy.and_then(|event| event.message.as_deref());
        facts.push(format!("last answer: {}", answer.unwrap_or("none yet").trim()));
    }
    let ended = words::container(pod).and_then(|status| {
        let states = [&status.state, &status.last_state];
        states.into_iter().flatten().find_map(|state| state.terminated.clone())
    });
    if let Some(ended) = ended {
        let reason = ended.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let message = ended.message.map(|message| format!(": {message}")).unwrap_or_default();
        facts.push(format!("last end: exit code {}{reason}{message}", ended.exit_code));
    }
    facts
}

fn probe(container: &Container) -> Option<(&'static str, &Probe)> {
    let startup = container.startup_probe.as_ref().map(|probe| ("its health check", probe));
    startup.or_else(|| container.readiness_probe.as_ref().map(|probe| ("its health check", probe)))
}

fn describe(probe: &Probe) -> String {
    if let Some(exec) = &probe.exec {
        return exec.command.clone().unwrap_or_default().join(" ");
    }
    let port = |port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString| match port {
        k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(number) => {
            number.to_string()
        }
        k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(name) => name.clone(),
    };
    if let Some(http) = &probe.http_get {
        return format!("GET {} at port {}", http.path.as_deref().unwrap_or("/"), port(&http.port));
    }
    match &probe.tcp_socket {
        Some(socket) => format!("a connection to port {}", port(&socket.port)),
        None => "a call".to_owned(),
    }
}

/// The command that shows more.
fn next(project: &str, goal: &Goal, pod: &Pod) -> String {
    let runs = words::status(pod).starts_with("running");
    let service = &goal.object;
    if words::obstacle(pod).is_some() {
        format!(
            "correct the image or its settings and run `berth up` again; `berth down -p {project}` removes what runs"
        )
    } else if runs {
        format!(
            "try the check yourself: `berth exec -p {project} {service} -- sh`; `berth logs -p {project} {service}` shows the whole log"
        )
    } else {
        format!("`berth logs -p {project} {service}` shows the whole log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_name_the_probe_and_its_answer() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "db-1" },
            "spec": { "containers": [{ "name": "db", "startupProbe": { "exec": { "command": ["pg_isready", "-q"] } },
                "readinessProbe": { "exec": { "command": ["pg_isready"] } } }] },
            "status": { "phase": "Running", "containerStatuses": [{ "name": "db", "image": "", "imageID": "",
                "ready": false, "started": false, "restartCount": 1, "state": { "running": {} },
                "lastState": { "terminated": { "exitCode": 1, "reason": "Error" } } }] },
        }))
        .unwrap();
        let event: Event = serde_json::from_value(json!({ "metadata": {}, "involvedObject": {},
            "message": "Startup probe failed: no response\n" }))
        .unwrap();
        assert_eq!(
            facts(&pod, Some(&event)),
            [
                "container: running (starting), restarted 1 times",
                "waits for: its health check (pg_isready -q)",
                "last answer: Startup probe failed: no response",
                "last end: exit code 1 (Error)",
            ]
        );
    }
}
