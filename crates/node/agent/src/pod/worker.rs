//! The task that keeps one pod as its specification wants it.
//!
//! It owns the pod's record. Whatever happens (a new specification, an exit, a probe's verdict, the time) only wakes it; then
//! it plans afresh from what is known.

mod manifest;
mod pull;
mod resize;
mod room;
mod tell;

pub use self::pull::Images;
use self::tell::{Report, Teller};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_network::Attachment;
use berth_shim::protocol::{Exit, Reply};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRuleOnExitCodes, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::apply::{Workshop, next_instance, stop_signal};
use super::ephemeral;
use super::hook::{self, Hooked, Moment};
use super::observe::{Observed, Phase, View, adopt, ended, falls_back};
use super::plan::{Goal, Restart, Rule, STEADY, Step, Wanted, back_off, is_finished, plan};
use crate::agent::Shared;
use crate::command::Target;
use crate::config::Cause;
use crate::directory::{Ended, Failed, PodDirectory, Record};
use crate::event::Severity;
use crate::probe::{self, Finding, Kind};
use crate::roster::Eviction;
use crate::settings::GRACE;
use crate::status::{chain, has_foreign, status};
use crate::usage::{Resident, Running};

/// What wakes a worker, besides a new specification and the time.
#[derive(Debug)]
enum Happening {
    Exited(String, Exit),
    Probed(Finding),
    Hooked(Hooked),
}

/// Annotation by which `berth stop` ends a pod without removing it.
const STOP: &str = "berth.dev/stop";
/// Longer times than this mean never; upstream's own bound.
const LONGEST: i64 = i32::MAX as i64;
/// How long the making of a running pod's volumes may take, and the first and longest pause before another attempt.
const REFRESH: std::time::Duration = std::time::Duration::from_secs(30);
const FIRST_REFRESH: SignedDuration = SignedDuration::from_secs(2);
const LAST_REFRESH: SignedDuration = SignedDuration::from_secs(120);
/// Pause after a step that failed for a reason outside the pod.
const RETRY: SignedDuration = SignedDuration::from_secs(1);
/// How long a container has at least between the end of its hook and being killed.
const LAST_WORDS: SignedDuration = SignedDuration::from_secs(2);

/// A pod's task.
pub struct Worker {
    workshop: Workshop,
    pod: watch::Receiver<Option<Arc<Pod>>>,
    last: Arc<Pod>,
    record: Record,
    observed: Observed,
    happenings: mpsc::Receiver<Happening>,
    sender: mpsc::Sender<Happening>,
    probes: HashMap<String, JoinHandle<()>>,
    /// Hooks that run, by container.
    hooks: HashMap<String, AbortOnDropHandle<()>>,
    listener: Option<JoinHandle<()>>,
    /// What was told last, and of which object.
    reported: (String, Value),
    /// Who tells it where the worker waits for no API: the status of a static pod.
    teller: Option<Teller>,
    retry: Option<Timestamp>,
    /// Tells that what volumes are made from has changed.
    wake: Arc<Notify>,
    /// Whether the files of volumes may differ from what they are made from.
    stale: bool,
    /// When that is tried again after it failed, and after which pause.
    refresh: Option<(Timestamp, SignedDuration)>,
    /// Orders to go for the good of others, and how to give one.
    evictions: mpsc::Receiver<Eviction>,
    evict: mpsc::Sender<Eviction>,
    /// How long containers may take to end, where the node says.
    hurried: Option<Timestamp>,
    /// The node has taken the pod in.
    admitted: bool,
    /// When a change of size that was not possible is tried again, and what tells that room may have become free.
    again: Option<Timestamp>,
    room: watch::Receiver<u64>,
}

