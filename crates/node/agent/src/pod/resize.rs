//! Another size for a pod that runs: whether it fits, and whose containers must be started anew for it. From values alone.

use std::collections::BTreeMap;

use berth_client::demand::{Amounts, amounts};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};

/// The size of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// What the node has promised.
    pub promised: ResourceRequirements,
    /// What its processes are held to.
    pub applied: ResourceRequirements,
}

/// Sizes by container.
pub type Sizes = BTreeMap<String, Size>;

/// How far a change of size has got, for the pod's conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// It waits or cannot be: reason and message.
    pub pending: Option<(&'static str, String)>,
    /// What is promised is not applied yet; why not, if there is a reason.
    pub under_way: Option<Option<String>>,
    /// The generation of the pod that this is about.
    pub generation: Option<i64>,
}

/// Whether a size can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Fits,
    /// Later, when others have left.
    Deferred(String),
    /// Never on this node.
    Infeasible(String),
}

/// What can be changed while a container runs.
const SIZED: [&str; 2] = ["cpu", "memory"];

/// Containers that may be resized: those that run with the pod.
pub fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// A pod's specification with what is promised to its containers instead of what is asked for.
pub fn promised(spec: &PodSpec, sizes: &Sizes) -> PodSpec {
    let mut spec = spec.clone();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(size) = sizes.get(&container.name) {
            container.resources = Some(size.promised.clone());
        }
    }
    spec
}

/// What a pod as a whole is held to while its containers have different sizes than promised: it asks for what is promised, and
/// may have of everything what each container is held to or will be, whichever is more.
pub fn between(spec: &PodSpec, sizes: &Sizes) -> PodSpec {
    let mut spec = spec.clone();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(size) = sizes.get(&container.name) else { continue };
        let (promised, applied) = (&size.promised, &size.applied);
        let mut requests = promised.limits.clone().unwrap_or_default();
        requests.extend(promised.requests.clone().unwrap_or_default());
        let (new, old) = (amounts(promised.limits.as_ref()), amounts(applied.limits.as_ref()));
        // Without a limit there is most of all.
        let common = promised.limits.iter().flatten().filter(|(name, _)| old.contains_key(*name));
        let limits = common.map(|(name, limit)| {
            let before = applied.limits.as_ref().and_then(|limits| limits.get(name));
            let before = before.filter(|_| old.get(name) > new.get(name));
            (name.clone(), before.unwrap_or(limit).clone())
        });
        let limits = Some(limits.collect());
        container.resources =
            Some(ResourceRequirements { limits, requests: Some(requests), ..promised.clone() });
    }
    spec
}

/// Whether a pod that takes `before` may take `after` beside what others take.
pub fn judge(before: &Amounts, after: &Amounts, others: &Amounts, all: &Amounts) -> Verdict {
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
    // Who gives something back is never refused, whatever the node has become meanwhile.
    let grows = |name: &&str| of(after, name) > of(before, name);
    for name in SIZED.iter().filter(|name| grows(name)) {
        let (wanted, capacity) = (of(after, name), of(all, name));
        if wanted > capacity {
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
            ));
        }
    }
    for name in SIZED.iter().filter(|name| grows(name)) {
        let (wanted, used, capacity) = (of(after, name), of(others, name), of(all, name));
        if wanted.saturating_add(used) > capacity {
            return Verdict::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            ));
        }
    }
    Verdict::Fits
}

/// Whether a container must be started anew for its new size.
pub fn restarts(container: &Container, size: &Size) -> bool {
    let lists =
        |of: &ResourceRequirements| (amounts(of.requests.as_ref()), amounts(of.limits.as_ref()));
    let (before, after) = (lists(&size.applied), lists(&size.promised));
    let changed = |name: &str| {
        before.0.get(name) != after.0.get(name) || before.1.get(name) != after.1.get(name)
    };
    let policies = container.resize_policy.iter().flatten();
    let mut wanted = policies.filter(|policy| policy.restart_policy == "RestartContainer");
    wanted.any(|policy| changed(&policy.resource_name))
}

