//! What to say about a node that has, or has not, been heard of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use berth_client::Key;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::object::ready;

/// How long a node may be silent.
pub const GRACE: Duration = Duration::from_secs(40);
/// The taint of a node that is silent.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The taint of a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Conditions of a node that keep new pods away while they hold, and the taints that do.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// A node, for how long it has been silent, and its pods.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The node.
    pub node: Arc<Node>,
    /// For how long.
    pub silent: Duration,
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
}

impl Observed {
    /// When to look again: when the node would be overdue.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        (self.silent < GRACE).then(|| GRACE - self.silent + Duration::from_millis(10))
    }

    fn ready(&self) -> &str {
        let conditions =
            self.node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        ready.next().map_or("Unknown", |condition| condition.status.as_str())
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Say that nobody knows whether the node is ready.
    Doubt,
    /// Give it exactly these taints.
    Taint(Vec<Taint>),
    /// Let a pod no longer count as ready.
    Silence {
        /// The pod.
        pod: Key,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Doubt => formatter.write_str("say that it is unknown"),
            Self::Taint(taints) => {
                let keys: Vec<_> = taints.iter().map(|taint| taint.key.as_str()).collect();
                write!(formatter, "taint with [{}]", keys.join(", "))
            }
            Self::Silence { pod } => write!(formatter, "silence {pod}"),
        }
    }
}

/// The steps for one node.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Step> {
    let silent = observed.silent >= GRACE;
    let mut steps = Vec::new();
    let conditions =
        observed.node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let said = conditions.clone().any(|condition| condition.type_ == "Ready");
    if silent && (observed.ready() != "Unknown" || !said) {
        steps.push(Step::Doubt);
    }
    let mut wanted: Vec<&str> = match (silent, observed.ready()) {
        (true, _) | (false, "Unknown") => vec![UNREACHABLE],
        (false, "False") => vec![NOT_READY],
        (false, _) => vec![],
    };
    let holds = |name: &str| {
        conditions.clone().any(|condition| condition.type_ == name && condition.status == "True")
    };
    wanted.extend(PRESSURES.iter().filter(|(name, _)| holds(name)).map(|(_, key)| *key));
    let taints = observed.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let is_ours = |taint: &&Taint| {
        let known = taint.key == UNREACHABLE || taint.key == NOT_READY;
        taint.effect == "NoSchedule"
            && (known || PRESSURES.iter().any(|(_, key)| taint.key == *key))
    };
    let ours: Vec<_> = taints.clone().filter(is_ours).map(|taint| taint.key.as_str()).collect();
    if ours != wanted {
        let mut taints: Vec<_> = taints.filter(|taint| !is_ours(taint)).cloned().collect();
        taints.extend(wanted.into_iter().map(|key| Taint {
            key: key.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        }));
        steps.push(Step::Taint(taints));
    }
    if silent {
        let counted = observed.pods.iter().filter(|pod| ready(pod).is_some());
        steps.extend(counted.map(|pod| Step::Silence { pod: Key::of(pod.as_ref()) }));
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn observed(seconds: u64, ready: Value, taints: Value) -> Observed {
        let node = json!({
            "metadata": { "name": "a" },
            "spec": { "taints": taints },
            "status": { "conditions": ready },
        });
        let pod = json!({
            "metadata": { "name": "p", "namespace": "shop" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        Observed {
            node: Arc::new(serde_json::from_value(node).unwrap()),
            silent: Duration::from_secs(seconds),
            pods: vec![Arc::new(serde_json::from_value(pod).unwrap())],
        }
    }

    fn text(observed: &Observed) -> String {
        plan(observed).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn ready(status: &str) -> Value {
        json!([{ "type": "Ready", "status": status }])
    }

    #[test]
    fn a_silent_node_is_doubted_tainted_and_its_pods_do_not_count() {
        let other = json!([{ "key": "mine", "effect": "NoSchedule" }]);
        assert_eq!(
            text(&observed(41, ready("True"), other)),
            "say that it is unknown\ntaint with [mine, node.kubernetes.io/unreachable]\nsilence shop/p"
        );
        assert!(text(&observed(41, json!([]), json!([]))).starts_with("say that it is unknown"));
    }

    #[test]
    fn a_node_that_is_heard_of_loses_the_taint() {
        let tainted = json!([{ "key": UNREACHABLE, "effect": "NoSchedule" }]);
        assert_eq!(text(&observed(1, ready("True"), tainted)), "taint with []");
        assert_eq!(text(&observed(1, ready("True"), json!([]))), "");
        assert_eq!(
            text(&observed(1, ready("False"), json!([]))),
            "taint with [node.kubernetes.io/not-ready]"
        );
    }

    #[test]
    fn a_node_that_is_short_of_something_is_tainted_for_it() {
        let short = json!([
            { "type": "Ready", "status": "True" },
            { "type": "MemoryPressure", "status": "True" },
            { "type": "DiskPressure", "status": "Unknown" },
            { "type": "PIDPressure", "status": "True" },
        ]);
        let mine = json!([{ "key": "mine", "effect": "NoSchedule" }]);
        assert_eq!(
            text(&observed(1, short, mine)),
            "taint with [mine, node.kubernetes.io/memory-pressure, node.kubernetes.io/pid-pressure]"
        );
        let tainted =
            json!([{ "key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule" }]);
        assert_eq!(text(&observed(1, ready("True"), tainted)), "taint with []");
    }

    #[test]
    fn looks_again_when_the_node_would_be_overdue() {
        assert_eq!(observed(10, json!([]), json!([])).next().unwrap().as_secs(), 30);
        assert_eq!(observed(40, json!([]), json!([])).next(), None);
    }

    #[test]
    fn stopping_after_any_step_reaches_the_same_end() {
        for stop in 0..=3 {
            let mut world = observed(50, ready("True"), json!([]));
            for round in 0..2 {
                let count = if round == 0 { stop } else { usize::MAX };
                for step in plan(&world).into_iter().take(count) {
                    let mut node = world.node.as_ref().clone();
                    match step {
                        Step::Doubt => {
                            let conditions =
                                node.status.as_mut().unwrap().conditions.as_mut().unwrap();
                            conditions[0].status = "Unknown".into();
                        }
                        Step::Taint(taints) => node.spec.as_mut().unwrap().taints = Some(taints),
                        Step::Silence { .. } => world.pods.clear(),
                    }
                    world.node = Arc::new(node);
                }
            }
            assert_eq!(text(&world), "", "stopped after {stop}");
        }
    }
}