impl Worker {
    /// The worker of a pod, taking over what an earlier agent left of it.
    pub async fn new(
        shared: Arc<Shared>,
        pod: watch::Receiver<Option<Arc<Pod>>>,
        last: Arc<Pod>,
        adopted: Option<Record>,
    ) -> Self {
        let directory = PodDirectory::of(&shared.settings.data, &last.uid().unwrap_or_default());
        let (sender, happenings) = mpsc::channel(64);
        let (evict, evictions) = mpsc::channel(1);
        // One that runs already is here, whatever the node is short of now.
        let admitted = adopted.is_some();
        let instance = shared.settings.instance.clone();
        let room = shared.roster.room();
        let mut record = adopted
            .unwrap_or_else(|| Record { failed: room::failed_before(&last), ..Record::new(&last) });
        keep_place(&mut record, &instance);
        let wake = shared.sources.wake_of(&last.uid().unwrap_or_default());
        let workshop = Workshop { shared, directory };
        let mut worker_listener = None;
        let mut state = None;
        if record.sandbox {
            // Subscribed before asking, so that no exit falls between the two.
            let shim = workshop.shim();
            let asked = tokio::task::spawn_blocking(move || {
                let events = shim.subscribe()?;
                Ok::<_, berth_shim::client::ShimError>((events, shim.state()?.0))
            });
            if let Ok(Ok((events, found))) = asked.await {
                worker_listener = listen(events, sender.clone());
                state = Some(found);
            }
        }
        // Nobody knows what has changed while no agent ran.
        let stale = record.sandbox;
        let observed = adopt(&mut record, &last, &workshop.directory, state.as_deref());
        let hurried = record.failed.as_ref().and_then(|failed| failed.by);
        let teller = record.manifest.is_some().then(|| {
            let client = workshop.shared.client.clone();
            Teller::new(Api::namespaced(client, &record.namespace), record.name.clone())
        });
        let mut worker = Self {
            workshop,
            pod,
            last,
            record,
            observed,
            happenings,
            sender,
            probes: HashMap::new(),
            hooks: HashMap::new(),
            listener: worker_listener,
            reported: (String::new(), Value::Null),
            teller,
            retry: None,
            wake,
            stale,
            refresh: None,
            evictions,
            evict,
            hurried,
            admitted,
            again: None,
            room,
        };
        worker.resume_probes();
        if worker.admitted {
            // Before any of them works, so that nobody is promised what another has.
            worker.promise();
            worker.join_roster().await;
        }
        worker
    }

    /// Works until the pod is gone from the node.
    pub async fn run(mut self) {
        let mut followed = true;
        if !self.is_static() {
            self.shared().roster.listed().await;
        }
        loop {
            self.take_pod();
            let wake = self.reconcile().await;
            if self.observed.removed {
                break;
            }
            self.refresh().await;
            self.take_census().await;
            self.report().await;
            let again = self.refresh.map(|(at, _)| at);
            let wake = wake.into_iter().chain(again).chain(self.again).chain(self.retry).min();
            let waits = self.observed.resize.pending.is_some();
            let sleep = async {
                match wake {
                    Some(at) => {
                        let left = at.duration_since(Timestamp::now());
                        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The agent lets go of a pod that left the API; what is left of it on the node is still ours to remove.
                changed = self.pod.changed(), if followed => followed = changed.is_ok(),
                Some(happening) = self.happenings.recv() => {
                    self.take_in(happening);
                    while let Ok(more) = self.happenings.try_recv() {
                        self.take_in(more);
                    }
                }
                () = self.wake.notified() => self.stale = true,
                Some(eviction) = self.evictions.recv() => self.evicted(eviction),
                Ok(()) = self.room.changed(), if waits => {}
                () = sleep => {}
            }
        }
        self.shared().sources.forget(&self.record.uid);
        self.shared().tokens.forget(&self.workshop.directory);
        self.shared().meter.drop_pod(&self.record.uid);
        self.leave_roster().await;
        for (_, probe) in self.probes.drain() {
            probe.abort();
        }
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
    }

    /// Takes in what the pod is to be now.
    fn take_pod(&mut self) {
        let Some(pod) = self.pod.borrow_and_update().clone() else { return };
        let pod = if self.is_static() { self.keep_manifest(pod) } else { pod };
        self.stale |=
            pod.labels() != self.last.labels() || pod.annotations() != self.last.annotations();
        self.last = pod;
    }

    /// Brings volumes up to date, if something may have changed and a container has them.
    async fn refresh(&mut self) {
        let now = Timestamp::now();
        let due = self.refresh.is_some_and(|(at, _)| at <= now);
        if !(std::mem::take(&mut self.stale) || due)
            || self.goal().deleting
            || !self.observed.containers.values().any(View::is_running)
        {
            return;
        }
        let facts = self.workshop.facts(&self.record);
        let (pod, directory) = (self.last.clone(), &self.workshop.directory);
        let refreshed = crate::volume::refresh(self.shared(), &pod, directory, &facts);
        let outcome = match tokio::time::timeout(REFRESH, refreshed).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Cause::create("the server does not answer in time".to_owned())),
        };
        let Err(cause) = outcome else {
            self.refresh = None;
            return;
        };
        let pause = self.refresh.map_or(FIRST_REFRESH, |(_, pause)| (pause * 2).min(LAST_REFRESH));
        if self.refresh.is_none() {
            let message = format!("a volume is not up to date: {cause}");
            self.event(Severity::Warning, "FailedMount", message);
        }
        self.refresh = Some((now + pause, pause));
    }

