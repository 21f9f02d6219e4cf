//! Which requests a webhook or a policy is about: rules and selectors.

use berth_objects::{Handle, LabelSelector, Object, Resource, Scope, Status};
use serde_json::Value;

use super::Asked;
use crate::server::Shared;
use crate::{convert, registry, write};

/// One rule: operations on resources.
#[derive(Debug)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    operations: Vec<String>,
    names: Vec<String>,
    scope: String,
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.list(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(all: &[String], wanted: &str) -> bool {
    all.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    fn parse(value: &Value) -> Self {
        Self {
            groups: texts(value, "apiGroups"),
            versions: texts(value, "apiVersions"),
            resources: texts(value, "resources"),
            operations: texts(value, "operations"),
            names: texts(value, "resourceNames"),
            scope: value.text(&["scope"]).to_owned(),
        }
    }

    fn matches(&self, asked: &Asked<'_>, resource: &Resource<'_>) -> bool {
        // A namespace counts as cluster-scoped, whatever paths lie below it.
        let scope = match self.scope.as_str() {
            "Namespaced" => resource.scope == Scope::Namespaced,
            "Cluster" => resource.scope == Scope::Cluster,
            _ => true,
        };
        scope
            && has(&self.operations, asked.operation.name())
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self
                .resources
                .iter()
                .any(|wanted| names(wanted, resource.plural, asked.subresource()))
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name()))
    }
}

/// Whether `pods`, `pods/log`, `pods/*`, `*`, `*/scale` or `*/*` names this.
fn names(wanted: &str, plural: &str, part: &str) -> bool {
    let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
    (resource == "*" || resource == plural) && (subresource == "*" || subresource == part)
}

/// What a webhook or a policy is about.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether no rules at all mean everything.
    open: bool,
    equivalent: bool,
    namespaces: Option<LabelSelector>,
    objects: Option<LabelSelector>,
}

impl Rules {
    /// From a webhook, or from `matchConstraints` or `matchResources` of policies and bindings.
    pub fn parse(value: &Value) -> Self {
        let all = |field: &str| value.list(&[field]).iter().map(Rule::parse).collect::<Vec<_>>();
        let mut rules = all("rules");
        rules.extend(all("resourceRules"));
        // Validation has seen to it that selectors are sound; one that is not selects nothing.
        let selector = |field: &str| {
            LabelSelector::from_object(value.get(field).filter(|it| !it.is_null()))
                .ok()
                .flatten()
                .filter(|selector| !selector.is_empty())
        };
        Self {
            rules,
            excluded: all("excludeResourceRules"),
            open: false,
            equivalent: value.text(&["matchPolicy"]) != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// From what narrows a policy down: without rules it narrows nothing.
    pub fn narrowing(value: &Value) -> Self {
        Self { open: true, ..Self::parse(value) }
    }

    /// The resource the request is matched as, which may be another version of the same object; nothing if it is none of
    /// its business.
    pub fn resource(&self, asked: &Asked<'_>) -> Option<Handle> {
        let own = asked.call.resource();
        let served = asked.call.shared.kinds.served();
        let others = || served.handles().filter(|it| self.equivalent && same(own, it.get()));
        let any =
            |rules: &[Rule], it: &Resource<'_>| rules.iter().any(|rule| rule.matches(asked, it));
        // What is excluded in one version is excluded in all.
        if any(&self.excluded, own) || others().any(|other| any(&self.excluded, other.get())) {
            return None;
        }
        if (self.open && self.rules.is_empty()) || any(&self.rules, own) {
            return Some(asked.call.handle.clone());
        }
        others().find(|other| any(&self.rules, other.get()))
    }

    /// Whether the selectors want this request.
    pub async fn selects(&self, asked: &Asked<'_>) -> Result<bool, Status> {
        if let Some(selector) = &self.objects
            && ![&*asked.object, asked.old]
                .into_iter()
                .any(|object| object.is_object() && selector.matches(object.labels()))
        {
            return Ok(false);
        }
        let Some(selector) = &self.namespaces else { return Ok(true) };
        let call = asked.call;
        if (call.resource().group, call.resource().kind) == ("", "Namespace") {
            let own = if asked.object.is_object() { &*asked.object } else { asked.old };
            return Ok(selector.matches(own.labels()));
        }
        if !call.resource().namespaced() {
            return Ok(true);
        }
        let namespace = write::fetch_namespace(call).await?.ok_or_else(|| {
            Status::not_found(berth_objects::Subject::new("", "namespaces", &call.namespace))
        })?;
        Ok(selector.matches(namespace.labels()))
    }
}

/// Whether two resources show the same objects.
fn same(one: &Resource<'_>, other: &Resource<'_>) -> bool {
    (one.group, one.version) != (other.group, other.version)
        && registry::prefix(one, "") == registry::prefix(other, "")
}

/// An object as another resource shows it.
pub(crate) async fn seen_as(
    shared: &Shared,
    own: &Resource<'_>,
    other: &Resource<'_>,
    object: &Value,
) -> Result<Value, Status> {
    if (own.group, own.version) == (other.group, other.version) || !object.is_object() {
        return Ok(object.clone());
    }
    if own.custom.is_some() {
        let mut seen = [convert::stored(shared, own, object).await?];
        if let Some(kind) = berth_custom::Kind::of(other) {
            convert::present(kind, other, &mut seen[0]);
        }
        convert::shown(shared, other, &mut seen).await?;
        let [seen] = seen;
        return Ok(seen);
    }
    let mut seen = berth_rules::present(other, berth_rules::stored(own, object.clone()));
    seen.set(&["apiVersion"], other.api_version());
    seen.set(&["kind"], other.kind);
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn resources_and_their_parts_are_named() {
        for (wanted, plural, part, expected) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "log", false),
            ("pods/log", "pods", "log", true),
            ("pods/*", "pods", "log", true),
            ("pods/*", "pods", "", true),
            ("*", "pods", "", true),
            ("*", "pods", "log", false),
            ("*/*", "pods", "log", true),
            ("*/scale", "deployments", "scale", true),
            ("*/scale", "deployments", "", false),
            ("nodes", "pods", "", false),
        ] {
            assert_eq!(names(wanted, plural, part), expected, "{wanted} {plural} {part}");
        }
    }
}
