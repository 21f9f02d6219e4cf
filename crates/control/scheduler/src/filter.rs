//! Whether a pod may run on a node, and if not, why.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};

use crate::observe::{NodeFacts, NodeState, PodFacts};

/// All reasons why a pod may not run on a node; none when it may.
pub fn reasons(pod: &PodFacts, volumes: &[NodeSelector], node: &NodeState) -> Vec<String> {
    let facts = &node.facts;
    if let Some(reason) = closed(pod, facts) {
        return vec![reason];
    }
    if let Some(taint) = untolerated(pod, facts) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    let labelled =
        pod.node_selector.iter().all(|(key, value)| facts.labels.get(key) == Some(value));
    if !labelled || pod.required.as_ref().is_some_and(|selector| !selects(selector, facts)) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    if volumes.iter().any(|selector| !selects(selector, facts)) {
        return vec!["node(s) had volume node affinity conflict".to_owned()];
    }
    if pod.usage.ports.iter().any(|port| node.used.ports.iter().any(|used| used.clashes(port))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    lacking(pod, node)
}

fn closed(pod: &PodFacts, node: &NodeFacts) -> Option<String> {
    let taint = |key: &str| Taint {
        key: key.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let borne = |key: &str| pod.tolerations.iter().any(|toleration| bears(toleration, &taint(key)));
    if !node.ready && !borne("node.kubernetes.io/not-ready") {
        return Some("node(s) were not ready".to_owned());
    }
    if node.unschedulable && !borne("node.kubernetes.io/unschedulable") {
        return Some("node(s) were unschedulable".to_owned());
    }
    None
}

fn untolerated<'a>(pod: &PodFacts, node: &'a NodeFacts) -> Option<&'a Taint> {
    let repelling = node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
    let mut borne_not = repelling
        .filter(|taint| !pod.tolerations.iter().any(|toleration| bears(toleration, taint)));
    borne_not.next()
}

/// Whether a toleration covers a taint.
pub fn bears(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => key.is_empty() || key == taint.key,
        _ => key == taint.key && text(&toleration.value) == text(&taint.value),
    }
}

fn lacking(pod: &PodFacts, node: &NodeState) -> Vec<String> {
    let mut reasons = Vec::new();
    for (name, wanted) in &pod.usage.amounts {
        // A node that does not say how many pods it takes, takes any number.
        let unsaid = if name == "pods" { i64::MAX } else { 0 };
        let has = node.facts.allocatable.get(name).copied().unwrap_or(unsaid);
        let used = node.used.amounts.get(name).copied().unwrap_or(0);
        if *wanted > 0 && used.saturating_add(*wanted) > has {
            let text = if name == "pods" {
                "Too many pods".into()
            } else {
                format!("Insufficient {name}")
            };
            reasons.push(text);
        }
    }
    reasons
}

/// Whether one of the terms matches the node. No terms match nothing.
pub fn selects(selector: &NodeSelector, node: &NodeFacts) -> bool {
    selector.node_selector_terms.iter().any(|term| matches(term, &node.labels))
}

/// Whether all of a term matches labels. An empty term matches nothing.
pub fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let mut all = expressions.chain(term.match_fields.iter().flatten()).peekable();
    all.peek().is_some() && all.all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let has = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let numbers = || {
        let limit = values.first()?.parse::<i64>().ok()?;
        Some((has?.parse::<i64>().ok()?, limit))
    };
    match requirement.operator.as_str() {
        "In" => has.is_some_and(|has| values.contains(has)),
        "NotIn" => has.is_none_or(|has| !values.contains(has)),
        "Exists" => has.is_some(),
        "DoesNotExist" => has.is_none(),
        "Gt" => numbers().is_some_and(|(has, limit)| has > limit),
        "Lt" => numbers().is_some_and(|(has, limit)| has < limit),
        _ => false,
    }
}
