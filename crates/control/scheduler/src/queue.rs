//! The one task: news in, decisions out.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use berth_client::{Key, Level, Recorder, demand};
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::observe::{Cluster, NodeFacts, Pending, PodFacts, is_finished, usage, volumes};
use crate::plan::{Step, plan};
use crate::{Mirrors, SchedulerError, apply, drain, next_of};

/// Something became different.
pub enum Wake {
    Pod(Arc<Pod>),
    PodGone(Key),
    Node(Arc<Node>),
    NodeGone(String),
    Volumes,
}

/// What came of work under way.
enum Done {
    /// The server has taken or refused a binding.
    Bound { pod: Key, uid: String, node: String, outcome: Result<(), kube::Error> },
    /// A condition was written, or not.
    Refused { pod: Key, outcome: Result<(), kube::Error> },
    /// The pause after an error is over.
    Again(Key),
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

pub struct Scheduler {
    client: Client,
    mirrors: Mirrors,
    recorder: Recorder,
    cluster: Cluster,
    /// To be looked at now.
    pending: BTreeMap<Key, PodFacts>,
    /// Fit nowhere until something changes.
    waiting: BTreeMap<Key, PodFacts>,
    /// Under way to their node.
    binding: HashMap<Key, String>,
    failures: HashMap<Key, u32>,
    work: FuturesUnordered<Work>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Scheduler {
    pub fn new(client: Client, mirrors: Mirrors, recorder: Recorder) -> Self {
        Self {
            client,
            mirrors,
            recorder,
            cluster: Cluster::default(),
            pending: BTreeMap::new(),
            waiting: BTreeMap::new(),
            binding: HashMap::new(),
            failures: HashMap::new(),
            work: FuturesUnordered::new(),
        }
    }

    pub async fn run(
        mut self,
        mut news: UnboundedReceiver<Wake>,
        stop: &CancellationToken,
    ) -> Result<(), SchedulerError> {
        let mirrors = self.mirrors.clone();
        let synced = async {
            futures::join!(
                mirrors.pods.synced(),
                mirrors.nodes.synced(),
                mirrors.claims.synced(),
                mirrors.volumes.synced(),
            );
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = synced => {}
        }
        let mut wakes = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                count = drain(&mut news, &mut wakes) => {
                    if count == 0 {
                        return Err(SchedulerError::Deaf);
                    }
                    for wake in wakes.drain(..) {
                        self.take(wake);
                    }
                }
                done = next_of(&mut self.work) => self.finish(done),
            }
            if !self.pending.is_empty() {
                self.decide();
            }
        }
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Pod(pod) => self.take_pod(&pod),
            Wake::PodGone(key) => {
                self.pending.remove(&key);
                self.waiting.remove(&key);
                self.binding.remove(&key);
                self.failures.remove(&key);
                if self.cluster.release(&key) {
                    self.stir();
                }
            }
            Wake::Node(node) => {
                self.cluster.put_node(NodeFacts::of(&node));
                self.stir();
            }
            Wake::NodeGone(name) => self.cluster.remove_node(&name),
            Wake::Volumes => {
                let waiting = std::mem::take(&mut self.waiting);
                let (with, without) =
                    waiting.into_iter().partition(|(_, facts)| !facts.claims.is_empty());
                self.waiting = without;
                self.pending.extend::<BTreeMap<_, _>>(with);
            }
        }
    }

    fn take_pod(&mut self, pod: &Pod) {
        let key = Key::of(pod);
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        match bound.filter(|name| !name.is_empty()) {
            Some(_) if is_finished(pod) => {
                if self.cluster.release(&key) {
                    self.stir();
                }
            }
            Some(node) => {
                self.pending.remove(&key);
                self.waiting.remove(&key);
                self.binding.remove(&key);
                self.failures.remove(&key);
                let mut usage = pod.spec.as_ref().map(usage).unwrap_or_default();
                usage.amounts.extend(demand::taken(pod));
                let less = self.cluster.takes_less(&key, &usage);
                self.cluster.place(key, node, usage);
                // A pod that became smaller has made room.
                if less {
                    self.stir();
                }
            }
            // Its own condition comes back as news; that is no reason to look again.
            None if self.binding.contains_key(&key) || self.failures.contains_key(&key) => {}
            None => match PodFacts::pending(pod) {
                Some(facts) => match self.waiting.get_mut(&key) {
                    Some(known) if same_wish(known, &facts) => known.reported = facts.reported,
                    _ => {
                        self.waiting.remove(&key);
                        self.pending.insert(key, facts);
                    }
                },
                None => {
                    self.pending.remove(&key);
                    self.waiting.remove(&key);
                }
            },
        }
    }

    /// Lets all waiting pods try again.
    fn stir(&mut self) {
        self.pending.append(&mut self.waiting);
    }

    fn decide(&mut self) {
        let pods = std::mem::take(&mut self.pending);
        let pending: Vec<_> = pods
            .values()
            .map(|pod| Pending {
                pod: pod.clone(),
                volumes: volumes(
                    pod,
                    |key| self.mirrors.claims.get(key),
                    |name| self.mirrors.volumes.get(&Key::new("", name)),
                ),
            })
            .collect();
        for step in plan(&pending, self.cluster.nodes()) {
            debug!(%step, "scheduling");
            match step {
                Step::Bind { pod, uid, node } => {
                    let Some(facts) = pods.get(&pod) else { continue };
                    self.cluster.place(pod.clone(), &node, facts.usage.clone());
                    self.binding.insert(pod.clone(), node.clone());
                    let client = self.client.clone();
                    self.work.push(Box::pin(async move {
                        let outcome = apply::bind(&client, &pod, &uid, &node).await;
                        Done::Bound { pod, uid, node, outcome }
                    }));
                }
                Step::Refuse { pod, message } => {
                    let Some(facts) = pods.get(&pod) else { continue };
                    let said = facts.reported.as_deref() == Some(&message);
                    let facts = PodFacts { reported: Some(message.clone()), ..facts.clone() };
                    self.waiting.insert(pod.clone(), facts);
                    if !said {
                        self.say(pod, message);
                    }
                }
            }
        }
    }

    fn say(&mut self, pod: Key, message: String) {
        if let Some(object) = self.mirrors.pods.get(&pod) {
            self.recorder.record(
                object.as_ref(),
                Level::Warning,
                "FailedScheduling",
                message.clone(),
            );
        }
        let (client, pods) = (self.client.clone(), self.mirrors.pods.clone());
        self.work.push(Box::pin(async move {
            let outcome = apply::refuse(&client, &pod, &message).await;
            Done::Refused { pod, outcome: outcome.map(|object| pods.note(object)) }
        }));
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Bound { pod, uid, node, outcome: Ok(()) } => {
                self.failures.remove(&pod);
                let placed = node.clone();
                self.mirrors.pods.amend(&pod, &uid, |pod| {
                    pod.spec.get_or_insert_default().node_name = Some(placed);
                });
                if let Some(object) = self.mirrors.pods.get(&pod) {
                    let message = format!("Successfully assigned {pod} to {node}");
                    self.recorder.record(object.as_ref(), Level::Normal, "Scheduled", message);
                }
            }
            Done::Bound { pod, node, outcome: Err(error), .. } => {
                // The news of the pod's real place or end may have come before the answer.
                if self.binding.remove(&pod).is_none() {
                    return;
                }
                self.cluster.release(&pod);
                let failures = self.failures.entry(pod.clone()).or_default();
                *failures = failures.saturating_add(1);
                let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(10)).min(LONGEST_PAUSE);
                warn!(%pod, %node, %error, "cannot bind");
                self.work.push(Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    Done::Again(pod)
                }));
                self.stir();
            }
            Done::Refused { outcome: Ok(()), .. } => {}
            Done::Refused { pod, outcome: Err(error) } => {
                debug!(%pod, %error, "cannot say why a pod is not scheduled");
            }
            Done::Again(pod) => {
                let object = self.mirrors.pods.get(&pod);
                match object.and_then(|object| PodFacts::pending(&object)) {
                    Some(facts) => {
                        self.pending.insert(pod, facts);
                    }
                    None => {
                        self.failures.remove(&pod);
                    }
                }
            }
        }
    }
}

/// Whether a change of a pod changes nothing about where it may go.
fn same_wish(known: &PodFacts, now: &PodFacts) -> bool {
    known.uid == now.uid
        && known.priority == now.priority
        && known.usage == now.usage
        && known.node_selector == now.node_selector
        && known.required == now.required
        && known.tolerations == now.tolerations
        && known.claims == now.claims
}
