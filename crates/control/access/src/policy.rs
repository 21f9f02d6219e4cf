//! All that decides, asked in order: the group that may do everything, the node authorizer, the roles.

use berth_objects::Object;
use serde_json::Value;

use crate::index::RoleName;
use crate::{Attributes, Graph, Identity, Index, MASTERS, Rule, Verdict, rule, uncovered};

/// Who may do what at this moment.
#[derive(Debug, Default)]
pub struct Policy {
    /// Roles and bindings.
    pub roles: Index,
    /// Nodes and their pods.
    pub nodes: Graph,
}

impl Policy {
    /// Takes an object that is new or changed in; kinds that decide nothing are ignored.
    pub fn put(&mut self, object: &Value) {
        match object.text(&["kind"]) {
            "Pod" => self.nodes.put(object),
            _ => self.roles.put(object),
        }
    }

    /// Forgets an object that is gone.
    pub fn remove(&mut self, object: &Value) {
        match object.text(&["kind"]) {
            "Pod" => self.nodes.remove(object),
            _ => self.roles.remove(object),
        }
    }

    /// Judges a request.
    #[must_use]
    pub fn judge(&self, identity: &Identity, wanted: &Attributes<'_>) -> Verdict {
        if identity.is_in(MASTERS) {
            return Verdict::Allow(String::new());
        }
        let node = self.nodes.judge(identity, wanted);
        if let Some(Verdict::Allow(reason)) = node {
            return Verdict::Allow(reason);
        }
        match (self.roles.judge(identity, wanted), node) {
            (Verdict::Deny(reason), Some(Verdict::Deny(node))) if reason.is_empty() => {
                Verdict::Deny(node)
            }
            (verdict, _) => verdict,
        }
    }

    /// All rules somebody has in a namespace.
    #[must_use]
    pub fn rules(&self, identity: &Identity, namespace: &str) -> Vec<Rule> {
        let mut rules = self.roles.rules(identity, namespace);
        if identity.is_in(MASTERS) {
            rules.extend(everything());
        }
        rules
    }

