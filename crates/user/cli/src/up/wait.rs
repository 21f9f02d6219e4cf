//! Waiting for services to come to what is asked of them, and noticing early when they will not.
//!
//! What is there is judged by [`judge`] from values alone; the rest of this file only looks again when something changed.

use std::time::Duration;

use berth_client::Follow;
use berth_compose::Condition;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::time::Instant;

use super::diagnosis;
use super::plan::TEMPLATE;
use crate::cluster::{self, PROJECT, SERVICE};
use crate::failure::{Doing, Failure};
use crate::progress::Waiting;
use crate::words;

/// How often a container may end on its own before it is taken for broken: others it needs may not be there yet.
const CRASHES: i32 = 3;

/// What is asked of a service.
#[derive(Debug, Clone)]
pub struct Goal {
    /// Its key in the file.
    pub service: String,
    /// Its name in the cluster.
    pub object: String,
    /// The hash of its present pods; none if any will do.
    pub template: Option<String>,
    /// It runs to its end.
    pub once: bool,
    /// What must hold.
    pub condition: Condition,
    /// Whether it is an error if it cannot be reached.
    pub required: bool,
}

/// Where a service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On its way, with what it waits for.
    Coming(String),
    /// There.
    Reached,
    /// It will not get there by waiting.
    Failed(String),
}

/// Judges a service by what is there of it.
pub fn judge(
    goal: &Goal,
    deployment: Option<&Deployment>,
    pods: &[&Pod],
    events: &[&Event],
) -> State {
    let current: Vec<&Pod> = pods.iter().copied().filter(|pod| is_current(goal, pod)).collect();
    if let Some(trouble) = current.iter().find_map(|pod| trouble(goal, pod, events)) {
        return State::Failed(trouble);
    }
    if goal.once {
        return judge_once(goal, &current);
    }
    let Some(deployment) = deployment else { return State::Coming("being created".to_owned()) };
    if goal.condition == Condition::Started {
        let runs = current.iter().any(|pod| words::status(pod).starts_with("running"));
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        return if runs || wanted == 0 { State::Reached } else { State::Coming(coming(&current)) };
    }
    if cluster::is_rolled_out(deployment) {
        return State::Reached;
    }
    if let Some(message) = stalled(deployment) {
        return State::Failed(message);
    }
    let healthy = current
        .iter()
        .all(|pod| matches!(words::status(pod).as_str(), "running" | "running (healthy)"));
    let old = pods.iter().filter(|pod| !is_current(goal, pod)).count();
    if !current.is_empty() && healthy && old > 0 {
        return State::Coming("the old one ends".to_owned());
    }
    State::Coming(coming(&current))
}

fn is_current(goal: &Goal, pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let template = annotations.and_then(|annotations| annotations.get(TEMPLATE));
    pod.metadata.deletion_timestamp.is_none()
        && (goal.template.is_none() || template == goal.template.as_ref())
}

fn judge_once(goal: &Goal, current: &[&Pod]) -> State {
    let Some(pod) = current.first() else { return State::Coming("being created".to_owned()) };
    match (words::phase(pod), goal.condition) {
        ("Succeeded", _) => State::Reached,
        ("Failed", _) => State::Failed(words::status(pod)),
        ("Running", Condition::Started) => State::Reached,
        _ => State::Coming(coming(current)),
    }
}

/// What the first pod that is not there yet does.
fn coming(pods: &[&Pod]) -> String {
    let states = pods.iter().map(|pod| words::status(pod));
    let state =
        states.into_iter().find(|state| !matches!(state.as_str(), "running" | "running (healthy)"));
    // A checked container that runs and is not ready yet: `running (starting)` would say the same twice.
    let short = state.map(|state| match state.strip_prefix("running (") {
        Some(rest) => rest.trim_end_matches(')').to_owned(),
        None => state,
    });
    short.unwrap_or_else(|| "starting".to_owned())
}

/// Why a pod will not come to work by itself.
fn trouble(goal: &Goal, pod: &Pod, events: &[&Event]) -> Option<String> {
    if let Some((reason, message)) = words::obstacle(pod) {
        return Some(if message.is_empty() { reason.to_owned() } else { message.to_owned() });
    }
    let status = words::container(pod)?;
    let last = [&status.state, &status.last_state];
    let ends = last.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    for end in ends.clone() {
        if matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun")) {
            return Some(format!("cannot start: {}", end.message.clone().unwrap_or_default()));
        }
    }
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    if status.ready && running {
        // Whatever it went through before, it is well now.
        return None;
    }
    let restarts = status.restart_count;
    let unhealthy = restarts > 0 && last_unhealthy(pod, events).is_some_and(is_startup);
    if unhealthy {
        return Some("its health check does not pass".to_owned());
    }
    if !goal.once && restarts >= CRASHES {
        let code = ends.map(|end| end.exit_code).next();
        let code = code.map(|code| format!(", last with exit code {code}")).unwrap_or_default();
        return Some(format!("it has ended {restarts} times{code}"));
    }
    None
}

