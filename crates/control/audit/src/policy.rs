//! What is recorded, and in what detail: rules in the form of upstream's audit policy; the first that fits decides.

use berth_objects::Object;
use serde_json::{Value, json};

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who asked for what, and with what outcome.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

/// What a request is, as far as the policy looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// The verb.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The resource; empty for a path that is none.
    pub resource: &'a str,
    /// The subresource.
    pub subresource: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// The path.
    pub path: &'a str,
}

/// Why a policy is none.
#[derive(Debug, thiserror::Error)]
#[error("the audit policy is wrong: {0}")]
pub struct PolicyError(String);

#[derive(Debug)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    /// API group, resources with subresources, names.
    resources: Vec<(String, Vec<String>, Vec<String>)>,
    namespaces: Vec<String>,
    urls: Vec<String>,
}

/// The rules.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

fn words(value: &Value, field: &str) -> Vec<String> {
    value.list(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Default for Policy {
    /// Nothing of health checks, Events and the routine of the cluster's own components; never the content of what may be
    /// secret; of everything else who asked for what.
    fn default() -> Self {
        let read = ["get", "list", "watch"];
        let system = ["system:nodes", "system:serviceaccounts:kube-system"];
        let components =
            ["system:kube-controller-manager", "system:kube-scheduler", "system:berth-dns"];
        let policy = json!({"rules": [
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/api*", "/openapi*"]},
            {"level": "None", "resources": [{"group": "", "resources": ["events"]}, {"group": "events.k8s.io"}]},
            {"level": "None", "userGroups": system, "verbs": read},
            {"level": "None", "users": components, "verbs": read},
            {"level": "None", "userGroups": ["system:nodes"], "resources": [
                {"group": "coordination.k8s.io", "resources": ["leases"]},
                {"group": "", "resources": ["nodes/status", "pods/status"]}]},
            {"level": "Metadata"},
        ]});
        Self::parse(&policy).expect("the default policy is sound, which a test checks")
    }
}

impl Policy {
    /// Reads a `Policy` of `audit.k8s.io/v1`.
    ///
    /// # Errors
    /// When a level is unknown or there is no rule.
    pub fn parse(policy: &Value) -> Result<Self, PolicyError> {
        let kind = policy.text(&["kind"]);
        if !kind.is_empty() && kind != "Policy" {
            return Err(PolicyError(format!("kind Policy expected, {kind} found")));
        }
        let rules = policy.list(&["rules"]);
        if rules.is_empty() {
            return Err(PolicyError("it has no rules".to_owned()));
        }
        let rules = rules.iter().enumerate().map(|(index, rule)| {
            let level = match rule.text(&["level"]) {
                "None" => Level::None,
                "Metadata" => Level::Metadata,
                "Request" => Level::Request,
                "RequestResponse" => Level::RequestResponse,
                other => {
                    let why = format!("rules[{index}].level: \"{other}\" is none of None, Metadata, Request, RequestResponse");
                    return Err(PolicyError(why));
                }
            };
            let resources = rule.list(&["resources"]).iter().map(|it| {
                (it.text(&["group"]).to_owned(), words(it, "resources"), words(it, "resourceNames"))
            });
            let rule = Rule {
                level,
                users: words(rule, "users"),
                groups: words(rule, "userGroups"),
                verbs: words(rule, "verbs"),
                resources: resources.collect(),
                namespaces: words(rule, "namespaces"),
                urls: words(rule, "nonResourceURLs"),
            };
            let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if !rule.urls.is_empty() && about_resources {
                let why = format!("rules[{index}]: nonResourceURLs stand alone");
                return Err(PolicyError(why));
            }
            Ok(rule)
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// How much of a request is recorded. What no rule fits is not.
    #[must_use]
    pub fn level(&self, asked: &Asked<'_>) -> Level {
        let rule = self.rules.iter().find(|rule| rule.fits(asked));
        let level = rule.map_or(Level::None, |rule| rule.level);
        // Whatever a policy says: tokens and the content of Secrets have no place in a log.
        let secret = matches!(
            (asked.group, asked.resource, asked.subresource),
            ("", "secrets", _)
                | ("", "serviceaccounts", "token")
                | ("authentication.k8s.io", "tokenreviews", _)
        );
        if secret { level.min(Level::Metadata) } else { level }
    }
}

fn fits(words: &[String], word: &str) -> bool {
    words.is_empty() || words.iter().any(|known| known == "*" || known == word)
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let in_group =
            self.groups.is_empty() || self.groups.iter().any(|group| asked.groups.contains(group));
        if !fits(&self.users, asked.user) || !in_group || !fits(&self.verbs, asked.verb) {
            return false;
        }
        if asked.resource.is_empty() {
            let any =
                self.urls.is_empty() && self.resources.is_empty() && self.namespaces.is_empty();
            return any || self.urls.iter().any(|url| url_fits(url, asked.path));
        }
        if !self.urls.is_empty() || !fits(&self.namespaces, asked.namespace) {
            return false;
        }
        self.resources.is_empty()
            || self.resources.iter().any(|(group, resources, names)| {
                group == asked.group
                    && (resources.is_empty() || resources.iter().any(|it| resource_fits(it, asked)))
                    && fits(names, asked.name)
            })
    }
}

fn url_fits(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn resource_fits(known: &str, asked: &Asked<'_>) -> bool {
    match known.split_once('/') {
        None => known == "*" || (known == asked.resource && asked.subresource.is_empty()),
        Some((resource, part)) => {
            (resource == "*" || resource == asked.resource)
                && !asked.subresource.is_empty()
                && (part == "*" || part == asked.subresource)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(&json!({"kind": "Policy", "rules": [
            {"level": "None", "users": ["bot"], "verbs": ["get"]},
            {"level": "RequestResponse", "namespaces": ["shop"], "resources": [{"group": "apps"}]},
            {"level": "Request", "resources": [{"group": "", "resources": ["pods/*", "configmaps"],
                "resourceNames": []}]},
            {"level": "Metadata", "nonResourceURLs": ["/metrics*"]},
            {"level": "RequestResponse", "resources": [{"group": "", "resources": ["secrets"]}]},
        ]}))
        .unwrap();
        let asked = Asked { user: "ann", verb: "get", resource: "pods", ..Asked::default() };
        let level = |asked: Asked<'_>| policy.level(&asked);
        assert_eq!(level(Asked { user: "bot", ..asked }), Level::None);
        assert_eq!(level(Asked { subresource: "exec", ..asked }), Level::Request);
        assert_eq!(level(asked), Level::None);
        let apps = Asked { group: "apps", resource: "deployments", namespace: "shop", ..asked };
        assert_eq!(level(apps), Level::RequestResponse);
        assert_eq!(level(Asked { namespace: "other", ..apps }), Level::None);
        let path = Asked { user: "ann", verb: "get", path: "/metrics/x", ..Asked::default() };
        assert_eq!(level(path), Level::Metadata);
        assert_eq!(level(Asked { resource: "secrets", ..asked }), Level::Metadata);
    }

    #[test]
    fn a_wrong_policy_is_told() {
        for (wrong, why) in [
            (json!({}), "no rules"),
            (json!({"kind": "Pod", "rules": [{}]}), "kind Policy expected"),
            (json!({"rules": [{"level": "All"}]}), "rules[0].level"),
        ] {
            let error = Policy::parse(&wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn routine_is_not_recorded_and_deeds_are() {
        let policy = Policy::default();
        let nodes = ["system:nodes".to_owned()];
        let routine = Asked {
            groups: &nodes,
            verb: "patch",
            group: "coordination.k8s.io",
            resource: "leases",
            ..Asked::default()
        };
        assert_eq!(policy.level(&routine), Level::None);
        let deed = Asked { user: "ann", verb: "delete", resource: "pods", ..Asked::default() };
        assert_eq!(policy.level(&deed), Level::Metadata);
    }
}
