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
        Self { devices: devices.collect(), kept }
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

    /// Healthy devices that nobody has, this pod so far included.
    pub fn free(&self, resource: &str, pod: &Allotments) -> Ids {
        let others = self.kept.pods.values().chain([pod]).flat_map(BTreeMap::values);
        let taken: BTreeSet<&String> =
            others.filter_map(|all| all.get(resource)).flat_map(|it| &it.devices).collect();
        let healthy = self.devices.get(resource).into_iter().flatten().filter(|(_, fit)| **fit);
        healthy.map(|(id, _)| id).filter(|id| !taken.contains(id)).cloned().collect()
    }

    /// Whether a device is healthy.
    pub fn is_fit(&self, resource: &str, id: &str) -> bool {
        self.devices.get(resource).and_then(|all| all.get(id)).copied().unwrap_or(false)
    }

    /// Notes what a pod has.
    pub fn note(&mut self, pod: &Pod, allotments: Allotments) {
        self.kept.pods.insert(pod.uid().unwrap_or_default(), allotments);
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
        [(WIDGET.to_owned(), Allotment { devices, pre_start: false, given })].into()
    }

    #[test]
    fn unhealthy_devices_count_and_are_not_handed_out() {
        let ledger = ledger();
        let (all, fit) = ledger.amounts();
        assert_eq!((all[WIDGET], fit[WIDGET]), (3, 2));
        assert_eq!(ledger.free(WIDGET, &Allotments::new()), ["a", "c"].map(String::from).into());
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
        let mine = Allotments::from([("x".to_owned(), has(&["c"]))]);
        assert_eq!(ledger.free(WIDGET, &mine), ["a".to_owned()].into());
        ledger.note(&pod(), [("main".to_owned(), has(&["a"]))].into());
        assert_eq!(ledger.free(WIDGET, &mine), Ids::new());
        // Another agent, before the plugin is back.
        let text = serde_json::to_string(ledger.kept()).unwrap();
        let mut again = Ledger::new(serde_json::from_str(&text).unwrap());
        assert_eq!(again.amounts().0, [(WIDGET.to_owned(), 0)].into());
        assert_eq!(again.of("u")["main"], has(&["a"]));
        again.set(WIDGET, [("a".to_owned(), true)].into());
        assert_eq!(again.free(WIDGET, &Allotments::new()), Ids::new());
        assert!(again.release("u") && !again.release("u"));
        assert_eq!(again.free(WIDGET, &Allotments::new()), ["a".to_owned()].into());
    }
}
