//! Mirrors: what the API shows of static pods, and nothing more.
//!
//! The node makes and removes them; what is done to one does nothing to the pod it shows. One task looks after all, so that
//! an API that does not answer holds up no pod.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::plan::{Key, key};
use crate::agent::Shared;
use crate::event::Severity;
use crate::status::chain;

/// Pauses between attempts that fail.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// A static pod that is to have a mirror.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The pod.
    pub pod: Pod,
    /// It is on its way out: it keeps its mirror, and gets no new one.
    pub ending: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Mirrors that the API has for this node.
    known: HashMap<Key, Pod>,
    /// Static pods by UID.
    shown: HashMap<String, Shown>,
}

/// What the API has, and what it is to have.
#[derive(Debug, Default)]
pub struct Mirrors {
    state: Mutex<State>,
    /// Something has changed for whoever looks after the mirrors, and for whoever looks after the pods.
    changed: Notify,
    seen: Notify,
}

/// What is to be done about one mirror.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// For the static pod of this UID.
    Create(Key, String),
    /// The one of this UID.
    Delete(Key, String),
}

/// Whether a pod of the API only shows one that its node runs of its own.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.annotations().contains_key(berth_rules::MIRROR)
}

/// The UID of the static pod that a mirror shows.
fn original(mirror: &Pod) -> &str {
    mirror.annotations().get(berth_rules::MIRROR).map_or("", String::as_str)
}

fn steps(state: &State) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, mirror) in &state.known {
        let shown = state.shown.get(original(mirror));
        let good = shown.is_some_and(|shown| super::plan::key(&shown.pod) == *key)
            && mirror.metadata.deletion_timestamp.is_none();
        if !good {
            steps.push(Step::Delete(key.clone(), mirror.uid().unwrap_or_default()));
        }
    }
    for (uid, shown) in state.shown.iter().filter(|(_, shown)| !shown.ending) {
        let key = key(&shown.pod);
        if !state.known.contains_key(&key) {
            steps.push(Step::Create(key, uid.clone()));
        }
    }
    steps
}

/// The static pods that people reach by the name of their mirror.
fn reached(state: &State) -> BTreeMap<Key, String> {
    let known = state.known.iter().filter(|(key, mirror)| {
        let shown = state.shown.get(original(mirror));
        shown.is_some_and(|shown| super::plan::key(&shown.pod) == **key)
    });
    known.map(|(key, mirror)| (key.clone(), original(mirror).to_owned())).collect()
}

impl Mirrors {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changed.notify_one();
        self.seen.notify_one();
    }

    /// Waits until the API has changed something about a mirror.
    pub async fn seen(&self) {
        self.seen.notified().await;
    }

    /// The API has a mirror.
    pub fn put(&self, mirror: Pod) {
        self.lock().known.insert(key(&mirror), mirror);
        self.changed();
    }

    /// The API no longer has the mirror of this UID.
    pub fn remove(&self, uid: &str) {
        self.keep(|mirror| mirror.uid().as_deref() != Some(uid));
    }

    /// The API has no others than these.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.keep(|mirror| mirror.uid().is_some_and(|uid| uids.contains(&uid)));
    }

    fn keep(&self, stays: impl Fn(&Pod) -> bool) {
        let mut state = self.lock();
        let before = state.known.len();
        state.known.retain(|_, mirror| stays(mirror));
        let fewer = state.known.len() < before;
        drop(state);
        if fewer {
            self.changed();
        }
    }

    /// Says which static pods there are.
    pub fn show(&self, shown: HashMap<String, Shown>) {
        self.lock().shown = shown;
        self.changed.notify_one();
    }

    /// How many static pods are to be shown.
    pub fn count(&self) -> usize {
        self.lock().shown.values().filter(|shown| !shown.ending).count()
    }

    /// Whether a pod of this UID is static and stays, whatever the API shows of it; nothing if there is no static one.
    pub fn stays(&self, uid: &str) -> Option<bool> {
        self.lock().shown.get(uid).map(|shown| !shown.ending)
    }

    /// The mirror of a static pod.
    pub fn of(&self, pod: &Pod) -> Option<Pod> {
        let state = self.lock();
        let mirror = state.known.get(&key(pod))?;
        (pod.metadata.uid.as_deref() == Some(original(mirror))).then(|| mirror.clone())
    }
}

