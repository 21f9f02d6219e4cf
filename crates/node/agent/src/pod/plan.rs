//! What to do next about a pod, from values alone.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::observe::{Observed, Phase, View};
use crate::directory::Record;

/// When an ended container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

/// Restarts a container for its exit code, whatever its policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The exit codes that are meant.
    pub codes: Vec<i32>,
    /// Meant are all others.
    pub inverted: bool,
}

/// A container of the pod's specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// Its own policy: always for a sidecar, else the pod's.
    pub restart: Restart,
    /// What stands above the policy.
    pub rules: Vec<Rule>,
    /// An init container whose successors only wait for its start.
    pub sidecar: bool,
    /// It has a hook after its start, which holds up the others.
    pub hook: bool,
}

impl Wanted {
    /// Whether it is started again after it has ended with this code.
    pub fn is_restarted_after(&self, code: Option<i32>) -> bool {
        let ruled =
            |code: i32| self.rules.iter().any(|rule| rule.codes.contains(&code) != rule.inverted);
        match (self.restart, code) {
            (Restart::Always, _) => true,
            (_, Some(code)) if ruled(code) => true,
            (Restart::Never, _) | (Restart::OnFailure, Some(0)) => false,
            (Restart::OnFailure, _) => true,
        }
    }
}

/// What the pod's specification asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// Run before the others, one after the other.
    pub init: Vec<Wanted>,
    /// Run together.
    pub main: Vec<Wanted>,
    /// Run beside the others to look into the pod; they neither keep it nor end it.
    pub ephemeral: Vec<Wanted>,
    /// The pod is to go.
    pub deleting: bool,
    /// The containers are to end and stay ended, the pod staying as a record.
    pub stopping: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes namespaces, network and volumes.
    CreateSandbox,
    /// Starts a container.
    Start(String),
    /// Asks a container to end, by its hook if it has one.
    Terminate(String),
    /// Sends the signal to end, after the hook.
    Signal(String),
    /// Ends a container.
    Kill(String),
    /// Takes namespaces, network and cgroups away. Logs and records stay.
    RemoveSandbox,
    /// Takes everything away and says so.
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateSandbox => write!(to, "create the sandbox"),
            Self::Start(name) => write!(to, "start container {name}"),
            Self::Terminate(name) => write!(to, "ask container {name} to end"),
            Self::Signal(name) => write!(to, "signal container {name} to end"),
            Self::Kill(name) => write!(to, "kill container {name}"),
            Self::RemoveSandbox => write!(to, "remove the sandbox"),
            Self::Remove => write!(to, "remove the pod"),
        }
    }
}

/// The steps from what is to what is wanted, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The next time at which the answer changes by itself.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }
}

/// Whether everything that is to run has run to its end, so that nothing is started any more.
pub fn is_finished(goal: &Goal, record: &Record, observed: &Observed) -> bool {
    if observed.failed.is_some() {
        return true;
    }
    if goal.stopping {
        return observed.containers.values().all(|view| !view.is_running());
    }
    let over = |wanted: &Wanted| is_over(wanted, record, observed);
    let failed_init = goal.init.iter().any(|wanted| {
        !wanted.sidecar
            && over(wanted)
            && exit_code(&wanted.name, record).is_some_and(|code| code != 0)
    });
    failed_init || goal.main.iter().all(over)
}

fn exit_code(name: &str, record: &Record) -> Option<i32> {
    record.containers.get(name)?.ended.as_ref().map(|ended| ended.code)
}

/// Ended, and not to be started again.
fn is_over(wanted: &Wanted, record: &Record, observed: &Observed) -> bool {
    let ended =
        observed.containers.get(&wanted.name).is_some_and(|view| view.phase == Phase::Ended);
    ended && !wanted.is_restarted_after(exit_code(&wanted.name, record))
}

