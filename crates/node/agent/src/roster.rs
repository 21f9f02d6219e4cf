//! The pods of this node as those see them who look after all of them: who there is, what is promised to whom, and a way to
//! tell a pod's worker that it must go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_client::demand::{self, Amounts, Quality};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};

use crate::limits::Pressure;
use crate::pod::resize::{Verdict, judge};

/// The end of a pod for the good of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Why, in a word: the reason of the pod's status.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
    /// How long its containers may take.
    pub grace: SignedDuration,
    /// When it was decided.
    pub made: Instant,
}

/// How long a decision about a pod stands: what it was made from may be different by then.
const STANDS: Duration = Duration::from_secs(30);

impl Eviction {
    /// One that is decided now.
    pub fn now(reason: &'static str, message: String, grace: SignedDuration) -> Self {
        Self { reason, message, grace, made: Instant::now() }
    }

    /// Whether it is too old to be followed. Who still wants it says so again.
    pub fn is_old(&self) -> bool {
        self.made.elapsed() > STANDS
    }
}

/// A pod of this node.
#[derive(Debug, Clone)]
pub struct Member {
    /// As the API has it.
    pub pod: Arc<Pod>,
    /// Nothing here may end it for the good of others: it is the node's own, or its priority is that of the system.
    pub critical: bool,
    /// What is promised to it; nothing once it has ended.
    pub promised: Amounts,
    /// It counts for what may come in beside it: it has neither ended nor left the API.
    pub charged: bool,
    /// Something of it is left on the node besides logs and empty directories.
    pub active: bool,
    /// It has ended for good.
    pub over: bool,
    /// Names and instances of its containers, running or ended.
    pub containers: BTreeMap<String, String>,
}

impl Member {
    /// Its quality.
    pub fn quality(&self) -> Quality {
        self.pod.spec.as_ref().map_or(Quality::BestEffort, Quality::of)
    }
}

/// Whether a pod's priority is that of the system, which admission gives to those who may have it.
pub fn is_system(pod: &Pod) -> bool {
    const SYSTEM: i32 = 2_000_000_000;
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= SYSTEM
}

/// What became of an order to a pod's worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It will see it.
    Done,
    /// It has another one that it has not seen yet.
    Busy,
    /// There is none any more.
    Gone,
}

/// All pods of this node.
#[derive(Debug)]
pub struct Roster {
    members: Mutex<HashMap<String, (Member, mpsc::Sender<Eviction>)>>,
    /// What the node is short of.
    pressures: watch::Sender<BTreeSet<Pressure>>,
    /// Changes whenever room may have become free.
    room: watch::Sender<u64>,
    /// The machine is about to go down.
    leaving: AtomicBool,
    /// Held by whoever sets a weight.
    weighing: Mutex<()>,
    /// All pods are here that were before the agent was.
    listed: watch::Sender<bool>,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            members: Mutex::default(),
            pressures: watch::Sender::new(BTreeSet::new()),
            room: watch::Sender::new(0),
            leaving: AtomicBool::new(false),
            weighing: Mutex::default(),
            listed: watch::Sender::new(false),
        }
    }
}

impl Roster {
    /// Takes a new pod in if there is room for it beside the others.
    ///
    /// # Errors
    /// The reason and the message for a pod that is not taken in, in the words people know.
    pub fn enter(
        &self,
        member: Member,
        worker: &mpsc::Sender<Eviction>,
        all: &Amounts,
    ) -> Result<(), (String, String)> {
        let uid = member.pod.uid().unwrap_or_default();
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = Amounts::new();
        let others = members.iter().filter(|(known, (member, _))| **known != uid && member.charged);
        for (_, (member, _)) in others {
            demand::add(&mut used, &member.promised);
            demand::add(&mut used, &Amounts::from([("pods".to_owned(), 1)]));
        }
        let mut wanted = member.promised.clone();
        wanted.insert("pods".to_owned(), 1);
        for (name, wanted) in wanted.iter().filter(|_| !member.critical) {
            let of = |amounts: &Amounts| amounts.get(name).copied().unwrap_or(0);
            let (used, capacity) = (of(&used), of(all));
            // Devices are counted one by one by those who hand them out, and what is not known here by whoever said it is there.
            if name.contains('/') && !all.contains_key(name) {
                continue;
            }
            if *wanted > 0 && wanted.saturating_add(used) > capacity {
                return Err((
                    format!("OutOf{name}"),
                    format!(
                        "Pod was rejected: Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
                    ),
                ));
            }
        }
        members.insert(uid, (member, worker.clone()));
        Ok(())
    }

