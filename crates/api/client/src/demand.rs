//! What pods ask for: the same arithmetic for whoever places a pod and whoever runs it.
//!
//! Resources of a pod as a whole stand for those of its containers.

use std::collections::BTreeMap;

use berth_objects::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource;

/// Amounts by resource name: thousandths for `cpu`, whole units for all others.
pub type Amounts = BTreeMap<String, i64>;

/// How a pod is treated when there is too little for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// It has what it asked for, and never more.
    Guaranteed,
    /// It has what it asked for, and more while nobody else needs that.
    Burstable,
    /// It has what is left.
    BestEffort,
}

impl Quality {
    /// As the API calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The quality of a pod.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        let of_pod = spec.resources.as_ref().filter(|resources| speaks(resources));
        let all: Vec<Option<&ResourceRequirements>> = match of_pod {
            Some(resources) => vec![Some(resources)],
            None => all(spec).map(|container| container.resources.as_ref()).collect(),
        };
        let (mut any, mut whole) = (false, true);
        for resources in all {
            let limits = amounts(resources.and_then(|it| it.limits.as_ref()));
            let requests = amounts(resources.and_then(|it| it.requests.as_ref()));
            for name in COUNTED {
                let limit = limits.get(name).filter(|amount| **amount > 0);
                let request = requests.get(name).filter(|amount| **amount > 0).or(limit);
                any |= request.is_some();
                whole &= limit.is_some() && request == limit;
            }
        }
        match (any, whole) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

const COUNTED: [&str; 2] = ["cpu", "memory"];

fn speaks(resources: &ResourceRequirements) -> bool {
    let lists = [&resources.requests, &resources.limits];
    lists.into_iter().flatten().any(|list| COUNTED.iter().any(|name| list.contains_key(*name)))
}

fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Which of a container's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Requests,
    Limits,
}

/// What a pod takes from its node: all containers and sidecars together, or one initial container with the sidecars before
/// it if that is more; the overhead on top.
#[must_use]
pub fn requests(spec: &PodSpec) -> Amounts {
    let mut sum = total(spec, Which::Requests);
    let of_pod = spec.resources.as_ref();
    // The API server fills requests in from limits; this is for pods it has not seen.
    sum.extend(amounts(of_pod.and_then(|it| it.limits.as_ref())));
    sum.extend(amounts(of_pod.and_then(|it| it.requests.as_ref())));
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// What a pod that runs takes from its node: what it asks for or what it was promised, whichever is more. A size that can
/// never be had counts for nothing.
#[must_use]
pub fn taken(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let status = pod.status.clone().unwrap_or_default();
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses);
    let promised: BTreeMap<&str, &BTreeMap<String, resource::Quantity>> = statuses
        .flatten()
        .filter_map(|status| Some((status.name.as_str(), status.allocated_resources.as_ref()?)))
        .collect();
    if promised.is_empty() {
        return requests(spec);
    }
    let mut held = spec.clone();
    for container in held.containers.iter_mut().chain(held.init_containers.iter_mut().flatten()) {
        if let Some(promised) = promised.get(container.name.as_str()) {
            let requests = Some((*promised).clone());
            container.resources = Some(ResourceRequirements { requests, ..Default::default() });
        }
    }
    let mut taken = requests(&held);
    let never = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
    });
    if !never {
        raise(&mut taken, &requests(spec));
    }
    taken
}

/// What a pod may use at most, for each resource that the pod or every container of it has a limit of.
#[must_use]
pub fn limits(spec: &PodSpec) -> Amounts {
    let mut sum = total(spec, Which::Limits);
    // A sidecar runs beside the others; an initial container runs alone, and what it lacks bounds nobody else.
    let limited = |name: &str| {
        all(spec).all(|container| {
            let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
            limits.is_some_and(|limits| limits.contains_key(name))
        })
    };
    sum.retain(|name, _| limited(name));
    sum.extend(amounts(spec.resources.as_ref().and_then(|it| it.limits.as_ref())));
    let overhead = amounts(spec.overhead.as_ref());
    for (name, amount) in &mut sum {
        *amount = amount.saturating_add(overhead.get(name).copied().unwrap_or(0));
    }
    sum
}

fn total(spec: &PodSpec, which: Which) -> Amounts {
    let mut running = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut wanted = of(container, which);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &wanted);
            wanted.clear();
        }
        add(&mut wanted, &running);
        raise(&mut peak, &wanted);
    }
    for container in &spec.containers {
        add(&mut running, &of(container, which));
    }
    raise(&mut running, &peak);
    running
}