/// Decides.
pub fn plan(goal: &Goal, record: &Record, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if observed.removed {
        return plan;
    }
    if goal.deleting {
        if end_all(goal, observed, now, &mut plan) {
            plan.steps.push(Step::Remove);
        }
        return plan;
    }
    if goal.stopping || is_finished(goal, record, observed) {
        if end_all(goal, observed, now, &mut plan) && observed.sandbox {
            plan.steps.push(Step::RemoveSandbox);
        }
        return plan;
    }
    if !observed.sandbox {
        plan.steps.push(Step::CreateSandbox);
        return plan;
    }
    // Also while the pod is still being prepared: that may be what is looked into.
    for wanted in &goal.ephemeral {
        keep_up(wanted, record, observed.containers.get(&wanted.name), now, &mut plan);
    }
    for wanted in &goal.init {
        let view = observed.containers.get(&wanted.name);
        let done = match view {
            Some(view) if wanted.sidecar => view.is_running() && view.started,
            Some(view) => view.phase == Phase::Ended && exit_code(&wanted.name, record) == Some(0),
            None => false,
        };
        if !done || wanted.sidecar {
            keep_up(wanted, record, view, now, &mut plan);
        }
        if !done {
            return plan;
        }
    }
    let mut held_up = false;
    for wanted in &goal.main {
        let view = observed.containers.get(&wanted.name);
        // Those after one whose hook runs wait for it, as people have come to rely on.
        if held_up && !view.is_some_and(View::is_running) {
            continue;
        }
        keep_up(wanted, record, view, now, &mut plan);
        held_up |= view.is_some_and(|view| view.starting) || has_hook(wanted, &plan);
    }
    plan
}

/// Whether the plan starts this container and its hook holds up the others.
fn has_hook(wanted: &Wanted, plan: &Plan) -> bool {
    wanted.hook && plan.steps.contains(&Step::Start(wanted.name.clone()))
}

/// Starts a container that should run, ends one that is unwell, and leaves the others alone.
fn keep_up(wanted: &Wanted, record: &Record, view: Option<&View>, now: Timestamp, plan: &mut Plan) {
    let name = &wanted.name;
    let Some(view) = view else {
        plan.steps.push(Step::Start(name.clone()));
        return;
    };
    match &view.phase {
        Phase::Running { .. } => {
            if let Some(deadline) = view.ending {
                end_by(name, view, deadline, now, plan);
            } else if view.unhealthy || view.resizing {
                plan.steps.push(Step::Terminate(name.clone()));
            }
        }
        Phase::Ended | Phase::Waiting { .. } => {
            let finished =
                view.phase == Phase::Ended && !wanted.is_restarted_after(exit_code(name, record));
            match view.not_before {
                _ if finished => {}
                Some(at) if at > now => plan.wake_at(at),
                _ => plan.steps.push(Step::Start(name.clone())),
            }
        }
    }
}

/// Ends what runs: sidecars after all others, the last one first. True once nothing runs.
fn end_all(goal: &Goal, observed: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    let running: Vec<(&String, &View)> =
        observed.containers.iter().filter(|(_, view)| view.is_running()).collect();
    let sidecar =
        |name: &str| goal.init.iter().position(|wanted| wanted.sidecar && wanted.name == name);
    let others = running.iter().any(|(name, _)| sidecar(name).is_none());
    let last = running.iter().filter_map(|(name, _)| sidecar(name)).max();
    for (name, view) in &running {
        let place = sidecar(name);
        let turn = place.is_none() || !others && place == last;
        match view.ending {
            None if turn => plan.steps.push(Step::Terminate((*name).clone())),
            None => {}
            Some(deadline) => end_by(name, view, deadline, now, plan),
        }
    }
    running.is_empty()
}

fn end_by(name: &str, view: &View, deadline: Timestamp, now: Timestamp, plan: &mut Plan) {
    if view.hooked {
        plan.steps.push(Step::Signal(name.to_owned()));
    } else if deadline <= now {
        plan.steps.push(Step::Kill(name.to_owned()));
    } else {
        plan.wake_at(deadline);
    }
}

/// How long a container that ended or failed to start waits for its next start: not at all the first time, then one
/// second, doubling up to five minutes. One that ran for ten minutes has earned a clean slate.
pub fn back_off(failures: u32) -> SignedDuration {
    const LONGEST: i64 = 300;
    match failures {
        0 | 1 => SignedDuration::ZERO,
        more => {
            SignedDuration::from_secs(1_i64.checked_shl(more - 2).unwrap_or(LONGEST).min(LONGEST))
        }
    }
}

