//! Roles and bindings, ordered by who is asked about.
//!
//! A request looks at the bindings of its user and groups only, cluster-wide and in its own namespace, so the number of
//! other people's roles does not matter.

use std::collections::HashMap;
use std::sync::Arc;

use berth_objects::{LabelSelector, Object};
use serde_json::Value;

use crate::{Attributes, Identity, Rule, Verdict, service_account};

/// The name of a role; of a ClusterRole where the namespace is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoleName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Who a binding speaks of, as the names it is looked up by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

#[derive(Debug, Clone)]
struct Binding {
    name: String,
    role: RoleName,
    /// As messages call it: `ServiceAccount "a/b"`.
    subject: String,
}

type Place = (String, Who);

/// Roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<RoleName, Arc<Vec<Rule>>>,
    /// By namespace (empty for the whole cluster) and subject.
    bindings: HashMap<Place, Vec<Binding>>,
    /// Where each binding stands, to find it again when it changes.
    places: HashMap<(String, String), Vec<Place>>,
}

impl Index {
    /// Takes a new or changed Role, ClusterRole, RoleBinding or ClusterRoleBinding in; anything else is ignored.
    pub fn put(&mut self, object: &Value) {
        match object.text(&["kind"]) {
            "Role" | "ClusterRole" => {
                let name = RoleName {
                    namespace: object.namespace().to_owned(),
                    name: object.name().to_owned(),
                };
                self.roles.insert(name, Arc::new(Rule::of(object)));
            }
            "RoleBinding" | "ClusterRoleBinding" => self.bind(object),
            _ => {}
        }
    }

    /// Forgets an object that is gone.
    pub fn remove(&mut self, object: &Value) {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        match object.text(&["kind"]) {
            "Role" | "ClusterRole" => drop(self.roles.remove(&RoleName { namespace, name })),
            "RoleBinding" | "ClusterRoleBinding" => self.unbind(&namespace, &name),
            _ => {}
        }
    }

    fn unbind(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        for place in self.places.remove(&key).unwrap_or_default() {
            if let Some(bindings) = self.bindings.get_mut(&place) {
                bindings.retain(|binding| binding.name != name);
                if bindings.is_empty() {
                    self.bindings.remove(&place);
                }
            }
        }
    }

    fn bind(&mut self, object: &Value) {
        let (namespace, name) = (object.namespace(), object.name());
        self.unbind(namespace, name);
        let role = role_of(object);
        let mut places = Vec::new();
        for subject in object.list(&["subjects"]) {
            let named = subject.text(&["name"]);
            let (who, text) = match subject.text(&["kind"]) {
                "User" => (Who::User(named.to_owned()), format!("User \"{named}\"")),
                "Group" => (Who::Group(named.to_owned()), format!("Group \"{named}\"")),
                "ServiceAccount" => {
                    let home = match subject.text(&["namespace"]) {
                        "" => namespace,
                        home => home,
                    };
                    let user = service_account(home, named);
                    (Who::User(user), format!("ServiceAccount \"{named}/{home}\""))
                }
                _ => continue,
            };
            let place = (namespace.to_owned(), who);
            let binding = Binding { name: name.to_owned(), role: role.clone(), subject: text };
            self.bindings.entry(place.clone()).or_default().push(binding);
            places.push(place);
        }
        self.places.insert((namespace.to_owned(), name.to_owned()), places);
    }

    /// The rules of a role, if it exists.
    #[must_use]
    pub fn role(&self, name: &RoleName) -> Option<&[Rule]> {
        self.roles.get(name).map(|rules| rules.as_slice())
    }

    fn bindings<'a>(
        &'a self,
        identity: &'a Identity,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Binding)> {
        let user = std::iter::once(Who::User(identity.user.clone()));
        let groups = identity.groups.iter().map(|group| Who::Group(group.clone()));
        let spaces = if namespace.is_empty() { vec![""] } else { vec!["", namespace] };
        user.chain(groups).flat_map(move |who| {
            let spaces = spaces.clone();
            spaces.into_iter().flat_map(move |space| {
                let found = self.bindings.get(&(space.to_owned(), who.clone()));
                found.into_iter().flatten().map(move |binding| (space, binding))
            })
        })
    }

    /// All rules somebody has in a namespace, cluster-wide ones included.
    #[must_use]
    pub fn rules(&self, identity: &Identity, namespace: &str) -> Vec<Rule> {
        let bindings = self.bindings(identity, namespace);
        let roles = bindings.filter_map(|(_, binding)| self.roles.get(&binding.role));
        roles.flat_map(|rules| rules.iter().cloned()).collect()
    }

    /// Judges a request by the roles alone.
    #[must_use]
    pub fn judge(&self, identity: &Identity, wanted: &Attributes<'_>) -> Verdict {
        let mut missing = Vec::new();
        for (space, binding) in self.bindings(identity, wanted.namespace) {
            let Some(rules) = self.roles.get(&binding.role) else {
                missing.push(format!("{} not found", binding.role.describe()));
                continue;
            };
            if rules.iter().any(|rule| rule.allows(wanted)) {
                let (role, kind) =
                    (binding.role.describe(), if space.is_empty() { "Cluster" } else { "" });
                let name = match space {
                    "" => binding.name.clone(),
                    space => format!("{}/{space}", binding.name),
                };
                let subject = &binding.subject;
                return Verdict::Allow(format!(
                    "RBAC: allowed by {kind}RoleBinding \"{name}\" of {role} to {subject}"
                ));
            }
        }
        missing.sort();
        missing.dedup();
        Verdict::Deny(match missing.as_slice() {
            [] => String::new(),
            missing => format!("RBAC: {}", missing.join(", ")),
        })
    }
}

