//! Which pod goes where.

use std::collections::BTreeMap;
use std::fmt;

use berth_client::Key;

use crate::filter::reasons;
use crate::observe::{NodeState, Pending, Volumes};
use crate::score::score;

/// One decision about one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Let the node run it.
    Bind {
        /// The pod.
        pod: Key,
        /// Which one of that name.
        uid: String,
        /// The node.
        node: String,
    },
    /// Say why it cannot run now.
    Refuse {
        /// The pod.
        pod: Key,
        /// Why.
        message: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { pod, node, .. } => write!(formatter, "bind {pod} to {node}"),
            Self::Refuse { pod, message } => write!(formatter, "refuse {pod}: {message}"),
        }
    }
}

/// Decides about all waiting pods, the most important and then the oldest first. Each is charged before the next is
/// looked at.
#[must_use]
pub fn plan(pending: &[Pending], nodes: &BTreeMap<String, NodeState>) -> Vec<Step> {
    let mut order: Vec<_> = pending.iter().collect();
    order.sort_by(|a, b| {
        let (a, b) = (&a.pod, &b.pod);
        (b.priority, a.created, &a.key).cmp(&(a.priority, b.created, &b.key))
    });
    let mut nodes = nodes.clone();
    order.into_iter().map(|pending| decide(pending, &mut nodes)).collect()
}