/// How long a container must run for its earlier failures to be forgotten.
pub const STEADY: SignedDuration = SignedDuration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{ContainerRecord, Ended};
    use crate::pod::resize::Progress;

    fn goal() -> Goal {
        let wanted = |name: &str, restart| Wanted {
            name: name.to_owned(),
            restart,
            rules: vec![],
            sidecar: false,
            hook: false,
        };
        Goal {
            init: vec![wanted("prepare", Restart::OnFailure)],
            main: vec![wanted("web", Restart::Always), wanted("log", Restart::Always)],
            ephemeral: vec![],
            deleting: false,
            stopping: false,
        }
    }

    struct World {
        goal: Goal,
        record: Record,
        observed: Observed,
        now: Timestamp,
    }

    impl World {
        fn new(goal: Goal) -> Self {
            let record = Record::new(&k8s_openapi::api::core::v1::Pod::default());
            let observed = Observed {
                sandbox: false,
                containers: [].into(),
                failed: None,
                resize: Progress::default(),
                removed: false,
            };
            Self { goal, record, observed, now: Timestamp::from_second(1000).unwrap() }
        }

        fn plan(&self) -> Plan {
            plan(&self.goal, &self.record, &self.observed, self.now)
        }

        fn text(&self) -> String {
            self.plan().steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }

        /// What a step does to the world when it succeeds.
        fn apply(&mut self, step: &Step) {
            match step {
                Step::CreateSandbox => self.observed.sandbox = true,
                Step::Start(name) => {
                    self.record.containers.entry(name.clone()).or_default().starts += 1;
                    let mut view = View::new();
                    view.phase = Phase::Running { since: self.now };
                    view.started = true;
                    self.observed.containers.insert(name.clone(), view);
                }
                Step::Terminate(name) => {
                    self.observed.containers.get_mut(name).unwrap().ending =
                        Some(self.now + SignedDuration::from_secs(10));
                }
                Step::Signal(name) => {
                    self.observed.containers.get_mut(name).unwrap().hooked = false;
                }
                Step::Kill(name) => self.end(name, 137),
                Step::RemoveSandbox => self.observed.sandbox = false,
                Step::Remove => {
                    self.observed.sandbox = false;
                    self.observed.removed = true;
                }
            }
        }

        fn end(&mut self, name: &str, code: i32) {
            let known: &mut ContainerRecord = self.record.containers.get_mut(name).unwrap();
            known.ended = Some(Ended {
                instance: name.into(),
                code,
                signal: None,
                reason: "Error".into(),
                message: None,
                started: None,
                finished: self.now,
            });
            self.observed.containers.get_mut(name).unwrap().phase = Phase::Ended;
        }

        fn settle(&mut self) {
            for _ in 0..20 {
                let steps = self.plan().steps;
                if steps.is_empty() {
                    return;
                }
                steps.iter().for_each(|step| self.apply(step));
            }
            panic!("the plan never ends: {}", self.text());
        }
    }

    #[test]
    fn who_looks_into_a_pod_neither_keeps_nor_ends_it() {
        let look = Wanted {
            name: "look".into(),
            restart: Restart::Never,
            rules: vec![],
            sidecar: false,
            hook: false,
        };
        let mut world = World::new(Goal { ephemeral: vec![look], ..goal() });
        world.apply(&Step::CreateSandbox);
        assert_eq!(world.text(), "start container look; start container prepare");
        world.settle();
        world.end("prepare", 0);
        world.settle();
        world.end("look", 1);
        assert_eq!(world.text(), "", "it is not started again");
        assert!(!is_finished(&world.goal, &world.record, &world.observed));
        let mut once = World::new(Goal { init: vec![], ..world.goal.clone() });
        once.goal.main.iter_mut().for_each(|wanted| wanted.restart = Restart::Never);
        once.settle();
        once.end("web", 0);
        once.end("log", 0);
        assert_eq!(once.text(), "ask container look to end", "nothing is left to be looked into");
    }

    #[test]
    fn a_pod_comes_up_in_order_and_stays() {
        let mut world = World::new(goal());
        assert_eq!(world.text(), "create the sandbox");
        world.settle();
        assert_eq!(world.text(), "", "the init container runs, so everything waits");
        world.end("prepare", 1);
        assert_eq!(world.text(), "start container prepare");
        world.settle();
        world.end("prepare", 0);
        assert_eq!(world.text(), "start container web; start container log");
        world.settle();
        world.end("web", 0);
        assert_eq!(world.text(), "start container web");
        let at = world.now + SignedDuration::from_secs(5);
        world.observed.containers.get_mut("web").unwrap().not_before = Some(at);
        assert_eq!(world.plan(), Plan { steps: vec![], wake: Some(at) });
    }

    #[test]
    fn an_unwell_container_is_ended_and_started_again() {
        let mut world = World::new(Goal { init: vec![], ..goal() });
        world.settle();
        world.observed.containers.get_mut("web").unwrap().unhealthy = true;
        assert_eq!(world.text(), "ask container web to end");
        world.settle();
        world.now += SignedDuration::from_secs(11);
        assert_eq!(world.text(), "kill container web");
        world.settle();
        assert!(world.observed.containers["web"].is_running());
    }

    #[test]
    fn deletion_reaches_the_same_end_from_every_point() {
        let mut start = World::new(Goal { init: vec![], ..goal() });
        start.settle();
        start.goal.deleting = true;
        // Stop after each number of steps, plan afresh, and let time pass: the end is the same.
        for interrupted in 0..5 {
            let mut world = World::new(start.goal.clone());
            world.record = start.record.clone();
            world.observed = start.observed.clone();
            for step in world.plan().steps.iter().take(interrupted) {
                world.apply(step);
            }
            world.settle();
            world.now += SignedDuration::from_secs(60);
            world.settle();
            assert!(world.observed.removed && !world.observed.sandbox);
            assert_eq!(world.text(), "");
        }
    }

    #[test]
    fn a_pod_that_never_restarts_ends_and_lets_its_sandbox_go() {
        let mut goal = Goal { init: vec![], ..goal() };
        goal.main.iter_mut().for_each(|wanted| wanted.restart = Restart::Never);
        let mut world = World::new(goal);
        world.settle();
        world.end("web", 3);
        assert_eq!(world.text(), "", "the other still runs");
        world.end("log", 0);
        assert_eq!(world.text(), "remove the sandbox");
        world.settle();
        assert_eq!(world.text(), "");
    }

    #[test]
    fn rules_stand_above_the_policy() {
        let rule = |codes: &[i32], inverted| Rule { codes: codes.to_vec(), inverted };
        let wanted = |restart, rules| Wanted {
            name: "web".into(),
            restart,
            rules,
            sidecar: false,
            hook: false,
        };
        let never = wanted(Restart::Never, vec![rule(&[42], false), rule(&[0, 1], true)]);
        let after = |code| never.is_restarted_after(Some(code));
        assert_eq!([42, 7, 1, 0].map(after), [true, true, false, false]);
        assert!(!never.is_restarted_after(None));
        assert!(wanted(Restart::OnFailure, vec![rule(&[0], false)]).is_restarted_after(Some(0)));
        let mut world = World::new(Goal { init: vec![], main: vec![never], ..goal() });
        world.settle();
        world.end("web", 42);
        assert_eq!(world.text(), "start container web");
        world.settle();
        world.end("web", 1);
        assert_eq!(world.text(), "remove the sandbox");
    }

    #[test]
    fn a_hook_after_the_start_holds_up_the_next_container() {
        let mut goal = Goal { init: vec![], ..goal() };
        goal.main[0].hook = true;
        let mut world = World::new(goal);
        world.apply(&Step::CreateSandbox);
        assert_eq!(world.text(), "start container web");
        world.apply(&Step::Start("web".into()));
        world.observed.containers.get_mut("web").unwrap().starting = true;
        assert_eq!(world.text(), "");
        world.observed.containers.get_mut("web").unwrap().starting = false;
        assert_eq!(world.text(), "start container log");
    }

    #[test]
    fn the_signal_follows_the_hook_before_the_end() {
        let mut world = World::new(Goal { init: vec![], ..goal() });
        world.settle();
        world.goal.deleting = true;
        world.settle();
        let web = world.observed.containers.get_mut("web").unwrap();
        web.hooked = true;
        assert_eq!(world.text(), "signal container web to end");
        world.settle();
        world.now += SignedDuration::from_secs(60);
        assert_eq!(world.text(), "kill container log; kill container web");
    }

    #[test]
    fn sidecars_end_last_and_in_reverse() {
        let mut goal = goal();
        let sidecar = |name: &str| Wanted {
            name: name.into(),
            restart: Restart::Always,
            rules: vec![],
            sidecar: true,
            hook: false,
        };
        goal.init = vec![sidecar("one"), sidecar("two")];
        let mut world = World::new(goal);
        world.settle();
        world.goal.deleting = true;
        assert_eq!(world.text(), "ask container log to end; ask container web to end");
        world.end("web", 0);
        world.end("log", 0);
        assert_eq!(world.text(), "ask container two to end");
        world.settle();
        assert_eq!(world.text(), "");
        world.end("two", 0);
        assert_eq!(world.text(), "ask container one to end");
        world.end("one", 0);
        assert_eq!(world.text(), "remove the pod");
    }

    #[test]
    fn a_stopped_pod_ends_for_good() {
        let mut world = World::new(Goal { init: vec![], stopping: true, ..goal() });
        assert_eq!(world.text(), "", "nothing is started any more");
        world.goal.stopping = false;
        world.settle();
        world.goal.stopping = true;
        assert_eq!(world.text(), "ask container log to end; ask container web to end");
        world.end("web", 0);
        world.end("log", 0);
        assert_eq!(world.text(), "remove the sandbox");
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_wait_is_bounded() {
        let seconds: Vec<i64> = [0, 1, 2, 3, 4, 10, 40, 400].map(|n| back_off(n).as_secs()).into();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 256, 300, 300]);
    }
}