    /// Says that all pods are here that were before the agent was.
    pub fn list_is_whole(&self) {
        self.listed.send_replace(true);
    }

    /// Waits for that: until then it is not known what is taken.
    pub async fn listed(&self) {
        let mut listed = self.listed.subscribe();
        // The sender is part of the roster and lives as long.
        let _whole = listed.wait_for(|whole| *whole).await;
    }

    /// Takes a pod in or notes what has changed of it. Says whether the requests of its level have changed.
    pub fn set(&self, member: Member, worker: &mpsc::Sender<Eviction>) -> bool {
        let uid = member.pod.uid().unwrap_or_default();
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = member.promised.clone();
        let before = members.insert(uid, (member, worker.clone()));
        drop(members);
        let changed = before.as_ref().map(|(before, _)| &before.promised) != Some(&promised);
        if changed && before.is_some() {
            self.room.send_modify(|count| *count += 1);
        }
        changed
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.room.send_modify(|count| *count += 1);
    }

    /// All pods.
    pub fn members(&self) -> Vec<Member> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.values().map(|(member, _)| member.clone()).collect()
    }

    /// Whether a pod is here and has not ended.
    pub fn is_active(&self, uid: &str) -> bool {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.get(uid).is_some_and(|(member, _)| member.active)
    }

    /// Promises a pod more or less than before, if that fits beside what is promised to others.
    pub fn promise(&self, uid: &str, before: &Amounts, after: &Amounts, all: &Amounts) -> Verdict {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = Amounts::new();
        for (_, (member, _)) in members.iter().filter(|(known, _)| *known != uid) {
            demand::add(&mut others, &member.promised);
        }
        let verdict = judge(before, after, &others, all);
        if verdict == Verdict::Fits
            && let Some((member, _)) = members.get_mut(uid)
        {
            // At once, so that nobody else is promised the same.
            member.promised.clone_from(after);
            self.room.send_modify(|count| *count += 1);
        }
        verdict
    }

    /// Sets what depends on the weight of a quality. One at a time, so that the last one is the one that stays.
    pub fn with_weight<T>(&self, quality: Quality, set: impl FnOnce(i64) -> T) -> T {
        let _alone = self.weighing.lock().unwrap_or_else(PoisonError::into_inner);
        set(self.weight(quality))
    }

    /// What the pods of a quality asked for together, in thousandths of a processor.
    pub fn weight(&self, quality: Quality) -> i64 {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let members = members.values().filter(|(member, _)| member.quality() == quality);
        members.filter_map(|(member, _)| member.promised.get("cpu")).sum()
    }

    /// Tells a pod's worker that the pod must go.
    pub fn evict(&self, uid: &str, eviction: Eviction) -> Told {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, worker)) = members.get(uid) else { return Told::Gone };
        match worker.try_send(eviction) {
            Ok(()) => Told::Done,
            Err(mpsc::error::TrySendError::Full(_)) => Told::Busy,
            Err(mpsc::error::TrySendError::Closed(_)) => Told::Gone,
        }
    }

    /// Says what the node is short of now.
    pub fn press(&self, pressures: BTreeSet<Pressure>) {
        self.press_of(&Pressure::ALL, &pressures);
    }

    /// The same by one who knows only of some of it.
    pub fn press_of(&self, known_of: &[Pressure], pressures: &BTreeSet<Pressure>) {
        self.pressures.send_if_modified(|known| {
            let others = known.iter().filter(|pressure| !known_of.contains(pressure));
            let own = pressures.iter().filter(|pressure| known_of.contains(pressure));
            let now: BTreeSet<Pressure> = others.chain(own).copied().collect();
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// Takes no more pods in: the machine is about to go down.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        // Whoever tells how the node is looks again.
        self.pressures.send_modify(|_| ());
    }

    /// Whether the machine is about to go down.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// What the node is short of, and its changes.
    pub fn pressures(&self) -> watch::Receiver<BTreeSet<Pressure>> {
        self.pressures.subscribe()
    }

    /// Changes whenever room may have become free.
    pub fn room(&self) -> watch::Receiver<u64> {
        self.room.subscribe()
    }

    /// Why a new pod is not taken in, if it is not. A node short of memory still takes pods that asked for their share of it.
    pub fn refusal(&self, pod: &Pod, critical: bool) -> Option<(&'static str, String)> {
        if self.is_leaving() {
            let message = "Pod was rejected as the node is shutting down.";
            return Some(("NodeShutdown", message.to_owned()));
        }
        let pressures = self.pressures.borrow().clone();
        if pressures.is_empty() || critical {
            return None;
        }
        let spec = pod.spec.as_ref()?;
        if pressures.iter().eq([&Pressure::Memory]) {
            let bears = spec.tolerations.iter().flatten().any(|toleration| {
                let key = toleration.key.as_deref().unwrap_or_default();
                let effect = toleration.effect.as_deref().unwrap_or("NoSchedule");
                let exists = toleration.operator.as_deref() == Some("Exists");
                let named = key == "node.kubernetes.io/memory-pressure";
                effect == "NoSchedule" && (named || exists && key.is_empty())
            });
            if bears || Quality::of(spec) != Quality::BestEffort {
                return None;
            }
        }
        let names: Vec<&str> = pressures.iter().map(|pressure| pressure.as_str()).collect();
        let names = names.join(" ");
        Some(("Evicted", format!("Pod was rejected: The node had condition: [{names}]. ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, annotations: Value) -> Pod {
        let metadata = json!({"name": "a", "uid": "1", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn a_node_in_need_takes_only_those_it_must() {
        let roster = Roster::default();
        let small = json!({"containers": [{"name": "a"}]});
        let asks = json!({"requests": {"memory": "1Mi"}});
        let share = json!({"containers": [{"name": "a", "resources": asks}]});
        let mut bearing = small.clone();
        bearing["tolerations"] =
            json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        let mut system = small.clone();
        system["priority"] = json!(2_000_000_000);
        let refused = |spec: &Value| {
            let pod = pod(spec.clone(), json!({}));
            roster.refusal(&pod, is_system(&pod)).map(|(_, message)| message)
        };
        assert_eq!(refused(&small), None);
        roster.press([Pressure::Memory].into());
        assert_eq!(
            refused(&small).unwrap(),
            "Pod was rejected: The node had condition: [MemoryPressure]. "
        );
        assert_eq!((refused(&share), refused(&bearing), refused(&system)), (None, None, None));
        // An annotation is anybody's to write.
        let claims = pod(small.clone(), json!({"kubernetes.io/config.source": "file"}));
        assert!(!is_system(&claims) && roster.refusal(&claims, false).is_some());
        // Each says what he knows, and nothing of what he does not.
        roster.press_of(&[Pressure::Disk], &[Pressure::Disk, Pressure::Processes].into());
        roster.press_of(&[Pressure::Processes], &[].into());
        assert!(refused(&share).unwrap().contains("[MemoryPressure DiskPressure]"));
        assert!(refused(&bearing).is_some() && refused(&system).is_none());
    }

    #[test]
    fn no_pod_comes_in_beyond_what_there_is() {
        let roster = Roster::default();
        let (worker, _told) = mpsc::channel(1);
        let enter = |uid: &str, cpu: i64, priority: i32| {
            let mut pod = pod(json!({"containers": [], "priority": priority}), json!({}));
            pod.metadata.uid = Some(uid.to_owned());
            let promised = Amounts::from([("cpu".to_owned(), cpu)]);
            let containers = BTreeMap::new();
            let member = Member {
                critical: is_system(&pod),
                pod: Arc::new(pod),
                promised,
                charged: true,
                active: true,
                over: false,
                containers,
            };
            let all = [("cpu".to_owned(), 1000), ("pods".to_owned(), 3)].into();
            roster
                .enter(member, &worker, &all)
                .map_err(|(reason, message)| format!("{reason} {message}"))
        };
        assert_eq!(enter("1", 600, 0), Ok(()));
        assert_eq!(
            enter("2", 401, 0).unwrap_err(),
            "OutOfcpu Pod was rejected: Node didn't have enough resource: cpu, requested: 401, \
             used: 600, capacity: 1000"
        );
        assert_eq!((enter("1", 600, 0), enter("2", 400, 0)), (Ok(()), Ok(())));
        assert_eq!(enter("3", 0, 0), Ok(()));
        assert!(enter("4", 0, 0).unwrap_err().starts_with("OutOfpods "));
        assert_eq!(enter("4", 900, 2_000_000_000), Ok(()), "the node cannot do without it");
    }

    #[tokio::test]
    async fn nobody_goes_on_before_all_are_here() {
        let roster = Roster::default();
        let mut waiting = Box::pin(roster.listed());
        assert!(futures::poll!(&mut waiting).is_pending());
        roster.list_is_whole();
        assert!(futures::poll!(&mut waiting).is_ready());
        roster.listed().await;
    }

    #[test]
    fn levels_weigh_what_their_pods_ask_for() {
        let roster = Roster::default();
        let (worker, mut told) = mpsc::channel(1);
        let asks = json!({"requests": {"cpu": "250m"}});
        let pod = pod(json!({"containers": [{"name": "a", "resources": asks}]}), json!({}));
        let mut member = Member {
            promised: demand::requests(pod.spec.as_ref().unwrap()),
            pod: Arc::new(pod),
            critical: false,
            charged: true,
            active: true,
            over: false,
            containers: BTreeMap::new(),
        };
        assert!(roster.set(member.clone(), &worker));
        assert!(!roster.set(member.clone(), &worker));
        assert_eq!(roster.weight(Quality::Burstable), 250);
        let of = |milli| Amounts::from([("cpu".to_owned(), milli)]);
        let promise = |uid, before, after| roster.promise(uid, &of(before), &of(after), &of(1000));
        assert!(matches!(promise("2", 0, 751), Verdict::Deferred(_)));
        assert_eq!(promise("2", 0, 750), Verdict::Fits);
        assert_eq!(promise("1", 250, 900), Verdict::Fits, "a pod is not beside itself");
        assert_eq!(roster.weight(Quality::Burstable), 900);
        assert!(matches!(promise("2", 0, 101), Verdict::Deferred(_)));
        let mut eviction = Eviction::now("Evicted", "m".to_owned(), SignedDuration::ZERO);
        assert_eq!(roster.evict("1", eviction.clone()), Told::Done);
        assert_eq!(roster.evict("1", eviction.clone()), Told::Busy);
        assert_eq!(roster.evict("2", eviction.clone()), Told::Gone);
        assert_eq!(told.try_recv().unwrap(), eviction);
        assert!(!eviction.is_old());
        eviction.made = eviction.made.checked_sub(Duration::from_secs(60)).unwrap();
        assert!(eviction.is_old());
        member.promised = Amounts::new();
        member.active = false;
        assert!(roster.set(member, &worker) && !roster.is_active("1"));
        assert_eq!(roster.weight(Quality::Burstable), 0);
    }
}