fn is_startup(event: &Event) -> bool {
    event.message.as_deref().is_some_and(|message| message.starts_with("Startup"))
}

/// The last time a probe of this pod failed.
pub fn last_unhealthy<'e>(pod: &Pod, events: &[&'e Event]) -> Option<&'e Event> {
    let of_pod = events.iter().copied().filter(|event| {
        event.reason.as_deref() == Some("Unhealthy")
            && event.involved_object.uid == pod.metadata.uid
    });
    of_pod.max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))
}

/// The controller gave up on the rollout.
fn stalled(deployment: &Deployment) -> Option<String> {
    let status = deployment.status.as_ref()?;
    if status.observed_generation < deployment.metadata.generation {
        return None;
    }
    let condition = status.conditions.as_ref()?.iter().find(|condition| {
        condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
            && condition.status == "False"
    })?;
    Some(condition.message.clone().unwrap_or_else(|| "the rollout makes no progress".to_owned()))
}

/// Follows a project until its goals are reached.
pub struct Waiter {
    client: Client,
    project: String,
    begun: Instant,
    timeout: Duration,
    deployments: Follow<Deployment>,
    pods: Follow<Pod>,
    events: Follow<Event>,
    listed: [bool; 3],
    waiting: Waiting,
    told: Vec<(String, Condition)>,
}

impl Waiter {
    /// Follows the objects of a project from now on.
    pub fn new(client: Client, project: &str, timeout: Duration) -> Self {
        let own = || watcher::Config::default().labels(&format!("{PROJECT}={project}"));
        let unhealthy = watcher::Config::default().fields("reason=Unhealthy");
        Self {
            deployments: Follow::new(Api::namespaced(client.clone(), project), own()),
            pods: Follow::new(Api::namespaced(client.clone(), project), own()),
            events: Follow::new(Api::namespaced(client.clone(), project), unhealthy),
            client,
            project: project.to_owned(),
            begun: Instant::now(),
            timeout,
            listed: [false; 3],
            waiting: Waiting::new(),
            told: Vec::new(),
        }
    }

    /// Waits until all goals are reached. Fails with the first that cannot be.
    pub async fn reach(&mut self, goals: &[Goal]) -> Result<(), Failure> {
        let deadline = self.begun + self.timeout;
        loop {
            if self.listed.iter().all(|listed| *listed) && self.look(goals).await? {
                return Ok(());
            }
            if goals.is_empty() {
                return Ok(());
            }
            let what = "cannot watch the project";
            tokio::select! {
                changed = self.deployments.changed() => { changed.doing(what)?; self.listed[0] = true; }
                changed = self.pods.changed() => { changed.doing(what)?; self.listed[1] = true; }
                changed = self.events.changed() => { changed.doing(what)?; self.listed[2] = true; }
                () = tokio::time::sleep_until(deadline) => return Err(self.late(goals).await),
            }
        }
    }

    fn state(&self, goal: &Goal) -> State {
        let label = |labels: &Option<std::collections::BTreeMap<String, String>>| {
            labels.as_ref().and_then(|labels| labels.get(SERVICE).cloned())
        };
        let of_service = |pod: &&Pod| label(&pod.metadata.labels).as_deref() == Some(&goal.object);
        let pods: Vec<&Pod> = self.pods.all().filter(of_service).collect();
        let events: Vec<&Event> = self.events.all().collect();
        let mut deployments = self.deployments.all();
        let deployment = deployments.find(|one| one.metadata.name.as_deref() == Some(&goal.object));
        judge(goal, deployment, &pods, &events)
    }

    /// True if everything is reached.
    async fn look(&mut self, goals: &[Goal]) -> Result<bool, Failure> {
        let mut left = Vec::new();
        for goal in goals {
            match self.state(goal) {
                State::Reached => self.tell(goal),
                State::Coming(what) => left.push(format!("{} ({what})", goal.service)),
                State::Failed(why) if goal.required => return Err(self.explain(goal, &why).await),
                State::Failed(why) => {
                    let known = (goal.service.clone(), goal.condition);
                    if !self.told.contains(&known) {
                        self.waiting.reached(&format!(
                            "warning: {}: {why}; it is not required",
                            goal.service
                        ));
                        self.told.push(known);
                    }
                }
            }
        }
        if !left.is_empty() {
            self.waiting.on(&format!("waiting for {}", left.join(", ")));
        }
        Ok(left.is_empty())
    }

    fn tell(&mut self, goal: &Goal) {
        let known = (goal.service.clone(), goal.condition);
        if self.told.contains(&known) {
            return;
        }
        self.told.push(known);
        let word = match goal.condition {
            Condition::Started => "started",
            Condition::Healthy => "ready",
            Condition::CompletedSuccessfully => "completed",
        };
        let seconds = self.begun.elapsed().as_secs_f64();
        self.waiting.reached(&format!("{}: {word} after {seconds:.1} s", goal.service));
    }

