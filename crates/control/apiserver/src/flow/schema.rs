//! Which requests belong to which flow.

use berth_access::{Attributes, Identity};
use berth_objects::Object;
use serde_json::Value;

/// A FlowSchema.
pub(super) struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    pub precedence: i64,
    by: By,
    rules: Vec<Value>,
}

/// What tells the flows of one schema apart.
enum By {
    Nothing,
    User,
    Namespace,
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    rule.list(&[field]).iter().any(|one| one == "*" || one == wanted)
}

impl Schema {
    pub fn parse(object: &Value) -> Self {
        Self {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            level: object.text(&["spec", "priorityLevelConfiguration", "name"]).to_owned(),
            precedence: object.integer(&["spec", "matchingPrecedence"]).unwrap_or(1000),
            by: match object.text(&["spec", "distinguisherMethod", "type"]) {
                "ByUser" => By::User,
                "ByNamespace" => By::Namespace,
                _ => By::Nothing,
            },
            rules: object.list(&["spec", "rules"]).to_vec(),
        }
    }

    pub fn matches(&self, identity: &Identity, wanted: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| {
            rule.list(&["subjects"]).iter().any(|subject| is(subject, identity))
                && if wanted.resource.is_empty() {
                    rule.list(&["nonResourceRules"]).iter().any(|it| is_path(it, wanted))
                } else {
                    rule.list(&["resourceRules"]).iter().any(|it| is_resource(it, wanted))
                }
        })
    }

    /// What all requests of one flow have in common.
    pub fn distinguish<'a>(&self, identity: &'a Identity, wanted: &Attributes<'a>) -> &'a str {
        match self.by {
            By::Nothing => "",
            By::User => &identity.user,
            By::Namespace => wanted.namespace,
        }
    }
}

fn is(subject: &Value, identity: &Identity) -> bool {
    match subject.text(&["kind"]) {
        "User" => {
            matches!(subject.text(&["user", "name"]), name if name == "*" || name == identity.user)
        }
        "Group" => {
            let name = subject.text(&["group", "name"]);
            name == "*" || identity.is_in(name)
        }
        "ServiceAccount" => {
            let namespace = subject.text(&["serviceAccount", "namespace"]);
            match subject.text(&["serviceAccount", "name"]) {
                "*" => identity.is_in(&format!("system:serviceaccounts:{namespace}")),
                name => identity.user == berth_access::service_account(namespace, name),
            }
        }
        _ => false,
    }
}

fn is_resource(rule: &Value, wanted: &Attributes<'_>) -> bool {
    let part = wanted.subresource;
    let whole = format!("{}/{part}", wanted.resource);
    let resource = if part.is_empty() { wanted.resource } else { &whole };
    has(rule, "verbs", wanted.verb)
        && has(rule, "apiGroups", wanted.group)
        && has(rule, "resources", resource)
        && match wanted.namespace {
            "" => rule.flag(&["clusterScope"]),
            namespace => has(rule, "namespaces", namespace),
        }
}

fn is_path(rule: &Value, wanted: &Attributes<'_>) -> bool {
    let paths = rule.list(&["nonResourceURLs"]).iter().filter_map(Value::as_str);
    let fits = |path: &str| match path.strip_suffix('*') {
        Some(start) => wanted.path.starts_with(start),
        None => path == wanted.path,
    };
    has(rule, "verbs", wanted.verb) && paths.into_iter().any(fits)
}