/// Attempts that failed.
#[derive(Debug, Clone)]
struct Failed {
    why: String,
    pause: Duration,
    next: Instant,
}

/// Looks after the mirrors until told to stop.
pub async fn run(shared: &Shared, stop: CancellationToken) {
    let mut failed: HashMap<Key, Failed> = HashMap::new();
    let mut before = BTreeMap::new();
    tokio::select! {
        () = shared.roster.listed() => {}
        () = stop.cancelled() => return,
    }
    loop {
        let (steps, now) = {
            let state = shared.mirrors.lock();
            (steps(&state), reached(&state))
        };
        reach(shared, &before, &now);
        before = now;
        failed.retain(|key, _| steps.iter().any(|step| step.key() == key));
        for step in steps {
            let known = failed.get(step.key()).cloned();
            if known.as_ref().is_some_and(|known| known.next > Instant::now()) {
                continue;
            }
            // Done, it is looked at again when the watch has brought it, or after a pause.
            let why = take(shared, &step).await.err().unwrap_or_default();
            if !why.is_empty() && known.as_ref().is_none_or(|known| known.why != why) {
                say(shared, &step, &why);
            }
            let pause = known.map_or(FIRST, |known| (known.pause * 2).min(LAST));
            let next = Instant::now() + pause;
            failed.insert(step.key().clone(), Failed { why, pause, next });
        }
        let next = failed.values().map(|failed| failed.next).min();
        let sleep = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.mirrors.changed.notified() => {}
            () = sleep => {}
        }
    }
}

impl Step {
    fn key(&self) -> &Key {
        match self {
            Self::Create(key, _) | Self::Delete(key, _) => key,
        }
    }
}

/// Has requests about mirrors find the pods they show.
fn reach(shared: &Shared, before: &BTreeMap<Key, String>, now: &BTreeMap<Key, String>) {
    if before == now {
        return;
    }
    let mut pods = shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
    for (key, uid) in before {
        // The name may be that of another pod by now.
        if !now.contains_key(key) && pods.get(key) == Some(uid) {
            pods.remove(key);
        }
    }
    pods.extend(now.iter().map(|(key, uid)| (key.clone(), uid.clone())));
}

fn say(shared: &Shared, step: &Step, why: &str) {
    let (space, name) = step.key();
    let message = match step {
        Step::Create(..) => {
            format!("static pod `{space}/{name}` runs, and the API cannot show it: {why}")
        }
        Step::Delete(..) => {
            format!("mirror `{space}/{name}` of a static pod cannot be removed: {why}")
        }
    };
    warn!("{message}");
    shared.events.post_node(Severity::Warning, "FailedMirrorPod", message);
}

async fn take(shared: &Shared, step: &Step) -> Result<(), String> {
    match step {
        Step::Create(_, uid) => {
            let shown = shared.mirrors.lock().shown.get(uid).map(|shown| shown.pod.clone());
            let Some(pod) = shown else { return Ok(()) };
            create(shared, pod).await
        }
        Step::Delete((space, name), uid) => {
            let api: Api<Pod> = Api::namespaced(shared.client.clone(), space);
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(name, &parameters).await {
                Ok(_) => Ok(()),
                // Gone, or another has the name: the watch tells.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                Err(error) => Err(chain(&error)),
            }
        }
    }
}

async fn create(shared: &Shared, pod: Pod) -> Result<(), String> {
    let node = &shared.settings.node;
    let own = Api::<Node>::all(shared.client.clone()).get(node).await;
    let own = own.map_err(|error| format!("cannot read the node: {}", chain(&error)))?;
    let (space, name) = key(&pod);
    let mirror = mirror(pod, &own);
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &space);
    match api.create(&PostParams::default(), &mirror).await {
        Ok(_) => {
            info!(pod = %name, namespace = %space, "the API shows a static pod");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err("another pod has the name: delete that, or rename this one".to_owned())
        }
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => Err(chain(&error)),
    }
}