fn decide(pending: &Pending, nodes: &mut BTreeMap<String, NodeState>) -> Step {
    let pod = &pending.pod;
    let refuse = |message| Step::Refuse { pod: pod.key.clone(), message };
    if nodes.is_empty() {
        return refuse("no nodes available to schedule pods".to_owned());
    }
    let volumes = match &pending.volumes {
        Volumes::Ready(volumes) => volumes,
        Volumes::Missing(why) => {
            return refuse(format!("0/{} nodes are available: {why}.", nodes.len()));
        }
    };
    let mut against: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i64, i64, &str)> = None;
    for (name, node) in nodes.iter() {
        let reasons = reasons(pod, volumes, node);
        if !reasons.is_empty() {
            for reason in reasons {
                *against.entry(reason).or_default() += 1;
            }
            continue;
        }
        let fewest = -node.used.amounts.get("pods").copied().unwrap_or(0);
        let candidate = (score(pod, node), fewest, name.as_str());
        if best.is_none_or(|best| (candidate.0, candidate.1) > (best.0, best.1)) {
            best = Some(candidate);
        }
    }
    let Some((_, _, name)) = best else {
        let against: Vec<_> =
            against.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let all = nodes.len();
        return refuse(format!("0/{all} nodes are available: {}.", against.join(", ")));
    };
    let name = name.to_owned();
    if let Some(node) = nodes.get_mut(&name) {
        node.used.add(&pod.usage);
    }
    Step::Bind { pod: pod.key.clone(), uid: pod.uid.clone(), node: name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::{Cluster, NodeFacts, PodFacts, usage};

    fn node(name: &str, extra: Value) -> Node {
        let mut node = json!({
            "metadata": { "name": name, "labels": { "disk": name } },
            "status": {
                "allocatable": { "cpu": "1", "memory": "1Gi", "pods": "3" },
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        });
        json_merge(&mut node, extra);
        serde_json::from_value(node).unwrap()
    }

    fn json_merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    json_merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn pod(name: &str, cpu: &str, spec: Value) -> Pending {
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "shop", "uid": name },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] },
        });
        json_merge(&mut pod["spec"], spec);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Pending { pod: PodFacts::pending(&pod).unwrap(), volumes: Volumes::Ready(Vec::new()) }
    }

    fn cluster(nodes: &[Node]) -> Cluster {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.put_node(NodeFacts::of(node));
        }
        cluster
    }

    fn text(pending: &[Pending], cluster: &Cluster) -> String {
        let steps = plan(pending, cluster.nodes());
        steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn spreads_over_the_emptiest_and_refuses_what_does_not_fit() {
        let cluster = cluster(&[node("a", json!({})), node("b", json!({}))]);
        let pods: Vec<_> = (1..=4).map(|i| pod(&format!("p{i}"), "400m", json!({}))).collect();
        let pods = [pods, vec![pod("p5", "400m", json!({}))]].concat();
        assert_eq!(
            text(&pods, &cluster),
            "bind shop/p1 to a\nbind shop/p2 to b\nbind shop/p3 to a\nbind shop/p4 to b\n\
             refuse shop/p5: 0/2 nodes are available: 2 Insufficient cpu."
        );
    }

    #[test]
    fn the_number_of_pods_is_a_resource() {
        let cluster = cluster(&[node("a", json!({}))]);
        let pods: Vec<_> = (1..=4).map(|i| pod(&format!("p{i}"), "0", json!({}))).collect();
        let text = text(&pods, &cluster);
        assert!(
            text.ends_with("refuse shop/p4: 0/1 nodes are available: 1 Too many pods."),
            "{text}"
        );
    }

    #[test]
    fn priority_goes_first() {
        let cluster = cluster(&[node("a", json!({}))]);
        let pods = [pod("low", "800m", json!({})), pod("high", "800m", json!({ "priority": 10 }))];
        assert!(text(&pods, &cluster).starts_with("bind shop/high to a\nrefuse shop/low"));
    }

    #[test]
    fn says_every_reason_with_its_count() {
        let cluster = cluster(&[
            node("a", json!({ "spec": { "unschedulable": true } })),
            node(
                "b",
                json!({ "spec": { "taints": [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] } }),
            ),
            node(
                "c",
                json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } }),
            ),
        ]);
        assert_eq!(
            text(&[pod("p", "1m", json!({}))], &cluster),
            "refuse shop/p: 0/3 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, \
             1 node(s) were not ready, 1 node(s) were unschedulable."
        );
        let bearing = json!({ "tolerations": [{ "key": "gpu", "operator": "Exists" }] });
        assert_eq!(text(&[pod("p", "1m", bearing)], &cluster), "bind shop/p to b");
        assert_eq!(
            text(&[pod("p", "1m", json!({}))], &Cluster::default()),
            "refuse shop/p: no nodes available to schedule pods"
        );
    }

    #[test]
    fn selectors_affinity_and_wishes_count() {
        let cluster = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
        let chosen = |spec| text(&[pod("p", "1m", spec)], &cluster);
        assert_eq!(chosen(json!({ "nodeSelector": { "disk": "b" } })), "bind shop/p to b");
        let term = |key: &str, operator: &str, value: &str| json!({ "key": key, "operator": operator, "values": [value] });
        let required = |term: Value| {
            json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } } })
        };
        let by_label = required(json!({ "matchExpressions": [term("disk", "In", "c")] }));
        assert_eq!(chosen(by_label), "bind shop/p to c");
        let by_name = required(json!({ "matchFields": [term("metadata.name", "In", "b")] }));
        assert_eq!(chosen(by_name), "bind shop/p to b");
        let preferred = json!({ "affinity": { "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 5, "preference": { "matchExpressions": [term("disk", "In", "c")] } },
            ] } } });
        assert_eq!(chosen(preferred), "bind shop/p to c");
        let empty = required(json!({}));
        assert!(chosen(empty).contains("didn't match Pod's node affinity/selector"));
    }

    #[test]
    fn host_ports_are_given_once() {
        let cluster = cluster(&[node("a", json!({}))]);
        let with = |name: &str, port: Value| {
            pod(name, "1m", json!({ "containers": [{ "name": "c", "ports": [port] }] }))
        };
        let first = with("p1", json!({ "containerPort": 80, "hostPort": 80 }));
        let clash =
            with("p2", json!({ "containerPort": 8080, "hostPort": 80, "hostIP": "127.0.0.1" }));
        let other = with("p3", json!({ "containerPort": 80, "hostPort": 80, "protocol": "UDP" }));
        assert_eq!(
            text(&[first, clash, other], &cluster),
            "bind shop/p1 to a\nrefuse shop/p2: 0/1 nodes are available: 1 node(s) didn't have free ports for the \
             requested pod ports.\nbind shop/p3 to a"
        );
    }

    #[test]
    fn volumes_hold_a_pod_back_or_to_their_node() {
        let cluster = cluster(&[node("a", json!({})), node("b", json!({}))]);
        let mut pending = pod("p", "1m", json!({}));
        pending.volumes = Volumes::Missing("persistentvolumeclaim \"data\" not found".into());
        assert_eq!(
            text(&[pending.clone()], &cluster),
            "refuse shop/p: 0/2 nodes are available: persistentvolumeclaim \"data\" not found."
        );
        let selector = serde_json::from_value(json!({ "nodeSelectorTerms": [{ "matchExpressions":
            [{ "key": "disk", "operator": "In", "values": ["b"] }] }] }));
        pending.volumes = Volumes::Ready(vec![selector.unwrap()]);
        assert_eq!(text(&[pending], &cluster), "bind shop/p to b");
    }

    #[test]
    fn initial_containers_count_when_they_need_more() {
        let spec = json!({
            "initContainers": [
                { "name": "side", "restartPolicy": "Always", "resources": { "requests": { "cpu": "100m" } } },
                { "name": "once", "resources": { "requests": { "cpu": "2" } } },
            ],
            "containers": [{ "name": "c", "resources": { "limits": { "memory": "1Mi" } } }],
            "overhead": { "cpu": "50m" },
        });
        let usage = usage(&serde_json::from_value(spec).unwrap());
        assert_eq!(usage.amounts["cpu"], 2150);
        assert_eq!(usage.amounts["memory"], 1 << 20);
        assert_eq!(usage.amounts["pods"], 1);
    }

    #[test]
    fn planning_again_after_any_bind_reaches_the_same_end() {
        let pods: Vec<_> = (1..=5).map(|i| pod(&format!("p{i}"), "300m", json!({}))).collect();
        let start = cluster(&[node("a", json!({})), node("b", json!({}))]);
        let whole = text(&pods, &start);
        for stop in 0..=pods.len() {
            let mut cluster = start.clone();
            let mut left = pods.clone();
            let steps = plan(&pods, cluster.nodes());
            let mut lines = Vec::new();
            for step in steps.into_iter().take(stop) {
                lines.push(step.to_string());
                let Step::Bind { pod, node, .. } = step else { panic!("all fit") };
                let at = left.iter().position(|pending| pending.pod.key == pod).unwrap();
                let bound = left.remove(at);
                cluster.place(pod.clone(), &node, bound.pod.usage.clone());
                // Said twice, as when the watch repeats what we knew.
                cluster.place(pod, &node, bound.pod.usage);
            }
            let rest = text(&left, &cluster);
            lines.extend(rest.lines().map(str::to_owned));
            assert_eq!(lines.join("\n"), whole);
        }
    }

    #[test]
    fn the_account_survives_a_node_that_comes_and_goes() {
        let mut cluster = Cluster::default();
        let taken = pod("p1", "800m", json!({}));
        cluster.place(taken.pod.key.clone(), "a", taken.pod.usage.clone());
        cluster.put_node(NodeFacts::of(&node("a", json!({}))));
        let other = [pod("p2", "800m", json!({}))];
        assert!(text(&other, &cluster).starts_with("refuse"));
        cluster.remove_node("a");
        cluster.put_node(NodeFacts::of(&node("a", json!({}))));
        assert!(text(&other, &cluster).starts_with("refuse"));
        assert!(cluster.release(&taken.pod.key));
        assert!(!cluster.release(&taken.pod.key));
        assert_eq!(text(&other, &cluster), "bind shop/p2 to a");
        assert_eq!(Arc::strong_count(&cluster.nodes()["a"].facts), 1);
    }
}
