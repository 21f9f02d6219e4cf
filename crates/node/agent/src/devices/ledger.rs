//! Which devices there are and who has which: values alone.

use std::collections::{BTreeMap, BTreeSet};

use berth_client::demand::{self, Amounts};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::Given;

/// Ids of devices.
pub type Ids = BTreeSet<String>;
/// What the containers of a pod have: by container and by resource.
pub type Allotments = BTreeMap<String, BTreeMap<String, Allotment>>;

/// What a container has of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// The devices.
    pub devices: Ids,
    /// The plugin wants to be asked before each start.
    pub pre_start: bool,
    /// What the container needs for them.
    pub given: Given,
    /// In which boot of the machine they were handed out.
    #[serde(default)]
    pub boot: String,
}

impl Allotment {
    /// Whether it was handed out in this boot. Where that is not known it may have been in another.
    pub fn is_of(&self, boot: &str) -> bool {
        !boot.is_empty() && self.boot == boot
    }
}

/// What outlives the agent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The resources of plugins that have ever registered. Until they do again there are none of them.
    resources: BTreeSet<String>,
    /// By the UIDs of pods.
    pods: BTreeMap<String, Allotments>,
}

/// The devices of all plugins.
#[derive(Debug, Default)]
pub struct Ledger {
    kept: Kept,
    /// Healthy or not, by resource and id.
    devices: BTreeMap<String, BTreeMap<String, bool>>,
    /// What pods are about to get, by their UIDs and by resource, while plugins are asked.
    reserved: BTreeMap<String, BTreeMap<String, Ids>>,
}

/// The place of a container in its pod's life, which decides who may have its devices afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It ends before the others begin.
    Before,
    /// It runs beside them.
    Beside,
}

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub container: String,
    pub place: Place,
    pub resource: String,
    pub count: usize,
}

impl Ledger {
    /// From what was written down.
    pub fn new(kept: Kept) -> Self {
        let devices = kept.resources.iter().map(|name| (name.clone(), BTreeMap::new()));
        Self { devices: devices.collect(), kept, reserved: BTreeMap::new() }
    }

    /// What is to be written down.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// There is a plugin for this resource.
    pub fn register(&mut self, resource: &str) {
        self.kept.resources.insert(resource.to_owned());
        self.devices.entry(resource.to_owned()).or_default();
    }

    /// These are its devices now.
    pub fn set(&mut self, resource: &str, devices: BTreeMap<String, bool>) {
        self.devices.insert(resource.to_owned(), devices);
    }

    /// All there is, and what is healthy.
    pub fn amounts(&self) -> (Amounts, Amounts) {
        let count = |all: usize| i64::try_from(all).unwrap_or(i64::MAX);
        let healthy = |devices: &BTreeMap<String, bool>| devices.values().filter(|it| **it).count();
        let all = self.devices.iter();
        let capacity = all.clone().map(|(name, devices)| (name.clone(), count(devices.len())));
        let fit = all.map(|(name, devices)| (name.clone(), count(healthy(devices))));
        (capacity.collect(), fit.collect())
    }