    /// What somebody would give themselves or others with a Role, ClusterRole or binding, besides what they have: nothing
    /// where they may write it. `verb` is `escalate` for roles and `bind` for bindings, which whoever may do needs no more.
    ///
    /// # Errors
    /// The sentence that refuses it.
    pub fn may_grant(&self, identity: &Identity, object: &Value) -> Result<(), String> {
        if identity.is_in(MASTERS) {
            return Ok(());
        }
        let namespace = object.namespace();
        let (wanted, aggregates) = match object.text(&["kind"]) {
            "Role" | "ClusterRole" => {
                let resource =
                    if object.text(&["kind"]) == "Role" { "roles" } else { "clusterroles" };
                if self.special(identity, "escalate", resource, namespace, object.name()) {
                    return Ok(());
                }
                (Rule::of(object), object.at(&["aggregationRule"]).is_some_and(|it| !it.is_null()))
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                let role = RoleName::of_binding(object);
                let resource = if role.namespace.is_empty() { "clusterroles" } else { "roles" };
                if self.special(identity, "bind", resource, namespace, &role.name) {
                    return Ok(());
                }
                let Some(rules) = self.roles.role(&role) else {
                    return Err(format!("{resource}.{} \"{}\" not found", crate::GROUP, role.name));
                };
                (rules.to_vec(), false)
            }
            _ => return Ok(()),
        };
        let owned = self.rules(identity, namespace);
        if aggregates && !uncovered(&owned, &everything()).is_empty() {
            return Err("must have cluster-admin privileges to use the aggregationRule".to_owned());
        }
        let missing = uncovered(&owned, &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<_> = missing.iter().map(ToString::to_string).collect();
        lines.sort();
        Err(format!(
            "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            identity.user,
            identity.groups,
            lines.join("\n")
        ))
    }

    fn special(
        &self,
        identity: &Identity,
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        let group = crate::GROUP;
        let wanted = Attributes { verb, group, resource, namespace, name, ..Attributes::default() };
        self.judge(identity, &wanted).is_allowed()
    }
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    let resources = rule::Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
    [resources, Rule { verbs: all(), urls: all(), ..Rule::default() }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let mut policy = Policy::default();
        for object in crate::cluster_roles().into_iter().chain(crate::cluster_role_bindings()) {
            policy.put(&object);
        }
        policy.put(&json!({"kind": "ClusterRole", "metadata": {"name": "granter"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}));
        policy.put(&json!({"kind": "ClusterRoleBinding", "metadata": {"name": "granter"},
            "roleRef": {"kind": "ClusterRole", "name": "granter"},
            "subjects": [{"kind": "User", "name": "ann"}]}));
        policy
    }

    fn role(verbs: &[&str]) -> Value {
        json!({"kind": "Role", "metadata": {"name": "r", "namespace": "shop"}, "rules": [
            {"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]})
    }

    #[test]
    fn masters_need_no_role() {
        let wanted = Attributes { verb: "delete", resource: "nodes", ..Attributes::default() };
        let admin = Identity::new("root", &[MASTERS]);
        assert!(Policy::default().judge(&admin, &wanted).is_allowed());
        assert!(policy().may_grant(&admin, &role(&["*"])).is_ok());
    }

    #[test]
    fn a_grant_may_not_exceed_what_the_granter_has() {
        let policy = policy();
        let ann = Identity::new("ann", &[]);
        assert!(policy.may_grant(&ann, &role(&["get"])).is_ok());
        let refused = policy.may_grant(&ann, &role(&["get", "delete"])).unwrap_err();
        assert!(refused.contains("Verbs:[\"delete\"]"), "{refused}");
        let binding = |role: &str| {
            json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "shop"},
            "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "eve"}]})
        };
        assert!(policy.may_grant(&ann, &binding("granter")).is_ok());
        assert!(policy.may_grant(&ann, &binding("cluster-admin")).is_err());
        assert!(policy.may_grant(&ann, &binding("no-such-role")).is_err());
    }

    #[test]
    fn bind_and_escalate_are_rights_of_their_own() {
        let mut policy = policy();
        policy.put(&json!({"kind": "ClusterRole", "metadata": {"name": "granter"}, "rules": [
            {"verbs": ["bind"], "apiGroups": [crate::GROUP], "resources": ["clusterroles"],
                "resourceNames": ["cluster-admin"]},
            {"verbs": ["escalate"], "apiGroups": [crate::GROUP], "resources": ["roles"]}]}));
        let ann = Identity::new("ann", &[]);
        assert!(policy.may_grant(&ann, &role(&["*"])).is_ok());
        let mut whole = role(&["*"]);
        whole["kind"] = "ClusterRole".into();
        assert!(policy.may_grant(&ann, &whole).is_err());
        let binding = json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"},
            "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []});
        assert!(policy.may_grant(&ann, &binding).is_ok());
    }

    #[test]
    fn aggregation_needs_all_rights() {
        let policy = policy();
        let sum = json!({"kind": "ClusterRole", "metadata": {"name": "sum"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": []}});
        assert!(policy.may_grant(&Identity::new("ann", &[]), &sum).is_err());
        assert!(policy.may_grant(&Identity::new("root", &[MASTERS]), &sum).is_ok());
    }

    #[test]
    fn the_default_roles_do_what_their_names_say() {
        let mut policy = policy();
        for name in ["view", "edit", "admin"] {
            policy.put(
                &json!({"kind": "RoleBinding", "metadata": {"name": name, "namespace": "shop"},
                "roleRef": {"kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "User", "name": name}]}),
            );
        }
        let may = |user: &str, verb: &str, what: &str| {
            let (group, resource) = what.split_once(' ').unwrap();
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let group = if group == "-" { "" } else { group };
            let wanted = Attributes {
                verb,
                group,
                resource,
                subresource,
                namespace: "shop",
                ..Attributes::default()
            };
            let identity = Identity::new(user, &[crate::AUTHENTICATED]);
            policy.judge(&identity, &wanted).is_allowed()
        };
        for user in ["view", "edit", "admin"] {
            assert!(may(user, "list", "- pods") && may(user, "get", "apps deployments"), "{user}");
            assert!(
                !may(user, "delete", "- namespaces") && !may(user, "list", "- nodes"),
                "{user}"
            );
        }
        assert!(!may("view", "get", "- secrets") && !may("view", "create", "- pods"));
        assert!(may("edit", "get", "- secrets") && may("edit", "create", "- pods/exec"));
        assert!(!may("edit", "create", &format!("{} rolebindings", crate::GROUP)));
        assert!(may("admin", "create", &format!("{} rolebindings", crate::GROUP)));
        assert!(may("nobody", "create", "authorization.k8s.io selfsubjectaccessreviews"));
        assert!(!may("nobody", "list", "- pods"));
    }
}
