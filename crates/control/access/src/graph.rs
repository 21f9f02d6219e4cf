//! What a node may touch: itself, the pods bound to it, and what those pods use.
//!
//! Surprising: a node may read all pods, Services and policies, because it filters packets between them; upstream leaves that
//! to agents with rights of their own. Contents of Secrets and ConfigMaps it sees only where a pod of its own uses them.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use berth_objects::Object;
use serde_json::Value;

use crate::{Attributes, Identity, Rule, Verdict, node_of};

/// Things that pods use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Account,
}

type Thing = (Kind, String, String);

#[derive(Debug, Default)]
struct PodFacts {
    node: String,
    uses: BTreeSet<Thing>,
}

/// Which node has which pods, and what those use.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<(String, String), PodFacts>,
    /// How many pods of a node use a thing.
    uses: HashMap<Thing, HashMap<String, usize>>,
}

impl Graph {
    /// Takes a new or changed pod in.
    pub fn put(&mut self, pod: &Value) {
        self.remove(pod);
        let node = pod.text(&["spec", "nodeName"]);
        if node.is_empty() {
            return;
        }
        let facts = PodFacts { node: node.to_owned(), uses: uses(pod) };
        for thing in &facts.uses {
            *self.uses.entry(thing.clone()).or_default().entry(facts.node.clone()).or_default() +=
                1;
        }
        self.pods.insert((pod.namespace().to_owned(), pod.name().to_owned()), facts);
    }

    /// Forgets a pod that is gone.
    pub fn remove(&mut self, pod: &Value) {
        let key = (pod.namespace().to_owned(), pod.name().to_owned());
        let Some(facts) = self.pods.remove(&key) else { return };
        for thing in facts.uses {
            let Some(nodes) = self.uses.get_mut(&thing) else { continue };
            if let Some(count) = nodes.get_mut(&facts.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&facts.node);
                }
            }
            if nodes.is_empty() {
                self.uses.remove(&thing);
            }
        }
    }

    /// Whether a pod is bound to a node.
    #[must_use]
    pub fn has_pod(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.has(node, Kind::Pod, namespace, name)
    }

    fn has(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let thing = (kind, namespace.to_owned(), name.to_owned());
        self.uses.get(&thing).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Judges a request of a node; nothing when the user is no node.
    #[must_use]
    pub fn judge(&self, identity: &Identity, wanted: &Attributes<'_>) -> Option<Verdict> {
        let node = node_of(identity)?;
        let refuse = |why: &str| Some(Verdict::Deny(why.to_owned()));
        let read = matches!(wanted.verb, "get" | "list" | "watch");
        let used = |kind| self.has(node, kind, wanted.namespace, wanted.name);
        let no_path = "no relationship found between node and this object";
        let verdict = |holds: bool, why: &str| match holds {
            true => Some(Verdict::Allow(String::new())),
            false => refuse(why),
        };
        match (wanted.group, wanted.resource, wanted.subresource) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
                let kind = match wanted.resource {
                    "secrets" => Kind::Secret,
                    "configmaps" => Kind::ConfigMap,
                    _ => Kind::Claim,
                };
                match () {
                    () if !read => refuse("can only read resources of this type"),
                    () if wanted.name.is_empty() => {
                        refuse("can only read namespaced object of this type by name")
                    }
                    () => verdict(used(kind), no_path),
                }
            }
            ("", "serviceaccounts", "") => {
                verdict(wanted.verb == "get" && used(Kind::Account), no_path)
            }
            ("", "serviceaccounts", "token") => {
                verdict(wanted.verb == "create" && used(Kind::Account), no_path)
            }
            ("", "pods", part) if !read => match (part, wanted.verb) {
                // The name of a new object is in its body, which admission looks at.
                ("", "create") => verdict(true, ""),
                ("", "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                    verdict(used(Kind::Pod), "can only touch pods bound to this node")
                }
                _ => refuse("cannot do this with pods"),
            },
            ("", "nodes", "" | "status") if matches!(wanted.verb, "update" | "patch") => {
                verdict(wanted.name == node, "can only touch its own node")
            }
            ("coordination.k8s.io", "leases", "") => match () {
                () if wanted.namespace != "kube-node-lease" => {
                    refuse("can only access leases in the \"kube-node-lease\" namespace")
                }
                // The name of a new object is in its body, which admission looks at.
                () if wanted.verb == "create" => verdict(true, ""),
                () => {
                    let may = matches!(wanted.verb, "get" | "update" | "patch" | "delete");
                    verdict(may && wanted.name == node, "can only access its own lease")
                }
            },
            _ => verdict(RULES.iter().any(|rule| rule.allows(wanted)), ""),
        }
    }
}

/// What every node may do whatever its pods are.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    crate::defaults::parse(&[
        "create authentication.k8s.io tokenreviews",
        "create authorization.k8s.io subjectaccessreviews,localsubjectaccessreviews,selfsubjectaccessreviews,selfsubjectrulesreviews",
        "create authentication.k8s.io selfsubjectreviews",
        "get,list,watch - services,namespaces,nodes,pods,persistentvolumes",
        "create - nodes",
        // Admission lets a node write the volumes it has the directory of.
        "patch,update - persistentvolumes",
        "create,patch,update -,events.k8s.io events",
        "get,list,watch discovery.k8s.io endpointslices",
        "get,list,watch networking.k8s.io networkpolicies",
        "get,list,watch storage.k8s.io storageclasses,csidrivers,csinodes,volumeattachments",
        "get,list,watch node.k8s.io runtimeclasses",
        "create,get,list,watch certificates.k8s.io certificatesigningrequests",
        "get / /healthz,/livez,/readyz,/version,/version/,/api,/api/*,/apis,/apis/*,/openapi,/openapi/*",
    ])
});