    /// What the containers of a pod ask for of the plugins' resources, in the order in which they start.
    pub fn asked(&self, pod: &Pod) -> Vec<Asked> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let place = |container: &Container| {
            let stays = container.restart_policy.as_deref() == Some("Always");
            if stays { Place::Beside } else { Place::Before }
        };
        let first = spec.init_containers.iter().flatten().map(|it| (it, place(it)));
        let all = first.chain(spec.containers.iter().map(|it| (it, Place::Beside)));
        let mut asked = Vec::new();
        for (container, place) in all {
            let limits = container.resources.as_ref().and_then(|all| all.limits.as_ref());
            for (resource, count) in demand::amounts(limits) {
                let count = usize::try_from(count).unwrap_or(0);
                if count > 0 && self.devices.contains_key(&resource) {
                    let container = container.name.clone();
                    asked.push(Asked { container, place, resource, count });
                }
            }
        }
        asked
    }

    /// What a pod has.
    pub fn of(&self, uid: &str) -> Allotments {
        self.kept.pods.get(uid).cloned().unwrap_or_default()
    }

    /// The pods that have something.
    pub fn pods(&self) -> Vec<String> {
        self.kept.pods.keys().cloned().collect()
    }

    /// Healthy devices that nobody has or is about to get.
    pub fn free(&self, resource: &str) -> Ids {
        let healthy = self.devices.get(resource).into_iter().flatten().filter(|(_, fit)| **fit);
        let taken = self.taken(resource, None);
        healthy.map(|(id, _)| id).filter(|id| !taken.contains(id)).cloned().collect()
    }

    /// What pods have of a resource or are about to get, but for one.
    fn taken(&self, resource: &str, except: Option<&str>) -> BTreeSet<&String> {
        let others = |uid: &String| Some(uid.as_str()) != except;
        let had = self.kept.pods.iter().filter(|(uid, _)| others(uid));
        let had = had.flat_map(|(_, pod)| pod.values()).filter_map(|all| all.get(resource));
        let soon = self.reserved.iter().filter(|(uid, _)| others(uid));
        let soon = soon.filter_map(|(_, all)| all.get(resource));
        had.flat_map(|it| &it.devices).chain(soon.flatten()).collect()
    }

    /// Keeps devices for a pod while their plugins are asked, all or none: says whether all are healthy and nobody else's.
    pub fn reserve(&mut self, uid: &str, wanted: BTreeMap<String, Ids>) -> bool {
        let is_to_be_had = |resource: &String, ids: &Ids| {
            let taken = self.taken(resource, Some(uid));
            ids.iter().all(|id| self.is_fit(resource, id) && !taken.contains(id))
        };
        let all = wanted.iter().all(|(resource, ids)| is_to_be_had(resource, ids));
        if all {
            self.reserved.insert(uid.to_owned(), wanted);
        }
        all
    }

    /// Whether any pod is about to get something of a resource.
    pub fn is_reserved(&self, resource: &str) -> bool {
        self.reserved.values().any(|all| all.contains_key(resource))
    }

    /// Keeps nothing more for a pod.
    pub fn give_back(&mut self, uid: &str) {
        self.reserved.remove(uid);
    }

    /// Whether a device is healthy.
    pub fn is_fit(&self, resource: &str, id: &str) -> bool {
        self.devices.get(resource).and_then(|all| all.get(id)).copied().unwrap_or(false)
    }

    /// Notes what a pod has, which may be nothing.
    pub fn note(&mut self, pod: &Pod, allotments: Allotments) {
        let uid = pod.uid().unwrap_or_default();
        if allotments.is_empty() {
            self.kept.pods.remove(&uid);
        } else {
            self.kept.pods.insert(uid, allotments);
        }
    }

    /// Takes everything back. Says whether there was anything.
    pub fn release(&mut self, uid: &str) -> bool {
        self.kept.pods.remove(uid).is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WIDGET: &str = "example.com/widget";

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.register(WIDGET);
        ledger.set(
            WIDGET,
            [("a", true), ("b", false), ("c", true)].map(|(id, fit)| (id.to_owned(), fit)).into(),
        );
        ledger
    }

    fn pod() -> Pod {
        let limits =
            |count: &str| json!({"limits": {WIDGET: count, "cpu": "1", "example.com/other": "1"}});
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {
            "initContainers": [{"name": "first", "resources": limits("2")},
                {"name": "side", "restartPolicy": "Always", "resources": limits("1")}],
            "containers": [{"name": "main", "resources": limits("1")}, {"name": "without"}]}}))
        .unwrap()
    }

    fn has(ids: &[&str]) -> BTreeMap<String, Allotment> {
        let devices = ids.iter().map(|id| (*id).to_owned()).collect();
        let given = Given::default();
        let boot = String::new();
        [(WIDGET.to_owned(), Allotment { devices, pre_start: false, given, boot })].into()
    }

    #[test]
    fn unhealthy_devices_count_and_are_not_handed_out() {
        let ledger = ledger();
        let (all, fit) = ledger.amounts();
        assert_eq!((all[WIDGET], fit[WIDGET]), (3, 2));
        assert_eq!(ledger.free(WIDGET), ["a", "c"].map(String::from).into());
        assert!(ledger.is_fit(WIDGET, "a") && !ledger.is_fit(WIDGET, "b"));
    }

    #[test]
    fn what_is_asked_for_comes_in_the_order_of_starts() {
        let asked = ledger().asked(&pod());
        let told: Vec<_> =
            asked.iter().map(|it| (it.container.as_str(), it.place, it.count)).collect();
        let wanted =
            [("first", Place::Before, 2), ("side", Place::Beside, 1), ("main", Place::Beside, 1)];
        assert_eq!(told, wanted);
        assert_eq!(Ledger::default().asked(&pod()), []);
    }

    #[test]
    fn what_somebody_has_is_not_free_until_it_is_taken_back() {
        let mut ledger = ledger();
        ledger.note(&pod(), [("main".to_owned(), has(&["a"]))].into());
        assert_eq!(ledger.free(WIDGET), ["c".to_owned()].into());
        // Another agent, before the plugin is back.
        let text = serde_json::to_string(ledger.kept()).unwrap();
        let mut again = Ledger::new(serde_json::from_str(&text).unwrap());
        assert_eq!(again.amounts().0, [(WIDGET.to_owned(), 0)].into());
        assert_eq!(again.of("u")["main"], has(&["a"]));
        again.set(WIDGET, [("a".to_owned(), true)].into());
        assert_eq!(again.free(WIDGET), Ids::new());
        assert!(again.release("u") && !again.release("u"));
        assert_eq!(again.free(WIDGET), ["a".to_owned()].into());
    }

    #[test]
    fn what_is_reserved_is_nobody_elses_until_it_is_given_back() {
        let mut ledger = ledger();
        let wanted = |ids: &[&str]| {
            let ids = ids.iter().map(|id| (*id).to_owned()).collect();
            BTreeMap::from([(WIDGET.to_owned(), ids)])
        };
        ledger.note(&pod(), [("main".to_owned(), has(&["a"]))].into());
        // It is unhealthy, unknown, or another's.
        for ids in [&["c", "b"][..], &["c", "z"], &["c", "a"]] {
            assert!(!ledger.reserve("v", wanted(ids)), "{ids:?}");
            assert_eq!(ledger.free(WIDGET), ["c".to_owned()].into());
        }
        // Of what it has already a pod may have more of its containers.
        assert!(ledger.reserve("u", wanted(&["a", "c"])) && ledger.is_reserved(WIDGET));
        assert_eq!(ledger.free(WIDGET), Ids::new());
        assert!(!ledger.reserve("v", wanted(&["c"])));
        ledger.give_back("u");
        assert!(!ledger.is_reserved(WIDGET) && ledger.reserve("v", wanted(&["c"])));
    }
}
