//! What objects take of what a namespace may have: the arithmetic of quotas, and of what pods ask for.

use std::collections::BTreeMap;

use berth_objects::{Object, Quantity, Resource};
use serde_json::Value;

/// Amounts by name, as in `requests.cpu` or `count/jobs.batch`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources that every container has to ask for where a quota speaks of them.
const SPOKEN: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn amounts(map: Option<&serde_json::Map<String, Value>>) -> Amounts {
    let read = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name.clone(), text.parse().ok()?))
    };
    map.into_iter().flatten().filter_map(read).collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_insert(Quantity::ZERO);
        *sum = sum.plus(*amount);
    }
}

fn raise(to: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let has = to.entry(name.clone()).or_insert(*amount);
        *has = (*has).max(*amount);
    }
}

/// What a pod asks for as a whole: `requests` or `limits`, by resource. Init containers count by their highest need, those
/// that keep running are added.
#[must_use]
pub fn pod_resources(pod: &Value, which: &str) -> Amounts {
    let mut whole = of_containers(&pod["spec"], which);
    // Resources of the pod as a whole stand for those of its containers.
    whole.extend(amounts(pod.map(&["spec", "resources", which])));
    let overhead = amounts(pod.map(&["spec", "overhead"]));
    if which == "requests" {
        add(&mut whole, &overhead);
    } else {
        // What has no limit does not get one by the overhead.
        let limited = overhead.into_iter().filter(|(name, _)| whole.contains_key(name)).collect();
        add(&mut whole, &limited);
    }
    whole
}

/// What the containers of a pod ask for together.
pub(crate) fn of_containers(spec: &Value, which: &str) -> Amounts {
    let of = |container: &Value| amounts(container.map(&["resources", which]));
    let (mut kept, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.list(&["initContainers"]) {
        let mut wanted = of(container);
        if container.text(&["restartPolicy"]) == "Always" {
            add(&mut kept, &wanted);
            wanted.clone_from(&kept);
        } else {
            add(&mut wanted, &kept);
        }
        raise(&mut peak, &wanted);
    }
    let mut whole = kept;
    for container in spec.list(&["containers"]) {
        add(&mut whole, &of(container));
    }
    raise(&mut whole, &peak);
    whole
}

/// What one object takes, by every name that a quota may have for it.
#[must_use]
pub fn usage(resource: &Resource<'_>, object: &Value) -> Amounts {
    let one = Quantity::from_milli(1000);
    let mut used = Amounts::from([(count_name(resource), one)]);
    match (resource.group, resource.kind) {
        ("", "Pod") if !matches!(object.text(&["status", "phase"]), "Succeeded" | "Failed") => {
            used.insert("pods".to_owned(), one);
            pod(object, &mut used);
        }
        ("", "Service") => {
            used.insert("services".to_owned(), one);
            let ports = object.list(&["spec", "ports"]).len();
            let ports =
                i64::try_from(ports).map_or(Quantity::ZERO, |n| Quantity::from_milli(n * 1000));
            let balanced = object.text(&["spec", "type"]) == "LoadBalancer";
            let without =
                object.at(&["spec", "allocateLoadBalancerNodePorts"]) == Some(&false.into());
            if balanced {
                used.insert("services.loadbalancers".to_owned(), one);
            }
            if object.text(&["spec", "type"]) == "NodePort" || (balanced && !without) {
                used.insert("services.nodeports".to_owned(), ports);
            }
        }
        ("", "PersistentVolumeClaim") => claim(object, &mut used),
        ("", "ReplicationController" | "ResourceQuota" | "Secret" | "ConfigMap") => {
            used.insert(resource.plural.to_string(), one);
        }
        _ => {}
    }
    used
}

fn count_name(resource: &Resource<'_>) -> String {
    match resource.group {
        "" => format!("count/{}", resource.plural),
        group => format!("count/{}.{group}", resource.plural),
    }
}

fn pod(object: &Value, used: &mut Amounts) {
    for (name, amount) in pod_resources(object, "requests") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-")
        {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_resources(object, "limits") {
        used.insert(format!("limits.{name}"), amount);
    }
}

fn claim(object: &Value, used: &mut Amounts) {
    let one = Quantity::from_milli(1000);
    let asked = amounts(object.map(&["spec", "resources", "requests"])).remove("storage");
    let class = object.text(&["spec", "storageClassName"]);
    used.insert("persistentvolumeclaims".to_owned(), one);
    if let Some(asked) = asked {
        used.insert("requests.storage".to_owned(), asked);
    }
    if !class.is_empty() {
        let name = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
        used.insert(name("persistentvolumeclaims"), one);
        if let Some(asked) = asked {
            used.insert(name("requests.storage"), asked);
        }
    }
}

/// Whether objects of a resource may take of what a quota limits by this name.
#[must_use]
pub fn may_use(resource: &Resource<'_>, limit: &str) -> bool {
    if limit == count_name(resource) {
        return true;
    }
    let claims = limit == "requests.storage" || limit.contains(".storageclass.storage.k8s.io/");
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            let resources = ["requests.", "limits.", "hugepages-"];
            limit == "pods"
                || matches!(limit, "cpu" | "memory" | "ephemeral-storage")
                || (!claims && resources.iter().any(|prefix| limit.starts_with(prefix)))
        }
        ("", "Service") => limit == "services" || limit.starts_with("services."),
        ("", "PersistentVolumeClaim") => claims || limit == "persistentvolumeclaims",
        ("", "ReplicationController" | "ResourceQuota" | "Secret" | "ConfigMap") => {
            limit == resource.plural
        }
        _ => false,
    }
}

