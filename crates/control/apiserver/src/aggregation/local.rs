//! The versions of groups that this server answers for itself, as API services, and the order in which groups are told.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kinds::Served;

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// Marks objects that the servers make and remove themselves.
pub(super) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// How it marks those of definitions, which go with them.
pub(super) const DEFINED: &str = "true";
/// What upstream gives defined groups and versions.
const PRIORITY: (i64, i64) = (1000, 100);

/// Which groups come first where a name is in several of them, as upstream orders them.
const PRIORITIES: [(&str, i64); 22] = [
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("resource.k8s.io", 15900),
    // Told first, since nothing of it is in any other group.
    (GROUP, 20000),
    ("metrics.k8s.io", 100),
];

/// How early a group is told: the larger, the earlier.
pub(crate) fn priority(group: &str) -> i64 {
    let known = PRIORITIES.iter().find(|(name, _)| *name == group);
    known.map_or(PRIORITY.0, |(_, priority)| *priority)
}

/// What there has to be for what this server answers for itself, by name.
pub(super) fn objects(served: &Served) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    // What is made for being replaced has none either: whoever brings a replacement brings the object.
    let groups = crate::discovery::groups(served).into_keys();
    for group in groups.filter(|group| *group != GROUP && *group != super::METRICS) {
        let versions = crate::discovery::versions(served, group);
        let count = versions.len();
        for (place, version) in versions.into_iter().enumerate() {
            let builtin = berth_rules::resources().any(|it| it.group == group);
            let rank = i64::try_from(count - place).unwrap_or(1);
            let (version_priority, how) =
                if builtin { (rank * 10, "onstart") } else { (PRIORITY.1, DEFINED) };
            let name = format!("{version}.{group}");
            let object = json!({
                "metadata": {"name": name, "labels": {MANAGED: how}},
                "spec": {"group": group, "version": version, "groupPriorityMinimum": priority(group),
                         "versionPriority": version_priority},
            });
            all.insert(name, object);
        }
    }
    all
}