/// What the API is to have.
fn mirror(pod: Pod, node: &Node) -> Pod {
    let mut mirror = Pod { status: None, ..pod };
    let uid = mirror.metadata.uid.take().unwrap_or_default();
    mirror.metadata.generation = None;
    mirror.metadata.creation_timestamp = None;
    mirror.annotations_mut().insert(berth_rules::MIRROR.to_owned(), uid);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str) -> Pod {
        let metadata = json!({"namespace": "default", "name": name, "uid": uid, "generation": 1});
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": "Running"}}))
            .unwrap()
    }

    fn mirror_of(pod: &Pod, uid: &str) -> Pod {
        let mut made = mirror(pod.clone(), &Node::default());
        made.metadata.uid = Some(uid.to_owned());
        made
    }

    fn said(mirrors: &Mirrors) -> String {
        let mut said: Vec<String> = steps(&mirrors.lock())
            .iter()
            .map(|step| match step {
                Step::Create((_, name), uid) => format!("+{name}:{uid}"),
                Step::Delete((_, name), uid) => format!("-{name}:{uid}"),
            })
            .collect();
        said.sort();
        said.join(" ")
    }

    fn show(mirrors: &Mirrors, pods: &[(&Pod, bool)]) {
        let shown = pods.iter().map(|(pod, ending)| {
            (pod.uid().unwrap(), Shown { pod: (*pod).clone(), ending: *ending })
        });
        mirrors.show(shown.collect());
    }

    #[test]
    fn every_static_pod_has_one_mirror_and_nothing_else_has() {
        let (mirrors, web) = (Mirrors::default(), pod("web", "s1"));
        show(&mirrors, &[(&web, false)]);
        assert_eq!(said(&mirrors), "+web:s1");
        assert_eq!((mirrors.stays("s1"), mirrors.stays("m1")), (Some(true), None));
        let mut shown = mirror_of(&web, "m1");
        assert_eq!((shown.status.clone(), shown.metadata.generation), (None, None));
        mirrors.put(shown.clone());
        assert_eq!(said(&mirrors), "");
        assert_eq!(reached(&mirrors.lock()).values().collect::<Vec<_>>(), ["s1"]);
        assert_eq!(mirrors.of(&web).and_then(|it| it.uid()).as_deref(), Some("m1"));
        // Somebody deletes it: it goes, and comes back.
        shown.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()));
        mirrors.put(shown);
        assert_eq!(said(&mirrors), "-web:m1");
        mirrors.remove("other");
        assert_eq!(said(&mirrors), "-web:m1");
        mirrors.remove("m1");
        assert_eq!(said(&mirrors), "+web:s1");
        // The file has changed: the old pod keeps its mirror until it has gone.
        mirrors.put(mirror_of(&web, "m2"));
        show(&mirrors, &[(&web, true)]);
        assert_eq!(said(&mirrors), "");
        show(&mirrors, &[(&pod("web", "s2"), false)]);
        assert_eq!(said(&mirrors), "-web:m2");
        assert!(reached(&mirrors.lock()).is_empty());
        mirrors.retain(&HashSet::new());
        assert_eq!(said(&mirrors), "+web:s2");
        show(&mirrors, &[(&pod("web", "s2"), true)]);
        assert_eq!(said(&mirrors), "", "what ends is shown no more");
        assert_eq!(mirrors.stays("s2"), Some(false), "what it has will be free");
    }

    #[test]
    fn a_pod_that_says_it_is_a_mirror_is_none() {
        let (mirrors, web) = (Mirrors::default(), pod("web", "s1"));
        show(&mirrors, &[(&web, false)]);
        let claims = mirror_of(&pod("other", "s1"), "m1");
        mirrors.put(claims);
        assert_eq!(said(&mirrors), "+web:s1 -other:m1");
        assert!(reached(&mirrors.lock()).is_empty() && mirrors.of(&web).is_none());
    }
}