fn of(container: &Container, which: Which) -> Amounts {
    let Some(resources) = &container.resources else { return Amounts::new() };
    let mut wanted = amounts(resources.limits.as_ref());
    if which == Which::Requests {
        wanted.extend(amounts(resources.requests.as_ref()));
    }
    wanted
}

/// Adds more of everything.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

/// Raises everything to at least so much.
pub fn raise(to: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let has = to.entry(name.clone()).or_default();
        *has = (*has).max(*amount);
    }
}

/// Amounts as numbers. What cannot be read counts as nothing: the API server has validated it.
#[must_use]
pub fn amounts(quantities: Option<&BTreeMap<String, resource::Quantity>>) -> Amounts {
    let read = |(name, quantity): (&String, &resource::Quantity)| {
        let quantity: Quantity = quantity.0.parse().ok()?;
        let amount = if name == "cpu" { quantity.milli() } else { quantity.value() };
        Some((name.clone(), amount))
    };
    quantities.into_iter().flatten().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "a", "resources": {"requests": requests, "limits": limits}})
    }

    fn show(amounts: &Amounts) -> String {
        amounts
            .iter()
            .map(|(name, amount)| format!("{name}={amount}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn quality_follows_the_pod_before_its_containers() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!({"containers": [{"name": "a"}]}), "BestEffort"),
            (json!({"containers": [container(json!({}), both.clone())]}), "Guaranteed"),
            (json!({"containers": [container(json!({"cpu": "1"}), json!({}))]}), "Burstable"),
            (json!({"containers": [container(json!({"cpu": "0"}), json!({}))]}), "BestEffort"),
            (
                json!({"containers": [container(json!({}), both.clone()), {"name": "b"}]}),
                "Burstable",
            ),
            (
                json!({"containers": [container(json!({}), json!({"ephemeral-storage": "1Gi"}))]}),
                "BestEffort",
            ),
            (json!({"containers": [{"name": "a"}], "resources": {"limits": both}}), "Guaranteed"),
            (
                json!({"containers": [container(json!({}), json!({"cpu": "1", "memory": "1Gi"}))],
                       "resources": {"requests": {"cpu": "1"}}}),
                "Burstable",
            ),
        ];
        for (value, wanted) in cases {
            assert_eq!(Quality::of(&spec(value.clone())).as_str(), wanted, "{value}");
        }
    }

    #[test]
    fn a_pod_takes_what_runs_together_or_its_dearest_preparation() {
        let value = json!({
            "initContainers": [
                {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "once", "resources": {"requests": {"cpu": "1", "memory": "1Ki"}}},
            ],
            "containers": [container(json!({"cpu": "300m"}), json!({"memory": "2Ki"}))],
            "overhead": {"cpu": "50m", "memory": "1"},
        });
        assert_eq!(show(&requests(&spec(value.clone()))), "cpu=1150 memory=2049");
        let mut whole = value;
        whole["resources"] = json!({"requests": {"cpu": "2"}, "limits": {"memory": "5Ki"}});
        assert_eq!(show(&requests(&spec(whole))), "cpu=2050 memory=5121");
    }

    #[test]
    fn a_pod_takes_what_it_was_promised_until_it_has_less() {
        let pod = |asked: &str, promised: &str, reason: &str| -> Pod {
            serde_json::from_value(json!({
                "spec": {"containers": [container(json!({"cpu": asked}), json!({}))]},
                "status": {
                    "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true,
                        "restartCount": 0, "allocatedResources": {"cpu": promised}}],
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                },
            }))
            .unwrap()
        };
        assert_eq!(taken(&pod("2", "1", "Deferred"))["cpu"], 2000);
        assert_eq!(taken(&pod("1", "2", "Deferred"))["cpu"], 2000);
        assert_eq!(taken(&pod("9", "2", "Infeasible"))["cpu"], 2000);
        let fresh: Pod = serde_json::from_value(
            json!({"spec": {"containers": [container(json!({"cpu": "3"}), json!({}))]}}),
        )
        .unwrap();
        assert_eq!(taken(&fresh)["cpu"], 3000);
    }

    #[test]
    fn one_container_without_a_limit_leaves_the_pod_without() {
        let one = container(json!({}), json!({"cpu": "1", "memory": "1Ki"}));
        let two = container(json!({}), json!({"cpu": "1"}));
        let value = json!({"containers": [one, two], "overhead": {"cpu": "500m"}});
        assert_eq!(show(&limits(&spec(value.clone()))), "cpu=2500");
        let mut whole = value;
        whole["resources"] = json!({"limits": {"memory": "8Ki"}});
        assert_eq!(show(&limits(&spec(whole))), "cpu=2500 memory=8192");
    }
}
