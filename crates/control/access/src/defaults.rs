//! The roles and bindings every cluster has.
//!
//! Written as lines of three words, `verbs groups resources`, because as objects they would be thousands of lines in which
//! nobody sees an error. The core group is `-`; a group `/` means paths that are no resources. `resource=name` gives one name.

mod controllers;
mod people;
mod system;

use serde_json::{Value, json};

use crate::index::aggregate;
use crate::{GROUP, Rule};

/// The annotation that has a role or binding brought back to its default at every start.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";

/// A role of the table: name, and its rules.
type Role = (&'static str, &'static [&'static str]);

/// Reads rules from lines.
pub(crate) fn parse(lines: &[&str]) -> Vec<Rule> {
    lines.iter().map(|line| parse_line(line)).collect()
}

fn parse_line(line: &str) -> Rule {
    let mut words = line.split(' ');
    let mut next = || -> Vec<String> {
        words.next().unwrap_or_default().split(',').map(str::to_owned).collect()
    };
    let (verbs, groups, things) = (next(), next(), next());
    if groups == ["/"] {
        return Rule { verbs, urls: things, ..Rule::default() };
    }
    let groups = groups.into_iter().map(|group| if group == "-" { String::new() } else { group });
    let (mut resources, mut names) = (Vec::new(), Vec::new());
    for thing in things {
        let (resource, name) = thing.split_once('=').unwrap_or((&thing, ""));
        resources.push(resource.to_owned());
        if !name.is_empty() {
            names.push(name.to_owned());
        }
    }
    Rule { verbs, groups: groups.collect(), resources, names, urls: Vec::new() }
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {BOOTSTRAPPING: "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn rules(lines: &[&str]) -> Value {
    parse(lines).iter().map(Rule::to_value).collect()
}

fn cluster_role(name: &str, lines: &[&str]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": metadata(name, ""), "rules": rules(lines),
    })
}

/// The ClusterRoles every cluster has; aggregated ones with the rules of the default parts.
#[must_use]
pub fn cluster_roles() -> Vec<Value> {
    let mut roles: Vec<Value> = people::ROLES
        .iter()
        .chain(system::ROLES)
        .map(|(name, lines)| cluster_role(name, lines))
        .collect();
    for (name, lines) in controllers::ROLES {
        roles.push(cluster_role(&format!("system:controller:{name}"), lines));
    }
    for (part, whole) in people::PARTS {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{whole}");
        let role = roles.iter_mut().find(|role| role["metadata"]["name"] == *part);
        role.expect("every part is a role")["metadata"]["labels"][label] = "true".into();
    }
    // From the inside out: what is a sum may itself be a part.
    for whole in ["view", "edit", "admin"] {
        let mut role = cluster_role(whole, &[]);
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{whole}");
        role["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        for outer in people::INNER.iter().filter(|(inner, _)| *inner == whole).map(|(_, of)| of) {
            let label = format!("rbac.authorization.k8s.io/aggregate-to-{outer}");
            role["metadata"]["labels"][label] = "true".into();
        }
        role["rules"] = aggregate(&role, &roles).unwrap_or_default().into();
        roles.push(role);
    }
    roles
}

fn subject(kind: &str, name: &str) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) => {
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        None => json!({"kind": kind, "name": name, "apiGroup": GROUP}),
    }
}

fn cluster_role_binding(name: &str, role: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": metadata(name, ""),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    })
}

/// The ClusterRoleBindings every cluster has.
#[must_use]
pub fn cluster_role_bindings() -> Vec<Value> {
    let mut bindings: Vec<Value> = system::BINDINGS
        .iter()
        .map(|(role, kind, name)| cluster_role_binding(role, role, &subject(kind, name)))
        .collect();
    for (name, _) in controllers::ROLES {
        let role = format!("system:controller:{name}");
        let account = subject("ServiceAccount", &format!("kube-system/{name}"));
        bindings.push(cluster_role_binding(&role, &role, &account));
    }
    bindings
}

/// The Roles every cluster has.
#[must_use]
pub fn roles() -> Vec<Value> {
    let role = |(namespace, name, lines, _): &system::Local| {
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "Role",
            "metadata": metadata(name, namespace), "rules": rules(lines),
        })
    };
    system::LOCAL.iter().map(role).collect()
}

/// The RoleBindings every cluster has.
#[must_use]
pub fn role_bindings() -> Vec<Value> {
    let binding = |(namespace, name, _, of): &system::Local| {
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding",
            "metadata": metadata(name, namespace),
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name},
            "subjects": of.iter().map(|of| subject("User", of)).collect::<Vec<_>>(),
        })
    };
    system::LOCAL.iter().map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rules() {
        let rule = parse_line("get,list -,apps pods,secrets=one");
        assert_eq!(rule.groups, ["", "apps"]);
        assert_eq!((rule.resources.len(), rule.names), (2, vec!["one".to_owned()]));
        assert_eq!(parse_line("get / /healthz,/x/*").urls, ["/healthz", "/x/*"]);
    }

    #[test]
    fn every_line_says_three_things() {
        let lines = people::ROLES.iter().chain(system::ROLES).chain(controllers::ROLES);
        for (name, lines) in lines {
            for line in *lines {
                assert_eq!(line.split(' ').count(), 3, "{name}: {line}");
            }
        }
    }

    #[test]
    fn every_binding_finds_its_role() {
        let roles = cluster_roles();
        for binding in cluster_role_bindings() {
            let wanted = &binding["roleRef"]["name"];
            assert!(roles.iter().any(|role| role["metadata"]["name"] == *wanted), "{wanted}");
        }
        let sum = roles.iter().find(|role| role["metadata"]["name"] == "admin").unwrap();
        assert!(sum["rules"].as_array().unwrap().len() > 10);
    }
}
