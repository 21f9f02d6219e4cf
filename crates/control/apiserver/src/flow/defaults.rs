//! The schemas and levels every cluster has, as upstream has them.

use serde_json::{Value, json};

/// Name, shares, lendable percent, queues and hand.
type Row = (&'static str, u32, u32, u32, u32);

const LEVELS: [Row; 6] = [
    ("leader-election", 10, 0, 16, 4),
    ("node-high", 40, 25, 64, 6),
    ("system", 30, 33, 64, 6),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

fn level(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": automatic()}, "spec": spec})
}

fn automatic() -> Value {
    json!({"apf.kubernetes.io/autoupdate-spec": "true"})
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({"matchingPrecedence": precedence,
        "priorityLevelConfiguration": {"name": level}, "rules": rules});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    json!({"metadata": {"name": name, "annotations": automatic()}, "spec": spec})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": groups, "resources": resources,
        "namespaces": ["*"], "clusterScope": true})
}

fn all_paths() -> Value {
    json!({"verbs": ["*"], "nonResourceURLs": ["*"]})
}

/// Everything, for these subjects.
fn everything(subjects: &[Value]) -> Value {
    json!([{"subjects": subjects, "resourceRules": [resources(&["*"], &["*"], &["*"])],
        "nonResourceRules": [all_paths()]}])
}

/// Resource and object of all of them; levels come before the schemas that name them.
pub(crate) fn objects() -> Vec<(&'static str, Value)> {
    let mut levels = vec![
        level("exempt", json!({"type": "Exempt"})),
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
                "limitResponse": {"type": "Reject"}}}),
        ),
    ];
    levels.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let response = json!({"type": "Queue", "queuing": queuing});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": response});
        level(name, json!({"type": "Limited", "limited": limited}))
    }));
    let crowd = [group("system:unauthenticated"), group("system:authenticated")];
    let leases = resources(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"]);
    let probes = json!([{"subjects": crowd, "nonResourceRules": [{"verbs": ["get"],
        "nonResourceURLs": ["/healthz", "/livez", "/readyz"]}]}]);
    let controllers = [user("system:kube-controller-manager"), user("system:kube-scheduler")];
    let nodes = [group("system:nodes")];
    let heartbeats = json!([{"subjects": nodes, "resourceRules": [
        resources(&["*"], &[""], &["nodes", "nodes/status"]),
        resources(&["*"], &["coordination.k8s.io"], &["leases"])]}]);
    let election = json!([{"subjects": [controllers[0], controllers[1], account("*")],
        "resourceRules": [leases]}]);
    let endpoints = json!([{
        "subjects": [controllers[0], account("endpoint-controller"), account("endpointslice-controller"),
            account("endpointslicemirroring-controller")],
        "resourceRules": [resources(&["get", "create", "update"], &[""], &["endpoints"]),
            resources(&["get", "create", "update"], &["discovery.k8s.io"], &["endpointslices"])]}]);
    let schemas = [
        schema("exempt", "exempt", 1, "", everything(&[group("system:masters")])),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("endpoint-controller", "workload-high", 150, "ByUser", endpoints),
        schema("system-node-high", "node-high", 400, "ByUser", heartbeats),
        schema("system-nodes", "system", 500, "ByUser", everything(&nodes)),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(&controllers[..1]),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            everything(&controllers[1..]),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(&[account("*")]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(&[group("system:serviceaccounts")]),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(&crowd)),
        schema("catch-all", "catch-all", 10000, "ByUser", everything(&crowd)),
    ];
    let levels = levels.into_iter().map(|level| ("prioritylevelconfigurations", level));
    levels.chain(schemas.into_iter().map(|schema| ("flowschemas", schema))).collect()
}
