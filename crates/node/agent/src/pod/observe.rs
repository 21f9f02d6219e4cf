//! What is known about a pod: its containers' states and when they may start again.

use std::collections::BTreeMap;

use berth_shim::protocol::{ContainerState, Exit};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::resize::Progress;
use crate::directory::{Ended, Failed, PodDirectory, Record};

/// A container as the agent knows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Never started, or to be started again; the reason and message say what it waits for.
    Waiting {
        /// As in `kubectl get pods`.
        reason: String,
        /// In words.
        message: String,
    },
    /// Its process runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Its process has ended; `Ended` is in the record.
    Ended,
}

/// What changes about a container while the agent watches it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// State.
    pub phase: Phase,
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// A liveness or startup probe has given up on it.
    pub unhealthy: bool,
    /// Not to be started before.
    pub not_before: Option<Timestamp>,
    /// It was asked to end; to be killed at this time.
    pub ending: Option<Timestamp>,
    /// Its hook after the start has not ended yet.
    pub starting: bool,
    /// Its hook before the end has ended, and the signal to end is due.
    pub hooked: bool,
    /// It ends to be started anew in another size.
    pub resizing: bool,
    /// How long it may take to end when a probe has given up on it, in seconds, where the probe says.
    pub grace: Option<i64>,
}

impl View {
    /// A container that has not been started.
    pub fn new() -> Self {
        Self {
            phase: Phase::Waiting {
                reason: "ContainerCreating".to_owned(),
                message: String::new(),
            },
            started: false,
            ready: false,
            unhealthy: false,
            not_before: None,
            ending: None,
            starting: false,
            hooked: false,
            resizing: false,
            grace: None,
        }
    }

    /// Whether a process of it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }
}

/// All that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The namespaces exist.
    pub sandbox: bool,
    /// Containers by name.
    pub containers: BTreeMap<String, View>,
    /// The pod's deadline passed, or it was evicted.
    pub failed: Option<Failed>,
    /// How far a change of its size has got.
    pub resize: Progress,
    /// Everything of it is gone from the node.
    pub removed: bool,
}

/// What a shim's answer and the files of an earlier agent say. `state` is `None` when there is no shim.
pub fn adopt(
    record: &mut Record,
    pod: &Pod,
    directory: &PodDirectory,
    state: Option<&[ContainerState]>,
) -> Observed {
    let mut containers = BTreeMap::new();
    for (name, known) in &mut record.containers {
        let instance = known.instance(name);
        let held = state.into_iter().flatten().find(|held| held.container == instance);
        let mut view = View::new();
        if known.starts > 0 {
            match (held, &known.ended) {
                (Some(held), _) if held.exit.is_none() => {
                    view.phase = Phase::Running { since: from_nanoseconds(held.started) };
                    // Asked for again if it is still to have another size.
                    known.resizing = false;
                }
                (_, Some(_)) => view.phase = Phase::Ended,
                (held, None) => {
                    let exit =
                        held.and_then(|held| held.exit).or_else(|| directory.exit(&instance));
                    known.ended = Some(exit.map_or_else(
                        || lost(&instance, known.started),
                        |exit| {
                            let fallback = falls_back(pod, name);
                            ended(&instance, known.started, exit, directory, fallback)
                        },
                    ));
                    view.phase = Phase::Ended;
                }
            }
        }
        if known.resizing && view.phase == Phase::Ended {
            // Its end was only the beginning of another size.
            view.phase = View::new().phase;
        }
        containers.insert(name.clone(), view);
    }
    if record.sandbox && state.is_none() {
        prepare_again(pod, &mut containers);
    }
    Observed {
        sandbox: state.is_some() && record.sandbox,
        containers,
        failed: record.failed.clone(),
        resize: Progress::default(),
        removed: false,
    }
}

/// Where the namespaces are gone, as after the machine went down, what init containers set up in them is gone, too.
fn prepare_again(pod: &Pod, containers: &mut BTreeMap<String, View>) {
    let spec = pod.spec.as_ref();
    for init in spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()) {
        if let Some(view) = containers.get_mut(&init.name) {
            *view = View::new();
        }
    }
}

/// Whether a container's log stands in for a message it did not leave.
pub fn falls_back(pod: &Pod, name: &str) -> bool {
    let spec = pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|spec| {
        let lasting = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let lasting =
            lasting.map(|one| (one.name.as_str(), one.termination_message_policy.as_deref()));
        lasting.chain(
            spec.ephemeral_containers
                .iter()
                .flatten()
                .map(|one| (one.name.as_str(), one.termination_message_policy.as_deref())),
        )
    });
    all.into_iter().any(|one| one == (name, Some("FallbackToLogsOnError")))
}

/// The end of an instance as its shim tells it.
pub fn ended(
    instance: &str,
    started: Option<Timestamp>,
    exit: Exit,
    directory: &PodDirectory,
    fallback: bool,
) -> Ended {
    let message = crate::log::read_short(&directory.termination(instance), 4096).ok();
    let message = message.filter(|message| !message.is_empty());
    // One that failed without a word has often said why before.
    let message = message.or_else(|| {
        let text = crate::log::last_words(&directory.log(instance)).ok();
        text.filter(|text| fallback && exit.code != 0 && !text.is_empty())
    });
    let reason = match exit {
        Exit { out_of_memory: true, signal: Some(9), .. } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    };
    Ended {
        instance: instance.to_owned(),
        code: exit.code,
        signal: exit.signal,
        reason: reason.to_owned(),
        message,
        started,
        finished: from_nanoseconds(exit.finished),
    }
}

/// The end of an instance nobody saw: the machine went down, or the shim was killed.
fn lost(instance: &str, started: Option<Timestamp>) -> Ended {
    Ended {
        instance: instance.to_owned(),
        code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("the container was gone when the node agent looked for it".to_owned()),
        started,
        finished: Timestamp::now(),
    }
}

fn from_nanoseconds(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it.
    const OLD: &str = r#"{"namespace": "default", "name": "db", "uid": "1", "address": "10.0.0.2", "user": null, "sandbox": true,
        "containers": {"main": {"starts": 1, "started": "2026-01-01T00:00:00Z", "image": ["db", "sha256:0"], "ended": null,
            "previous": null, "failures": 0}}}"#;

    fn end(code: i32) -> ContainerState {
        let exit = Exit { code, signal: None, finished: 2, out_of_memory: false };
        ContainerState { container: "main.1".to_owned(), pid: 1, started: 1, exit: Some(exit) }
    }

    #[test]
    fn an_end_that_is_only_the_beginning_of_another_size_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let directory = PodDirectory::of(folder.path(), "1");
        directory.create().unwrap();
        let phase = |resizing: bool| {
            std::fs::write(directory.path().join("pod.json"), OLD).unwrap();
            let mut record = directory.read().unwrap();
            record.containers.get_mut("main").unwrap().resizing = resizing;
            directory.write(&record).unwrap();
            let mut record = directory.read().unwrap();
            let pod = Pod::default();
            let observed = adopt(&mut record, &pod, &directory, Some(&[end(0)]));
            assert_eq!(record.containers["main"].ended.as_ref().unwrap().code, 0);
            observed.containers["main"].phase.clone()
        };
        assert_eq!(phase(false), Phase::Ended);
        assert_eq!(phase(true), View::new().phase);
    }
}