/// The memory a container may use at most, in bytes.
pub fn memory_limit(resources: &ResourceRequirements) -> Option<u64> {
    amounts(resources.limits.as_ref()).get("memory").and_then(|limit| u64::try_from(*limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn amounts_of(cpu: i64, memory: i64) -> Amounts {
        [("cpu".to_owned(), cpu), ("memory".to_owned(), memory)].into()
    }

    fn size(applied: Value, promised: Value) -> Size {
        serde_json::from_value(json!({"applied": applied, "promised": promised})).unwrap()
    }

    #[test]
    fn what_grows_must_fit_and_what_shrinks_always_does() {
        let (all, others) = (amounts_of(2000, 1000), amounts_of(1500, 100));
        let verdict = |before, after| judge(&before, &after, &others, &all);
        assert_eq!(verdict(amounts_of(100, 100), amounts_of(500, 900)), Verdict::Fits);
        assert_eq!(
            verdict(amounts_of(100, 100), amounts_of(501, 100)),
            Verdict::Deferred(
                "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
                    .to_owned()
            )
        );
        assert_eq!(
            verdict(amounts_of(100, 100), amounts_of(600, 1001)),
            Verdict::Infeasible(
                "Node didn't have enough capacity: memory, requested: 1001, capacity: 1000"
                    .to_owned()
            )
        );
        // There is less than there was, and it still asks for less than before.
        assert_eq!(verdict(amounts_of(3000, 100), amounts_of(2500, 100)), Verdict::Fits);
    }

    #[test]
    fn a_container_is_started_anew_only_for_what_it_says() {
        let container: Container = serde_json::from_value(json!({"name": "a", "resizePolicy": [
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        ]}))
        .unwrap();
        let before = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        let same = size(before.clone(), json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}}));
        assert!(!restarts(&container, &same), "other words for the same");
        let cpu = size(before.clone(), json!({"requests": {"cpu": "2", "memory": "1Gi"}}));
        assert!(!restarts(&container, &cpu));
        let limit = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}});
        assert!(restarts(&container, &size(before, limit.clone())));
        let limit: ResourceRequirements = serde_json::from_value(limit).unwrap();
        assert_eq!(memory_limit(&limit), Some(2 << 30));
    }

    #[test]
    fn until_all_have_their_size_the_pod_has_the_larger_one() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [
            {"name": "a"}, {"name": "b", "resources": {"limits": {"memory": "1Mi", "cpu": "1"}}},
        ]}))
        .unwrap();
        let told = |applied: Value, promised: Value| {
            let sizes = [("a".to_owned(), size(applied, promised))].into();
            let held = crate::groups::pod_limits(&between(&spec, &sizes), None);
            let (cpu, memory) = (held.cpu().clone().unwrap(), held.memory().unwrap());
            (cpu.shares(), cpu.quota(), memory.limit())
        };
        let of = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}});
        let (large, small) = (of("2", "2Mi"), of("1", "1Mi"));
        let asked = |cpus: u64| Some(cpus * 1024);
        assert_eq!(told(large.clone(), small.clone()), (asked(2), Some(300_000), Some(3 << 20)));
        assert_eq!(told(small.clone(), large.clone()), (asked(3), Some(300_000), Some(3 << 20)));
        assert_eq!(told(small.clone(), small.clone()), (asked(2), Some(200_000), Some(2 << 20)));
        assert_eq!(told(json!({}), small.clone()), (asked(2), Some(-1), Some(-1)));
        assert_eq!(told(small, json!({})), (asked(1), Some(-1), Some(-1)));
    }

    #[test]
    fn what_is_promised_stands_for_what_is_asked_for() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}, {"name": "b"}],
            "initContainers": [{"name": "once"}, {"name": "side", "restartPolicy": "Always"}],
        }))
        .unwrap();
        let names: Vec<&str> = lasting(&spec).map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "side"]);
        let sizes: Sizes =
            [("a".to_owned(), size(json!({}), json!({"requests": {"cpu": "1"}})))].into();
        assert_eq!(berth_client::demand::requests(&promised(&spec, &sizes))["cpu"], 1000);
    }
}
