//! One rule of a role, and whether rules cover other rules.

use berth_objects::Object;
use serde_json::{Map, Value, json};

use crate::Attributes;

/// One rule: what may be done with what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// Resources, with subresources as `pods/log`, `pods/*`, `*/scale`, or `*`.
    pub resources: Vec<String>,
    /// Names; none means all.
    pub names: Vec<String>,
    /// Paths that are no resources, with `*` at the end or alone.
    pub urls: Vec<String>,
}

fn words(rule: &Value, field: &str) -> Vec<String> {
    rule.list(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn holds(known: &[String], word: &str) -> bool {
    known.iter().any(|known| known == "*" || known == word)
}

impl Rule {
    /// A `PolicyRule` of the API.
    #[must_use]
    pub fn parse(rule: &Value) -> Self {
        Self {
            verbs: words(rule, "verbs"),
            groups: words(rule, "apiGroups"),
            resources: words(rule, "resources"),
            names: words(rule, "resourceNames"),
            urls: words(rule, "nonResourceURLs"),
        }
    }

    /// The rules of a role.
    #[must_use]
    pub fn of(role: &Value) -> Vec<Self> {
        role.list(&["rules"]).iter().map(Self::parse).collect()
    }

    /// As a `PolicyRule` of the API.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = Map::new();
        value.insert("verbs".into(), json!(self.verbs));
        let rest = [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (field, words) in rest.into_iter().filter(|(_, words)| !words.is_empty()) {
            value.insert(field.into(), json!(words));
        }
        Value::Object(value)
    }

    /// Whether the rule lets a request through.
    #[must_use]
    pub fn allows(&self, wanted: &Attributes<'_>) -> bool {
        if !holds(&self.verbs, wanted.verb) {
            return false;
        }
        if wanted.resource.is_empty() {
            return self.urls.iter().any(|url| url_covers(url, wanted.path));
        }
        holds(&self.groups, wanted.group)
            && self.has_resource(wanted.resource, wanted.subresource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == wanted.name))
    }

    fn has_resource(&self, resource: &str, part: &str) -> bool {
        self.resources.iter().any(|known| match known.split_once('/') {
            _ if known == "*" => true,
            None => part.is_empty() && known == resource,
            Some(("*", known)) => !part.is_empty() && known == part,
            // `pods/*` is no pattern upstream: it names a subresource `*`, which does not exist.
            Some((known, sub)) => known == resource && sub == part && !part.is_empty(),
        })
    }
}

fn url_covers(owned: &str, wanted: &str) -> bool {
    owned == "*"
        || owned == wanted
        || owned.strip_suffix('*').is_some_and(|start| wanted.starts_with(start))
}

/// Whether a rule about a single thing is covered by one of the owner's rules.
fn covered(owned: &[Rule], verb: &str, single: &Single<'_>) -> bool {
    owned.iter().any(|rule| {
        holds(&rule.verbs, verb)
            && match single {
                Single::Url(url) => rule.urls.iter().any(|owned| url_covers(owned, url)),
                Single::Resource { group, resource, name } => {
                    holds(&rule.groups, group)
                        && resource_covered(rule, resource)
                        && (rule.names.is_empty()
                            || name.is_some_and(|name| rule.names.iter().any(|own| own == name)))
                }
            }
    })
}

fn resource_covered(rule: &Rule, wanted: &str) -> bool {
    rule.resources.iter().any(|known| {
        known == "*"
            || known == wanted
            || matches!((known.split_once('/'), wanted.split_once('/')),
                (Some(("*", own)), Some((_, part))) if own == part)
    })
}

enum Single<'a> {
    Url(&'a str),
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
}

/// What of `wanted` somebody who has `owned` does not have. Empty when a role of these rules would give them nothing new.
#[must_use]
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing = Vec::new();
    for rule in wanted {
        let mut left = Rule::default();
        for verb in &rule.verbs {
            for url in &rule.urls {
                if !covered(owned, verb, &Single::Url(url)) {
                    note(&mut left.verbs, verb);
                    note(&mut left.urls, url);
                }
            }
            for (group, resource, name) in singles(rule) {
                if !covered(owned, verb, &Single::Resource { group, resource, name }) {
                    note(&mut left.verbs, verb);
                    note(&mut left.groups, group);
                    note(&mut left.resources, resource);
                    if let Some(name) = name {
                        note(&mut left.names, name);
                    }
                }
            }
        }
        if !left.verbs.is_empty() {
            missing.push(left);
        }
    }
    missing
}