/// Whether a quota is about an object: all its scopes have to fit. Quotas with scopes are about pods (and claims) alone.
#[must_use]
pub fn in_scope(quota: &Value, resource: &Resource<'_>, object: &Value) -> bool {
    let plain = quota.list(&["spec", "scopes"]).iter().filter_map(Value::as_str);
    let plain = plain.map(|scope| (scope, "Exists", Vec::new()));
    let chosen = quota.list(&["spec", "scopeSelector", "matchExpressions"]).iter();
    let chosen = chosen.map(|it| {
        let values = it.list(&["values"]).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        (it.text(&["scopeName"]), it.text(&["operator"]), values)
    });
    let mut scopes = plain.chain(chosen).peekable();
    if scopes.peek().is_none() {
        return true;
    }
    (resource.group, resource.kind) == ("", "Pod")
        && scopes.all(|(scope, operator, values)| fits(scope, operator, &values, object))
}

fn fits(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let ends = pod.integer(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0);
    let asks = |which| pod_resources(pod, which).keys().any(|it| it == "cpu" || it == "memory");
    let class = pod.text(&["spec", "priorityClassName"]);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => !asks("requests") && !asks("limits"),
        "NotBestEffort" => asks("requests") || asks("limits"),
        "PriorityClass" => match operator {
            "In" => values.contains(&class),
            "NotIn" => !values.contains(&class),
            "DoesNotExist" => class.is_empty(),
            _ => !class.is_empty(),
        },
        "CrossNamespacePodAffinity" => crosses(pod),
        _ => false,
    }
}

/// Whether an affinity of the pod looks into other namespaces.
fn crosses(pod: &Value) -> bool {
    let looks = |term: &Value| {
        !term.list(&["namespaces"]).is_empty()
            || term.get("namespaceSelector").is_some_and(|it| !it.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let of = |field: &str| pod.list(&["spec", "affinity", kind, field]);
        of("requiredDuringSchedulingIgnoredDuringExecution").iter().any(looks)
            || of("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|it| looks(&it["podAffinityTerm"]))
    })
}

/// What containers of a pod leave open although these limits need it: `cpu for: web,log; memory for: web`.
#[must_use]
pub fn unsaid(pod: &Value, limits: &Amounts) -> Option<String> {
    if pod
        .at(&["spec", "resources"])
        .is_some_and(|it| it.as_object().is_some_and(|m| !m.is_empty()))
    {
        return None;
    }
    let fields = ["containers", "initContainers"];
    let containers = || fields.iter().flat_map(|field| pod.list(&["spec", field]));
    let missing = |limit: &str| {
        let (which, name) = limit.split_once('.').unwrap_or(("requests", limit));
        let without = containers().filter(|it| it.at(&["resources", which, name]).is_none());
        let names: Vec<&str> = without.map(|it| it.text(&["name"])).collect();
        (!names.is_empty()).then(|| format!("{limit} for: {}", names.join(",")))
    };
    let spoken = SPOKEN.iter().filter(|limit| limits.contains_key(**limit));
    let all: Vec<String> = spoken.filter_map(|limit| missing(limit)).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The limits of a quota.
#[must_use]
pub fn limits(quota: &Value) -> Amounts {
    amounts(quota.map(&["spec", "hard"]))
}

/// What is noted as taken of a quota.
#[must_use]
pub fn taken(quota: &Value) -> Amounts {
    amounts(quota.map(&["status", "used"]))
}