    async fn late(&self, goals: &[Goal]) -> Failure {
        let time = humantime::format_duration(self.timeout);
        for goal in goals {
            if let State::Coming(what) = self.state(goal) {
                let why = format!("still {what} after {time}");
                return self.explain(goal, &why).await;
            }
        }
        Failure::new(format!("the project is not complete after {time}"))
    }

    async fn explain(&self, goal: &Goal, why: &str) -> Failure {
        let of_service = |pod: &&Pod| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE)).map(String::as_str)
                == Some(&goal.object)
        };
        let pod = self.pods.all().filter(of_service).find(|pod| is_current(goal, pod));
        let events: Vec<&Event> = self.events.all().collect();
        diagnosis::explain(&self.client, &self.project, goal, why, pod, &events).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn goal(condition: Condition, once: bool) -> Goal {
        Goal {
            service: "web".to_owned(),
            object: "web".to_owned(),
            template: Some("new".to_owned()),
            once,
            condition,
            required: true,
        }
    }

    fn pod(template: &str, phase: &str, state: Value, restarts: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "web-1", "uid": "u", "annotations": { TEMPLATE: template } },
            "spec": { "containers": [{ "name": "web" }] },
            "status": { "phase": phase, "containerStatuses": [{ "name": "web", "image": "", "imageID": "",
                "ready": true, "restartCount": restarts, "state": state }] },
        }))
        .unwrap()
    }

    fn deployment(updated: i32, all: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "generation": 1 },
            "spec": { "replicas": 1, "selector": {}, "template": {} },
            "status": { "observedGeneration": 1, "updatedReplicas": updated, "replicas": all,
                "availableReplicas": all },
        }))
        .unwrap()
    }

    fn running() -> Value {
        json!({ "running": {} })
    }

    #[test]
    fn a_rollout_is_reached_when_the_old_one_is_gone() {
        let goal = goal(Condition::Healthy, false);
        let (old, new) = (pod("old", "Running", running(), 0), pod("new", "Running", running(), 0));
        assert_eq!(judge(&goal, None, &[], &[]), State::Coming("being created".to_owned()));
        let both = judge(&goal, Some(&deployment(1, 2)), &[&old, &new], &[]);
        assert_eq!(both, State::Coming("the old one ends".to_owned()));
        assert_eq!(judge(&goal, Some(&deployment(1, 1)), &[&new], &[]), State::Reached);
    }

    #[test]
    fn what_was_before_does_not_count() {
        let goal = goal(Condition::Healthy, false);
        let waiting =
            json!({ "waiting": { "reason": "ErrImagePull", "message": "no such image" } });
        let old = pod("old", "Pending", waiting.clone(), 0);
        assert_eq!(
            judge(&goal, Some(&deployment(0, 1)), &[&old], &[]),
            State::Coming("starting".to_owned())
        );
        let new = pod("new", "Pending", waiting, 0);
        assert_eq!(
            judge(&goal, Some(&deployment(1, 1)), &[&new], &[]),
            State::Failed("no such image".to_owned())
        );
    }

    #[test]
    fn a_crash_is_forgiven_a_few_times() {
        let goal = goal(Condition::Healthy, false);
        let ended = json!({ "terminated": { "exitCode": 2 } });
        let once = pod("new", "Running", ended.clone(), 1);
        assert!(matches!(judge(&goal, Some(&deployment(1, 2)), &[&once], &[]), State::Coming(_)));
        let often = pod("new", "Running", ended, 3);
        assert_eq!(
            judge(&goal, Some(&deployment(1, 2)), &[&often], &[]),
            State::Failed("it has ended 3 times, last with exit code 2".to_owned())
        );
    }

    #[test]
    fn a_failing_startup_probe_is_told_after_the_first_restart() {
        let goal = goal(Condition::Healthy, false);
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "involvedObject": { "uid": "u" }, "reason": "Unhealthy",
            "message": "Startup probe failed: refused" }))
        .unwrap();
        let mut pod = pod("new", "Running", running(), 1);
        assert!(
            !matches!(judge(&goal, Some(&deployment(1, 2)), &[&pod], &[&event]), State::Failed(_)),
            "it was restarted once, but it is ready now"
        );
        let status = pod.status.as_mut().and_then(|status| status.container_statuses.as_mut());
        status.unwrap()[0].ready = false;
        assert_eq!(
            judge(&goal, Some(&deployment(1, 2)), &[&pod], &[&event]),
            State::Failed("its health check does not pass".to_owned())
        );
    }

    #[test]
    fn what_runs_once_is_reached_at_its_end() {
        let goal = goal(Condition::CompletedSuccessfully, true);
        let at =
            |phase: &str, state: Value| judge(&goal, None, &[&pod("new", phase, state, 0)], &[]);
        assert_eq!(at("Running", running()), State::Coming("starting".to_owned()));
        assert_eq!(at("Succeeded", json!({ "terminated": { "exitCode": 0 } })), State::Reached);
        assert_eq!(
            at("Failed", json!({ "terminated": { "exitCode": 4 } })),
            State::Failed("exited (4)".to_owned())
        );
    }
}