fn singles(rule: &Rule) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
    let names: Vec<Option<&str>> = if rule.names.is_empty() {
        vec![None]
    } else {
        rule.names.iter().map(|name| Some(name.as_str())).collect()
    };
    rule.groups.iter().flat_map(move |group| {
        let names = names.clone();
        rule.resources.iter().flat_map(move |resource| {
            let names = names.clone();
            names.into_iter().map(move |name| (group.as_str(), resource.as_str(), name))
        })
    })
}

fn note(words: &mut Vec<String>, word: &str) {
    if !words.iter().any(|known| known == word) {
        words.push(word.to_owned());
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        let fields = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.urls),
            ("Verbs", &self.verbs),
        ];
        for (name, words) in fields.into_iter().filter(|(_, words)| !words.is_empty()) {
            parts.push(format!("{name}:{words:?}"));
        }
        write!(out, "{{{}}}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let split = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        Rule {
            verbs: split(verbs),
            groups: groups.split(' ').map(str::to_owned).collect(),
            resources: split(resources),
            names: if names.is_empty() { Vec::new() } else { split(names) },
            urls: Vec::new(),
        }
    }

    fn ask<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { verb, group, resource, subresource, name, ..Attributes::default() }
    }

    #[test]
    fn rules_name_verbs_groups_resources_and_names() {
        let pods = rule("get list", "", "pods pods/log", "");
        assert!(pods.allows(&ask("get", "", "pods", "a")));
        assert!(pods.allows(&ask("get", "", "pods/log", "a")));
        assert!(!pods.allows(&ask("get", "", "pods/exec", "a")));
        assert!(!pods.allows(&ask("delete", "", "pods", "a")));
        assert!(!pods.allows(&ask("get", "apps", "pods", "a")));
        let one = rule("*", "apps", "deployments", "web");
        assert!(one.allows(&ask("delete", "apps", "deployments", "web")));
        assert!(!one.allows(&ask("list", "apps", "deployments", "")));
        let scale = rule("get", "*", "*/scale", "");
        assert!(scale.allows(&ask("get", "apps", "deployments/scale", "a")));
        assert!(!scale.allows(&ask("get", "apps", "deployments", "a")));
        assert!(rule("*", "*", "*", "").allows(&ask("bind", "x", "y/z", "")));
    }

    #[test]
    fn paths_are_whole_or_begin() {
        let urls = Rule {
            verbs: vec!["get".into()],
            urls: vec!["/healthz".into(), "/openapi/*".into()],
            ..Rule::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        assert!(urls.allows(&path("/healthz")) && urls.allows(&path("/openapi/v3")));
        assert!(!urls.allows(&path("/healthz/x")) && !urls.allows(&path("/metrics")));
    }

    #[test]
    fn nobody_gives_what_they_do_not_have() {
        let owned = [rule("get list watch", "", "pods", ""), rule("get", "", "secrets", "a")];
        assert!(uncovered(&owned, &[rule("get watch", "", "pods", "")]).is_empty());
        assert!(uncovered(&owned, &[rule("get", "", "pods", "x")]).is_empty());
        let missing = uncovered(&owned, &[rule("get delete", "", "pods secrets", "")]);
        assert_eq!(missing, [rule("get delete", "", "secrets pods", "")]);
        assert!(uncovered(&owned, &[rule("get", "", "secrets", "a")]).is_empty());
        assert_eq!(uncovered(&owned, &[rule("get", "", "secrets", "a b")]).len(), 1);
        assert_eq!(uncovered(&owned, &[rule("*", "", "pods", "")]).len(), 1);
        assert!(uncovered(&[rule("*", "*", "*", "")], &[rule("x", "y", "z/w", "v")]).is_empty());
        let scale = [rule("get", "apps", "*/scale", "")];
        assert!(uncovered(&scale, &[rule("get", "apps", "deployments/scale", "")]).is_empty());
    }
}