    /// Says what runs, to those who count.
    async fn take_census(&self) {
        let running = |(name, view): (&String, &View)| {
            let Phase::Running { since } = view.phase else { return None };
            let known = self.record.containers.get(name)?;
            Some(Running {
                name: name.clone(),
                instance: known.instance(name),
                image: known.image.as_ref().map(|(name, _)| name.clone()).unwrap_or_default(),
                since,
            })
        };
        let network = &self.shared().settings.network;
        let interface = self.record.address.map(|it| Attachment::of(network, it).interface);
        self.shared().meter.set(Resident {
            namespace: self.record.namespace.clone(),
            name: self.record.name.clone(),
            uid: self.record.uid.clone(),
            since: self.last.metadata.creation_timestamp.as_ref().map(|time| time.0),
            cgroup: self.workshop.pod_cgroup(&self.record),
            interface,
            containers: self.observed.containers.iter().filter_map(running).collect(),
        });
        self.join_roster().await;
    }

    fn shared(&self) -> &Shared {
        &self.workshop.shared
    }

    /// Plans and applies until nothing is left to do now. Returns when to look again.
    async fn reconcile(&mut self) -> Option<Timestamp> {
        loop {
            let now = Timestamp::now();
            if let Some(at) = self.retry
                && at > now
            {
                return Some(at);
            }
            self.retry = None;
            self.admit().await;
            self.again = self.resize().await;
            self.hurry();
            let goal = self.goal();
            let deadline = self.heed_deadline(&goal, now);
            let plan = plan(&goal, &self.record, &self.observed, now);
            if plan.steps.is_empty() {
                return plan.wake.into_iter().chain(deadline).min();
            }
            for step in plan.steps {
                debug!(pod = %self.record.name, namespace = %self.record.namespace, %step, "step");
                if let Err(cause) = self.apply(&step).await {
                    warn!(pod = %self.record.name, namespace = %self.record.namespace, %step, error = %cause, "step failed");
                    self.retry = Some(Timestamp::now() + RETRY);
                    let reason = if step == Step::CreateSandbox {
                        "FailedCreatePodSandBox"
                    } else {
                        "FailedSync"
                    };
                    self.event(Severity::Warning, reason, format!("cannot {step}: {cause}"));
                    break;
                }
            }
            if self.observed.removed {
                return None;
            }
            // Deletions must not wait behind a long list of starts.
            self.take_pod();
        }
    }