fn uses(pod: &Value) -> BTreeSet<Thing> {
    let namespace = pod.namespace();
    let mut things = BTreeSet::new();
    let mut note = |kind, name: &str| {
        if !name.is_empty() {
            things.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    note(Kind::Pod, pod.name());
    note(Kind::Account, pod.text(&["spec", "serviceAccountName"]));
    for secret in pod.list(&["spec", "imagePullSecrets"]) {
        note(Kind::Secret, secret.text(&["name"]));
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in pod.list(&["spec", field]) {
            for variable in container.list(&["env"]) {
                note(Kind::Secret, variable.text(&["valueFrom", "secretKeyRef", "name"]));
                note(Kind::ConfigMap, variable.text(&["valueFrom", "configMapKeyRef", "name"]));
            }
            for source in container.list(&["envFrom"]) {
                note(Kind::Secret, source.text(&["secretRef", "name"]));
                note(Kind::ConfigMap, source.text(&["configMapRef", "name"]));
            }
        }
    }
    for volume in pod.list(&["spec", "volumes"]) {
        note(Kind::Secret, volume.text(&["secret", "secretName"]));
        note(Kind::ConfigMap, volume.text(&["configMap", "name"]));
        note(Kind::Claim, volume.text(&["persistentVolumeClaim", "claimName"]));
        if volume.get("ephemeral").is_some() {
            note(Kind::Claim, &format!("{}-{}", pod.name(), volume.text(&["name"])));
        }
        for source in volume.list(&["projected", "sources"]) {
            note(Kind::Secret, source.text(&["secret", "name"]));
            note(Kind::ConfigMap, source.text(&["configMap", "name"]));
        }
        for kind in ["cephfs", "rbd", "flexVolume", "scaleIO", "storageos", "iscsi"] {
            note(Kind::Secret, volume.text(&[kind, "secretRef", "name"]));
        }
        note(Kind::Secret, volume.text(&["csi", "nodePublishSecretRef", "name"]));
    }
    things
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "default",
            "containers": [{"envFrom": [{"secretRef": {"name": "env"}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "tls"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}}]}})
    }

    fn ask(graph: &Graph, node: &str, verb: &str, resource: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let identity = Identity::new(format!("system:node:{node}"), &["system:nodes"]);
        let wanted = Attributes {
            verb,
            resource,
            subresource,
            namespace: "shop",
            name,
            ..Attributes::default()
        };
        graph.judge(&identity, &wanted).unwrap().is_allowed()
    }

    #[test]
    fn a_node_sees_what_its_pods_use_and_nothing_else() {
        let mut graph = Graph::default();
        graph.put(&pod());
        for (resource, name) in [
            ("secrets", "env"),
            ("secrets", "tls"),
            ("configmaps", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "data"),
        ] {
            assert!(ask(&graph, "n1", "get", resource, name), "{resource} {name}");
            assert!(!ask(&graph, "n2", "get", resource, name), "{resource} {name}");
        }
        assert!(!ask(&graph, "n1", "get", "secrets", "other"));
        assert!(!ask(&graph, "n1", "list", "secrets", ""));
        assert!(!ask(&graph, "n1", "update", "secrets", "tls"));
        assert!(ask(&graph, "n1", "create", "serviceaccounts/token", "default"));
        assert!(!ask(&graph, "n2", "create", "serviceaccounts/token", "default"));
    }

    #[test]
    fn a_node_touches_itself_and_its_pods() {
        let mut graph = Graph::default();
        graph.put(&pod());
        assert!(ask(&graph, "n1", "patch", "pods/status", "web"));
        assert!(ask(&graph, "n1", "delete", "pods", "web"));
        assert!(!ask(&graph, "n2", "patch", "pods/status", "web"));
        assert!(ask(&graph, "n1", "create", "pods", ""), "admission takes only mirrors");
        assert!(!ask(&graph, "n1", "patch", "pods", "web"));
        assert!(ask(&graph, "n1", "create", "pods/eviction", "web"));
        assert!(!ask(&graph, "n1", "create", "pods/exec", "web"));
        assert!(ask(&graph, "n1", "patch", "nodes/status", "n1"));
        assert!(!ask(&graph, "n1", "patch", "nodes/status", "n2"));
        assert!(!ask(&graph, "n1", "delete", "nodes", "n1"));
        let stranger = Identity::new("system:node:n1", &["people"]);
        assert_eq!(graph.judge(&stranger, &Attributes::default()), None);
    }

    #[test]
    fn what_two_pods_use_stays_until_both_are_gone() {
        let mut graph = Graph::default();
        let mut second = pod();
        second.set(&["metadata", "name"], "web2");
        graph.put(&pod());
        graph.put(&second);
        graph.put(&second);
        graph.remove(&pod());
        assert!(ask(&graph, "n1", "get", "secrets", "tls"));
        graph.remove(&second);
        assert!(!ask(&graph, "n1", "get", "secrets", "tls"));
        assert!(graph.uses.is_empty() && graph.pods.is_empty());
    }
}