/// The role a binding names.
pub(crate) fn role_of(binding: &Value) -> RoleName {
    let namespace = match binding.text(&["roleRef", "kind"]) {
        "Role" => binding.namespace(),
        _ => "",
    };
    RoleName {
        namespace: namespace.to_owned(),
        name: binding.text(&["roleRef", "name"]).to_owned(),
    }
}

impl RoleName {
    /// The role a RoleBinding or ClusterRoleBinding names.
    #[must_use]
    pub fn of_binding(binding: &Value) -> Self {
        role_of(binding)
    }

    fn describe(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("ClusterRole \"{}\"", self.name),
            _ => format!("Role \"{}\"", self.name),
        }
    }
}

/// The rules an aggregated ClusterRole should have, given all ClusterRoles: those of the roles its selectors choose, in the
/// order of their names, each once. Nothing for a role that is not aggregated.
#[must_use]
pub fn aggregate<'a>(role: &Value, all: impl IntoIterator<Item = &'a Value>) -> Option<Vec<Value>> {
    let selectors: Vec<LabelSelector> = role
        .at(&["aggregationRule", "clusterRoleSelectors"])?
        .as_array()?
        .iter()
        .filter_map(|selector| LabelSelector::from_object(Some(selector)).ok().flatten())
        .collect();
    let mut chosen: Vec<&Value> = all
        .into_iter()
        .filter(|other| other.name() != role.name())
        .filter(|other| selectors.iter().any(|selector| selector.matches(other.labels())))
        .collect();
    chosen.sort_by_key(|other| other.name());
    let mut rules: Vec<Value> = Vec::new();
    for rule in chosen.into_iter().flat_map(|other| other.list(&["rules"])) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        index.put(&json!({"kind": "ClusterRole", "metadata": {"name": "view"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}));
        index.put(&json!({"kind": "Role", "metadata": {"name": "edit", "namespace": "shop"},
            "rules": [{"verbs": ["update"], "apiGroups": [""], "resources": ["pods"]}]}));
        index.put(&json!({"kind": "ClusterRoleBinding", "metadata": {"name": "all"},
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "Group", "name": "people"}]}));
        index.put(&json!({"kind": "RoleBinding", "metadata": {"name": "one", "namespace": "shop"},
            "roleRef": {"kind": "Role", "name": "edit"},
            "subjects": [{"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "bot"}]}));
        index
    }

    fn pods<'a>(verb: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes { verb, resource: "pods", namespace, name: "p", ..Attributes::default() }
    }

    #[test]
    fn bindings_reach_users_groups_and_accounts_where_they_are_made() {
        let index = index();
        let ann = Identity::new("ann", &["people"]);
        assert_eq!(
            index.judge(&ann, &pods("get", "any")).reason(),
            "RBAC: allowed by ClusterRoleBinding \"all\" of ClusterRole \"view\" to Group \"people\""
        );
        assert!(index.judge(&ann, &pods("update", "shop")).is_allowed());
        assert!(!index.judge(&ann, &pods("update", "other")).is_allowed());
        assert!(!index.judge(&ann, &pods("update", "")).is_allowed());
        let bot = Identity::new("system:serviceaccount:shop:bot", &[]);
        assert!(index.judge(&bot, &pods("update", "shop")).is_allowed());
        let other = Identity::new("system:serviceaccount:other:bot", &[]);
        assert!(!index.judge(&other, &pods("update", "shop")).is_allowed());
        // A user whose name is a group's is not in that group.
        assert!(!index.judge(&Identity::new("people", &[]), &pods("get", "")).is_allowed());
    }

    #[test]
    fn what_is_taken_back_is_gone_at_once() {
        let mut index = index();
        let ann = Identity::new("ann", &[]);
        index.put(&json!({"kind": "RoleBinding", "metadata": {"name": "one", "namespace": "shop"},
            "roleRef": {"kind": "Role", "name": "edit"}, "subjects": []}));
        assert!(!index.judge(&ann, &pods("update", "shop")).is_allowed());
        index.put(&json!({"kind": "RoleBinding", "metadata": {"name": "two", "namespace": "shop"},
            "roleRef": {"kind": "Role", "name": "edit"}, "subjects": [{"kind": "User", "name": "ann"}]}));
        assert!(index.judge(&ann, &pods("update", "shop")).is_allowed());
        index.remove(&json!({"kind": "Role", "metadata": {"name": "edit", "namespace": "shop"}}));
        let verdict = index.judge(&ann, &pods("update", "shop"));
        assert_eq!(verdict, Verdict::Deny("RBAC: Role \"edit\" not found".into()));
        index.remove(
            &json!({"kind": "RoleBinding", "metadata": {"name": "two", "namespace": "shop"}}),
        );
        assert_eq!(index.judge(&ann, &pods("update", "shop")), Verdict::Deny(String::new()));
        assert!(index.places.keys().all(|(_, name)| name != "two"));
    }

    #[test]
    fn aggregated_roles_are_the_sum_of_those_they_choose() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let part = |name: &str, rules: Value| json!({"metadata": {"name": name, "labels": {"to": "view"}}, "rules": rules});
        let all = [part("b", json!([rule("get"), rule("list")])), part("a", json!([rule("get")]))];
        let whole = json!({"metadata": {"name": "view", "labels": {"to": "view"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}});
        let rules = aggregate(&whole, all.iter().chain([&whole])).unwrap();
        assert_eq!(rules, [rule("get"), rule("list")]);
        assert_eq!(aggregate(&all[0], &all), None);
    }
}
