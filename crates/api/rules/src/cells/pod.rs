//! Cells of pods. The one word of STATUS sums up phase, init containers, waiting and termination reasons, and deletion.

use berth_objects::{Column, Object, time};
use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, age, or_none};

pub(crate) const POD: &[Column] = &[
    Column::text("Ready"),
    Column::text("Status"),
    Column::text("Restarts"),
    AGE,
    Column::wide("IP"),
    Column::wide("Node"),
    Column::wide("Nominated Node"),
    Column::wide("Readiness Gates"),
];

pub(crate) fn pod(object: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(object, now);
    let gates = object.list(&["spec", "readinessGates"]);
    let conditions = object.list(&["status", "conditions"]);
    let passed = gates.iter().filter(|gate| {
        conditions.iter().any(|condition| {
            condition.text(&["type"]) == gate.text(&["conditionType"])
                && condition.text(&["status"]) == "True"
        })
    });
    let gates = match gates.len() {
        0 => String::new(),
        all => format!("{}/{all}", passed.count()),
    };
    vec![
        format!("{}/{}", summary.ready, summary.containers).into(),
        summary.status.into(),
        summary.restarts.into(),
        age(object, now),
        or_none(object.text(&["status", "podIP"])),
        or_none(object.text(&["spec", "nodeName"])),
        or_none(object.text(&["status", "nominatedNodeName"])),
        or_none(&gates),
    ]
}

struct Summary {
    ready: usize,
    containers: usize,
    status: String,
    restarts: String,
}

/// Whether an init container stays beside the others.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    let all = pod.list(&["spec", "initContainers"]);
    all.iter().any(|c| c.text(&["name"]) == name && c.text(&["restartPolicy"]) == "Always")
}

fn termination(state: &Value) -> Option<String> {
    let end = state.at(&["state", "terminated"])?;
    Some(match (end.text(&["reason"]), end.integer(&["signal"]).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", end.integer(&["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    })
}

/// What holds the pod up among its init containers, if anything does.
fn initializing(pod: &Value) -> Option<String> {
    let total = pod.list(&["spec", "initContainers"]).len();
    for (position, state) in pod.list(&["status", "initContainerStatuses"]).iter().enumerate() {
        let started = state.flag(&["started"]);
        if state.integer(&["state", "terminated", "exitCode"]) == Some(0)
            || (is_sidecar(pod, state.text(&["name"])) && started)
        {
            continue;
        }
        if let Some(reason) = termination(state) {
            return Some(format!("Init:{reason}"));
        }
        let waiting = state.text(&["state", "waiting", "reason"]);
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{position}/{total}"));
    }
    None
}

fn summarize(pod: &Value, now: Timestamp) -> Summary {
    let states = pod.list(&["status", "containerStatuses"]);
    let inits = pod.list(&["status", "initContainerStatuses"]);
    let sidecars = || inits.iter().filter(|state| is_sidecar(pod, state.text(&["name"])));
    let spec_sidecars = pod.list(&["spec", "initContainers"]).iter();
    let spec_sidecars = spec_sidecars.filter(|c| c.text(&["restartPolicy"]) == "Always").count();
    let running =
        |state: &&Value| state.flag(&["ready"]) && state.at(&["state", "running"]).is_some();
    let ready = states.iter().filter(running).count()
        + sidecars().filter(|state| state.flag(&["ready"]) && state.flag(&["started"])).count();

    let phase = pod.text(&["status", "phase"]);
    let reason = pod.text(&["status", "reason"]);
    let mut status = if reason.is_empty() { phase } else { reason }.to_owned();
    let gated = pod.list(&["status", "conditions"]).iter().any(|condition| {
        condition.text(&["type"]) == "PodScheduled"
            && condition.text(&["reason"]) == "SchedulingGated"
    });
    if gated {
        "SchedulingGated".clone_into(&mut status);
    }
    let initializing = initializing(pod);
    let counted: Vec<&Value> = match initializing {
        Some(_) => inits.iter().collect(),
        None => states.iter().chain(sidecars()).collect(),
    };
    if let Some(initializing) = initializing {
        status = initializing;
    } else {
        let mut has_running = false;
        for state in states.iter().rev() {
            let waiting = state.text(&["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut status);
            } else if let Some(reason) = termination(state) {
                status = reason;
            } else if running(&state) {
                has_running = true;
            }
        }
        if status == "Completed" && has_running {
            let ready = pod.list(&["status", "conditions"]).iter().any(|condition| {
                condition.text(&["type"]) == "Ready" && condition.text(&["status"]) == "True"
            });
            if ready { "Running" } else { "NotReady" }.clone_into(&mut status);
        }
    }
    if pod.deleting() {
        let word = match reason {
            "NodeLost" => "Unknown",
            _ if phase == "Succeeded" || phase == "Failed" => &status,
            _ => "Terminating",
        };
        status = word.to_owned();
    }
    Summary {
        ready,
        containers: pod.list(&["spec", "containers"]).len() + spec_sidecars,
        status,
        restarts: restarts(&counted, now),
    }
}

fn restarts(states: &[&Value], now: Timestamp) -> String {
    let total: i64 = states.iter().filter_map(|state| state.integer(&["restartCount"])).sum();
    let last = states
        .iter()
        .filter_map(|state| time::parse(state.text(&["lastState", "terminated", "finishedAt"])))
        .max();
    match last {
        Some(last) if total > 0 => format!("{total} ({} ago)", time::age(last, now)),
        _ => total.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(pod: &Value) -> String {
        summarize(pod, Timestamp::UNIX_EPOCH).status
    }

    #[test]
    fn one_word_sums_a_pod_up() {
        let running = json!({"status": {"phase": "Running"}});
        assert_eq!(status(&running), "Running");
        let crash = json!({"status": {"phase": "Running", "containerStatuses":
            [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3}]}});
        assert_eq!(status(&crash), "CrashLoopBackOff");
        let done = json!({"status": {"phase": "Succeeded", "containerStatuses":
            [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}});
        assert_eq!(status(&done), "Completed");
        let killed = json!({"status": {"phase": "Failed", "containerStatuses":
            [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}});
        assert_eq!(status(&killed), "Signal:9");
        let init = json!({"spec": {"initContainers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0}}},
                {"name": "b", "state": {"running": {}}}]}});
        assert_eq!(status(&init), "Init:1/2");
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Running"}});
        assert_eq!(status(&going), "Terminating");
    }
}