    fn goal(&self) -> Goal {
        let spec = self.last.spec.clone().unwrap_or_default();
        let stopping = self.last.annotations().contains_key(STOP);
        let gone = self.pod.borrow().is_none();
        let restart = match spec.restart_policy.as_deref() {
            _ if stopping => Restart::Never,
            policy => restart_of(policy),
        };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let own = match restart {
                _ if sidecar => Restart::Always,
                Restart::Always => Restart::OnFailure,
                other => other,
            };
            let hook = hook::of(container, Moment::Start).is_some();
            let rules = if stopping { vec![] } else { rules_of(container) };
            Wanted { name: container.name.clone(), restart: own, rules, sidecar, hook }
        });
        Goal {
            init: init.collect(),
            main: spec
                .containers
                .iter()
                .map(|container| Wanted {
                    name: container.name.clone(),
                    restart: match container.restart_policy.as_deref() {
                        Some(own) if !stopping => restart_of(Some(own)),
                        _ => restart,
                    },
                    rules: if stopping { vec![] } else { rules_of(container) },
                    sidecar: false,
                    hook: hook::of(container, Moment::Start).is_some(),
                })
                .collect(),
            ephemeral: spec
                .ephemeral_containers
                .iter()
                .flatten()
                .map(|container| Wanted {
                    name: container.name.clone(),
                    restart: Restart::Never,
                    rules: vec![],
                    sidecar: false,
                    hook: false,
                })
                .collect(),
            deleting: gone || self.last.metadata.deletion_timestamp.is_some(),
            stopping,
        }
    }

    fn container(&self, name: &str) -> Option<Container> {
        let spec = self.last.spec.as_ref()?;
        let mut lasting = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        if let Some(container) = lasting.find(|container| container.name == name) {
            let mut container = container.clone();
            if let Some(size) = self.record.sizes.get(name) {
                container.resources = Some(size.promised.clone());
            }
            return Some(container);
        }
        let mut ephemeral = spec.ephemeral_containers.iter().flatten();
        ephemeral.find(|container| container.name == name).map(ephemeral::as_container)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), Cause> {
        match step {
            Step::CreateSandbox => {
                let (pod, promised) = (self.last.clone(), self.promised());
                self.workshop.create_sandbox(&pod, &promised, &mut self.record).await?;
                let shim = self.workshop.shim();
                let events = tokio::task::spawn_blocking(move || shim.subscribe())
                    .await
                    .map_err(|error| Cause::create(error.to_string()))?
                    .map_err(|error| Cause::create(chain(&error)))?;
                self.listener = listen(events, self.sender.clone());
                self.observed.sandbox = true;
                Ok(())
            }
            Step::Start(name) => {
                self.start(name).await;
                Ok(())
            }
            Step::Terminate(name) => self.terminate(name).await,
            Step::Signal(name) => self.ask_to_end(name).await,
            Step::Kill(name) => {
                let instance = self.instance(name);
                self.workshop.signal(&instance, 9).await?;
                // Asked for once; the exit ends the wait.
                if let Some(view) = self.observed.containers.get_mut(name) {
                    view.ending = Some(Timestamp::now() + SignedDuration::from_secs(5));
                }
                Ok(())
            }
            Step::RemoveSandbox => {
                // Who waits for the end of its containers does not wait for what is cleared away after them.
                if !self.goal().deleting {
                    // Whoever is bound here in its place finds the room free.
                    self.join_roster().await;
                    self.report().await;
                }
                self.workshop.remove_sandbox(&mut self.record).await?;
                self.observed.sandbox = false;
                Ok(())
            }
            Step::Remove => self.remove().await,
        }
    }

    fn instance(&self, name: &str) -> String {
        self.record.containers.get(name).cloned().unwrap_or_default().instance(name)
    }

    /// Gives a pod up that has been active for longer than it may. Returns when that will be.
    fn heed_deadline(&mut self, goal: &Goal, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.last.spec.as_ref()?.active_deadline_seconds?;
        let since = self.last.status.as_ref().and_then(|status| status.start_time.as_ref())?.0;
        if goal.deleting || is_finished(goal, &self.record, &self.observed) {
            return None;
        }
        let at = since + SignedDuration::from_secs(seconds.min(LONGEST));
        if at > now {
            return Some(at);
        }
        let (reason, message) =
            ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
        self.event(Severity::Normal, reason, message.to_owned());
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.fail(Failed { reason, message, disrupted: false, by: None });
        None
    }

    /// How long a container may take to end from now on.
    fn grace(&self, name: &str) -> SignedDuration {
        if self.pod.borrow().is_none() {
            return SignedDuration::ZERO;
        }
        let own = self.own_grace(name);
        let left = self.hurried.map(|by| by.duration_since(Timestamp::now()));
        left.map_or(own, |left| left.max(SignedDuration::ZERO).min(own))
    }

    /// The same by what the pod and those say who delete it.
    fn own_grace(&self, name: &str) -> SignedDuration {
        let metadata = &self.last.metadata;
        if let Some(at) = &metadata.deletion_timestamp {
            let whole = metadata.deletion_grace_period_seconds.unwrap_or(GRACE);
            let left = at.0.duration_since(Timestamp::now());
            // A sidecar, which ends last, has a little time left in any case.
            let least = if whole == 0 { SignedDuration::ZERO } else { LAST_WORDS };
            return left.clamp(least, SignedDuration::from_secs(whole).max(least));
        }
        let view = self.observed.containers.get(name);
        let spec = self.last.spec.as_ref();
        let seconds = view
            .and_then(|view| view.grace)
            .or(spec.and_then(|spec| spec.termination_grace_period_seconds));
        SignedDuration::from_secs(seconds.unwrap_or(GRACE).min(LONGEST))
    }

    /// Begins a container's end: with its hook, else with the signal.
    async fn terminate(&mut self, name: &str) -> Result<(), Cause> {
        let grace = self.grace(name);
        self.event(Severity::Normal, "Killing", format!("Stopping container {name}"));
        self.hooks.remove(name);
        let deadline = Timestamp::now() + grace;
        let container = self.container(name).filter(|_| grace > SignedDuration::ZERO);
        let hooked = container.filter(|container| hook::of(container, Moment::Stop).is_some());
        let Some(container) = hooked else { return self.signal_until(name, deadline).await };
        // The hook ends by itself when the time is up, and the signal follows.
        if let Some(view) = self.observed.containers.get_mut(name) {
            view.starting = false;
            view.ending = Some(deadline + LAST_WORDS);
        }
        self.begin_hook(&container, Moment::Stop, grace.try_into().ok());
        Ok(())
    }

    /// After the hook: the signal, and what is left of the time.
    async fn ask_to_end(&mut self, name: &str) -> Result<(), Cause> {
        let known = self.observed.containers.get(name).and_then(|view| view.ending);
        let least = Timestamp::now() + LAST_WORDS;
        let deadline = known.map_or(least, |known| (known - LAST_WORDS).max(least));
        self.signal_until(name, deadline).await
    }

    async fn signal_until(&mut self, name: &str, deadline: Timestamp) -> Result<(), Cause> {
        // Of a pod that was deleted while no agent ran nothing is known but its record.
        let container = self.container(name).filter(|_| deadline > Timestamp::now());
        let signal = container.map_or(9, |container| {
            let image = container.image.as_deref().unwrap_or_default();
            stop_signal(&container, self.shared().images.store().resolve(image).ok().as_ref())
        });
        self.workshop.signal(&self.instance(name), signal).await?;
        if let Some(view) = self.observed.containers.get_mut(name) {
            view.hooked = false;
            view.ending = Some(deadline);
        }
        Ok(())
    }

    /// A deletion that is more urgent than what is under way.
    fn hurry(&mut self) {
        let deleted = self.last.metadata.deletion_timestamp.is_some();
        if !deleted && self.hurried.is_none() && self.pod.borrow().is_some() {
            return;
        }
        let names: Vec<String> = self.observed.containers.keys().cloned().collect();
        for name in names {
            // A little more than what the hook's own clock allows, so that the signal comes first.
            let grace = self.grace(&name);
            let slack =
                if grace == SignedDuration::ZERO { SignedDuration::ZERO } else { LAST_WORDS };
            let at = Timestamp::now() + grace + slack;
            let Some(view) = self.observed.containers.get_mut(&name) else { continue };
            view.ending = view.ending.map(|known| known.min(at));
        }
    }

    /// Runs a container's hook beside everything else.
    fn begin_hook(&mut self, container: &Container, moment: Moment, limit: Option<Duration>) {
        let name = container.name.clone();
        let Some(handler) = hook::of(container, moment).cloned() else { return };
        let instance = self.instance(&name);
        let target = self.target(&name);
        let (sender, container) = (self.sender.clone(), container.clone());
        let work = async move {
            let run = async {
                match target {
                    Some(target) => hook::run(&container, &target, &handler).await,
                    None => Err("the container's configuration is gone".to_owned()),
                }
            };
            let outcome = match limit {
                Some(limit) => tokio::time::timeout(limit, run)
                    .await
                    .unwrap_or_else(|_| Err(format!("not done within {} s", limit.as_secs()))),
                None => run.await,
            };
            // A worker that has gone needs no word.
            let _gone = sender.send(Happening::Hooked(Hooked { instance, moment, outcome })).await;
        };
        self.hooks.insert(name, AbortOnDropHandle::new(tokio::spawn(work)));
    }

    fn hooked(&mut self, hooked: Hooked) {
        let Some((name, _)) = hooked.instance.rsplit_once('.') else { return };
        if self.instance(name) != hooked.instance {
            return;
        }
        self.hooks.remove(name);
        let failed = hooked.outcome.err();
        if let Some(why) = &failed {
            let (moment, reason) = (hooked.moment, format!("Failed{}Hook", hooked.moment));
            self.event(Severity::Warning, &reason, format!("{moment}Hook failed: {why}"));
        }
        let Some(view) = self.observed.containers.get_mut(name).filter(|view| view.is_running())
        else {
            return;
        };
        match hooked.moment {
            Moment::Stop => view.hooked = true,
            Moment::Start => {
                view.starting = false;
                view.unhealthy |= failed.is_some();
                let container = self.container(name).filter(|_| failed.is_none());
                if let (Some(container), Some(target)) = (container, self.target(name)) {
                    self.watch(&container, target);
                }
            }
        }
    }

    /// What is needed to reach a container that runs.
    fn target(&self, name: &str) -> Option<Target> {
        let instance = self.instance(name);
        let kept = crate::access::Remembered::read(&self.workshop.directory, &instance)?;
        Some(Target {
            shim: self.workshop.shim(),
            instance,
            spec: kept.spec,
            user: kept.user,
            filter: kept.filter,
            address: self.workshop.facts(&self.record).address,
        })
    }

    /// Starts a container, or says why not and when it is tried again.
    async fn start(&mut self, name: &str) {
        let Some(container) = self.container(name) else { return };
        let view = self.observed.containers.entry(name.to_owned()).or_insert_with(View::new);
        view.not_before = None;
        let Some(images) = self.images_of(&container).await else { return };
        let ended = self
            .record
            .containers
            .get(name)
            .filter(|known| known.starts > 0)
            .map(|known| known.instance(name));
        if let Some(instance) = ended
            && let Err(cause) = self.workshop.clean_instance(&self.record, &instance).await
        {
            warn!(pod = %self.record.name, %instance, error = %cause, "an ended container was not cleaned up");
        }
        next_instance(&mut self.record, name);
        self.forget_oldest(name);
        if let Err(cause) = self.workshop.save(&self.record) {
            self.not_started(name, &cause);
            return;
        }
        let pod = self.last.clone();
        if let Some(known) = self.record.containers.get_mut(name) {
            let image = container.image.clone().unwrap_or_default();
            known.image = Some((image, images.own.digest.to_string()));
        }
        match self.workshop.start(&pod, &container, images, &self.record).await {
            Ok(target) => {
                info!(pod = %self.record.name, namespace = %self.record.namespace, container = name, "started container");
                let view =
                    self.observed.containers.entry(name.to_owned()).or_insert_with(View::new);
                *view = View::new();
                view.phase = Phase::Running { since: Timestamp::now() };
                view.starting = hook::of(&container, Moment::Start).is_some();
                if view.starting {
                    self.begin_hook(&container, Moment::Start, None);
                } else {
                    self.watch(&container, target);
                }
                self.event(Severity::Normal, "Created", format!("Created container: {name}"));
                self.event(Severity::Normal, "Started", format!("Started container {name}"));
            }
            Err(cause) => self.not_started(name, &cause),
        }
        if let Err(cause) = self.workshop.save(&self.record) {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
    }

    fn not_started(&mut self, name: &str, cause: &Cause) {
        self.event(Severity::Warning, "Failed", format!("Error: {}", cause.message));
        let now = Timestamp::now();
        let instance = self.instance(name);
        let known = self.record.containers.entry(name.to_owned()).or_default();
        known.failures += 1;
        let wait = back_off(known.failures + 1);
        let view = self.observed.containers.entry(name.to_owned()).or_insert_with(View::new);
        view.not_before = Some(now + wait);
        if let Some(code) = cause.exit_code {
            // A command that cannot be run counts as a container that ran and failed.
            known.ended = Some(Ended {
                instance,
                code,
                signal: None,
                reason: "StartError".to_owned(),
                message: Some(cause.message.clone()),
                started: known.started,
                finished: now,
            });
            view.phase = Phase::Ended;
            if !self.will_restart(name)
                && let Some(view) = self.observed.containers.get_mut(name)
            {
                view.not_before = None;
            }
        } else {
            if known.ended.is_none() && known.starts > 0 && cause.reason == "CreateContainerError" {
                known.starts -= 1;
            }
            // What has failed before is known to wait rather than to fail.
            let (reason, message) = match cause.reason {
                "ErrImagePull" if known.failures > 1 => {
                    ("ImagePullBackOff", format!("Back-off pulling image: {}", cause.message))
                }
                reason => (reason, cause.message.clone()),
            };
            view.phase = Phase::Waiting { reason: reason.to_owned(), message };
        }
    }

    /// Probes and readiness of a container that runs.
    fn watch(&mut self, container: &Container, target: Target) {
        let name = container.name.clone();
        if let Some(view) = self.observed.containers.get_mut(&name) {
            view.started = container.startup_probe.is_none();
            view.ready = view.started && container.readiness_probe.is_none();
        }
        if let Some(old) = self.probes.remove(&name) {
            old.abort();
        }
        let any = container.startup_probe.is_some()
            || container.readiness_probe.is_some()
            || container.liveness_probe.is_some();
        if !any {
            return;
        }
        let (findings, mut received) = mpsc::channel(8);
        let sender = self.sender.clone();
        let container = container.clone();
        self.probes.insert(
            name,
            tokio::spawn(async move {
                let forward = async {
                    while let Some(finding) = received.recv().await {
                        if sender.send(Happening::Probed(finding)).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::join!(probe::watch(container, target, findings), forward);
            }),
        );
    }

    /// Containers found running are probed again from the beginning, but a ready one stays ready until a probe fails.
    fn resume_probes(&mut self) {
        let running: Vec<String> = self
            .observed
            .containers
            .iter()
            .filter(|(_, view)| view.is_running())
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            let Some(container) = self.container(&name) else { continue };
            let Some(target) = self.target(&name) else {
                warn!(pod = %self.record.name, container = %name, "the container's configuration is gone, it is not probed");
                continue;
            };
            self.watch(&container, target);
            let was = self.last.status.as_ref().and_then(|status| {
                status.container_statuses.as_ref()?.iter().find(|status| status.name == name)
            });
            if let (Some(was), Some(view)) = (was, self.observed.containers.get_mut(&name)) {
                view.started |= was.started.unwrap_or(false);
                view.ready |= was.ready;
            }
        }
    }

    fn take_in(&mut self, happening: Happening) {
        match happening {
            Happening::Exited(instance, exit) => self.exited(&instance, exit),
            Happening::Probed(finding) => self.probed(&finding),
            Happening::Hooked(hooked) => self.hooked(hooked),
        }
    }

    fn exited(&mut self, instance: &str, exit: Exit) {
        let Some((name, _)) = instance.rsplit_once('.') else { return };
        if self.instance(name) != instance {
            return;
        }
        if let Some(probe) = self.probes.remove(name) {
            probe.abort();
        }
        self.hooks.remove(name);
        // One that a probe or a hook gave up on has failed like any other.
        let view = self.observed.containers.get(name);
        let asked = view.is_some_and(|view| view.ending.is_some() && !view.unhealthy);
        // Its end was only the beginning of another size, whatever its restart policy says.
        let resized = view.is_some_and(|view| view.resizing) && self.observed.failed.is_none();
        let Some(known) = self.record.containers.get_mut(name) else { return };
        let fallback = falls_back(&self.last, name);
        let end = ended(instance, known.started, exit, &self.workshop.directory, fallback);
        info!(pod = %self.record.name, namespace = %self.record.namespace, container = name, code = exit.code, reason = %end.reason, "container ended");
        let lasted = known
            .started
            .map_or(SignedDuration::ZERO, |started| end.finished.duration_since(started));
        known.failures = match lasted >= STEADY {
            _ if resized => known.failures,
            true => 1,
            false => known.failures + 1,
        };
        let wait = if asked { SignedDuration::ZERO } else { back_off(known.failures) };
        let at = end.finished + wait;
        known.ended = Some(end);
        let waits = wait > SignedDuration::ZERO && self.will_restart(name);
        let view = self.observed.containers.entry(name.to_owned()).or_insert_with(View::new);
        *view = View::new();
        view.phase = Phase::Ended;
        if resized {
            let (reason, message) = ("ContainerCreating".to_owned(), String::new());
            view.phase = Phase::Waiting { reason, message };
        }
        view.not_before = waits.then_some(at);
        if waits {
            self.event(
                Severity::Warning,
                "BackOff",
                format!("Back-off restarting failed container {name}"),
            );
        }
        if let Err(cause) = self.workshop.save(&self.record) {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
    }

    fn will_restart(&self, name: &str) -> bool {
        let goal = self.goal();
        let wanted = goal.main.iter().chain(&goal.init).find(|wanted| wanted.name == name);
        let code =
            self.record.containers.get(name).and_then(|known| Some(known.ended.as_ref()?.code));
        wanted.is_some_and(|wanted| wanted.is_restarted_after(code))
    }

    fn probed(&mut self, finding: &Finding) {
        let Some((name, _)) = finding.instance.rsplit_once('.') else { return };
        if self.instance(name) != finding.instance {
            return;
        }
        if !finding.answer.is_empty() {
            let message = format!("{} probe failed: {}", finding.kind, finding.answer);
            self.event(Severity::Warning, "Unhealthy", message);
        }
        let container = self.container(name);
        let container = container.as_ref();
        let readiness = container.is_some_and(|container| container.readiness_probe.is_some());
        let grace = container.and_then(|container| match finding.kind {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => None,
        });
        let grace = grace.and_then(|probe| probe.termination_grace_period_seconds);
        let Some(view) = self.observed.containers.get_mut(name) else { return };
        match (finding.kind, finding.verdict) {
            (_, None) | (Kind::Liveness, Some(true)) => {}
            (Kind::Startup, Some(true)) => {
                view.started = true;
                view.ready |= !readiness;
            }
            (Kind::Readiness, Some(ready)) => view.ready = ready,
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                view.unhealthy = true;
                view.grace = grace;
            }
        }
    }

    /// Removes the pod from the node, then from the API, if it is still the same one there.
    async fn remove(&mut self) -> Result<(), Cause> {
        self.report().await;
        self.workshop.remove(&mut self.record).await?;
        // Before the API says so: whoever is bound here in its place finds the room free.
        self.leave_roster().await;
        if self.pod.borrow().is_some() && !self.is_static() {
            let api: Api<Pod> =
                Api::namespaced(self.shared().client.clone(), &self.record.namespace);
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(self.record.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(&self.record.name, &parameters).await {
                Ok(_) => {}
                // Somebody was faster, or a new pod has the name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(Cause::create(chain(&error))),
            }
        }
        self.observed.removed = true;
        Ok(())
    }

    /// Patches the status where it differs from what was reported last. That of a static pod is told beside its worker.
    async fn report(&mut self) {
        self.release_devices().await;
        if self.pod.borrow().is_none() {
            return;
        }
        let goal = self.goal();
        let address = self.shared().settings.address.to_string();
        let status = status(&self.last, &goal, &self.record, &self.observed, &address);
        self.keep_status(&status);
        let Some(uid) = self.shown_as() else { return };
        if (&uid, &status) == (&self.reported.0, &self.reported.1) {
            return;
        }
        let mut body = json!({ "metadata": { "uid": uid }, "status": self.as_patch(&status) });
        // A list is replaced as a whole: what others wrote meanwhile must not be lost.
        if has_foreign(&self.last) {
            body["metadata"]["resourceVersion"] = json!(self.last.metadata.resource_version);
        }
        if let Some(teller) = &self.teller {
            teller.tell(Report { uid, status, body });
            // Who shuts the machine down waits for the end of its pods, and for that to be told, if it can be.
            if is_finished(&goal, &self.record, &self.observed) && !teller.is_answered().await {
                debug!(pod = %self.record.name, "the end of a static pod is not told yet");
            }
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.shared().client.clone(), &self.record.namespace);
        match api
            .patch_status(&self.record.name, &PatchParams::default(), &Patch::Merge(&body))
            .await
        {
            Ok(_) => self.reported = (uid, status),
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                debug!(pod = %self.record.name, code = answer.code, "status not taken");
            }
            Err(error) => {
                warn!(pod = %self.record.name, error = %chain(&error), "status not reported");
                let soon = Timestamp::now() + RETRY;
                self.retry = Some(self.retry.map_or(soon, |known| known.min(soon)));
            }
        }
    }

    fn event(&self, severity: Severity, reason: &str, message: String) {
        self.shared().events.post(&self.last, severity, reason, message);
    }
}

/// The cgroup of a pod that an earlier agent began, and did not name, is where that put all: what is left there, and be it after
/// its shim was killed, must be found.
fn keep_place(record: &mut Record, instance: &str) {
    let begun = record.sandbox || record.containers.values().any(|known| known.starts > 0);
    if record.cgroup.is_none() && begun {
        record.cgroup = Some(record.cgroup(instance));
    }
}

/// The rules of a container that start it again; others are refused.
fn rules_of(container: &Container) -> Vec<Rule> {
    let rules = container.restart_policy_rules.iter().flatten();
    let codes = rules.filter_map(|rule| rule.exit_codes.as_ref());
    let rule = |codes: &ContainerRestartRuleOnExitCodes| Rule {
        codes: codes.values.clone().unwrap_or_default(),
        inverted: codes.operator == "NotIn",
    };
    codes.map(rule).collect()
}

fn restart_of(policy: Option<&str>) -> Restart {
    match policy {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    }
}

/// Forwards a shim's news. The task ends with the shim.
fn listen(
    events: berth_shim::client::Events,
    sender: mpsc::Sender<Happening>,
) -> Option<JoinHandle<()>> {
    let stream = events.into_stream();
    let stream = stream
        .set_read_timeout(None)
        .and_then(|()| stream.set_nonblocking(true))
        .and_then(|()| tokio::net::UnixStream::from_std(stream));
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            warn!(%error, "a shim cannot be listened to");
            return None;
        }
    };
    Some(tokio::spawn(async move {
        let mut header = [0_u8; 4];
        while stream.read_exact(&mut header).await.is_ok() {
            let mut body = vec![0; u32::from_le_bytes(header) as usize];
            if stream.read_exact(&mut body).await.is_err() {
                return;
            }
            if let Ok(Reply::Exited { container, exit }) = serde_json::from_slice(&body)
                && sender.send(Happening::Exited(container, exit)).await.is_err()
            {
                return;
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn what_an_earlier_agent_began_is_found_where_that_put_it() {
        let text = r#"{"namespace": "a", "name": "b", "uid": "1", "address": null, "user": null, "sandbox": false,
            "containers": {}}"#;
        let new: Record = serde_json::from_str(text).unwrap();
        let mut record = new.clone();
        keep_place(&mut record, "berth");
        assert_eq!(record.cgroup, None, "nothing was begun");
        record.sandbox = true;
        keep_place(&mut record, "berth");
        assert_eq!(record.cgroup, Some(PathBuf::from("berth/pod1")));
        record.cgroup = Some(PathBuf::from("berth/burstable/pod1"));
        keep_place(&mut record, "berth");
        assert_eq!(record.cgroup, Some(PathBuf::from("berth/burstable/pod1")));
    }
}
