//! What a namespace needs, or what keeps it from ending.

use std::fmt;

use super::observe::{Content, Observed};
use crate::object::is_going;

/// One change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Make the ServiceAccount of pods that name none.
    CreateAccount,
    /// Make the ConfigMap with the certificate.
    CreateRootCa,
    /// Put the right certificate into it.
    ChangeRootCa,
    /// Delete an object.
    Delete(Content),
    /// Let the namespace go.
    Finalize,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateAccount => formatter.write_str("create the default service account"),
            Self::CreateRootCa => formatter.write_str("create the root certificate"),
            Self::ChangeRootCa => formatter.write_str("change the root certificate"),
            Self::Delete(content) => {
                write!(formatter, "delete {} {}", content.kind.resource.plural, content.name)
            }
            Self::Finalize => formatter.write_str("finalize"),
        }
    }
}

/// The steps for a namespace. One that ends waits for pods before the rest: they may need their Secrets to stop well.
#[must_use]
pub fn plan(observed: &Observed, ca_pem: &str) -> Vec<Step> {
    if is_going(observed.namespace.as_ref()) {
        return end(observed);
    }
    let mut steps = Vec::new();
    if !observed.account {
        steps.push(Step::CreateAccount);
    }
    match observed.root_ca.as_deref() {
        None => steps.push(Step::CreateRootCa),
        Some(said) if said != ca_pem => steps.push(Step::ChangeRootCa),
        Some(_) => {}
    }
    steps
}

fn end(observed: &Observed) -> Vec<Step> {
    let finalizers = observed.namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    if !finalizers.is_some_and(|finalizers| finalizers.iter().any(|name| name == "kubernetes")) {
        return Vec::new();
    }
    if observed.contents.is_empty() {
        return vec![Step::Finalize];
    }
    // What makes pods goes with them, or they would be made again.
    let (first, rest): (Vec<_>, Vec<_>) = observed.contents.iter().partition(|content| {
        let group = content.kind.resource.group.as_str();
        content.kind.resource.plural == "pods" || matches!(group, "apps" | "batch")
    });
    let now = if first.is_empty() { rest } else { first };
    let idle = now.into_iter().filter(|content| !content.going);
    idle.cloned().map(Step::Delete).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::ApiResource;
    use serde_json::json;

    use super::*;
    use crate::catalogue::Kind;

    fn observed(going: bool) -> Observed {
        let mut namespace: Namespace = serde_json::from_value(json!({
            "metadata": { "name": "shop" }, "spec": { "finalizers": ["kubernetes"] },
        }))
        .unwrap();
        if going {
            let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
            namespace.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        }
        Observed {
            namespace: Arc::new(namespace),
            account: false,
            root_ca: None,
            contents: Vec::new(),
        }
    }

    fn content(group: &str, plural: &str, name: &str) -> Content {
        let resource = ApiResource {
            group: group.into(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: plural.into(),
            plural: plural.into(),
        };
        let kind = Arc::new(Kind { resource, namespaced: true });
        Content { kind, name: name.into(), uid: name.into(), going: false }
    }

    fn text(observed: &Observed) -> String {
        plan(observed, "pem").iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_namespace_has_an_account_and_the_certificate() {
        let mut observed = observed(false);
        assert_eq!(
            text(&observed),
            "create the default service account\ncreate the root certificate"
        );
        observed.account = true;
        observed.root_ca = Some("another".into());
        assert_eq!(text(&observed), "change the root certificate");
        observed.root_ca = Some("pem".into());
        assert_eq!(text(&observed), "");
    }

    #[test]
    fn a_namespace_ends_pods_first_and_stopping_after_any_step_changes_nothing() {
        for stop in 0..4 {
            let mut observed = observed(true);
            observed.contents = vec![
                content("", "secrets", "s"),
                content("", "pods", "p"),
                content("apps", "deployments", "d"),
            ];
            assert_eq!(text(&observed), "delete pods p\ndelete deployments d");
            let mut lines = Vec::new();
            for round in 0.. {
                let steps = plan(&observed, "pem");
                let count = if round == 0 { stop } else { usize::MAX };
                for step in steps.into_iter().take(count) {
                    lines.push(step.to_string());
                    match step {
                        Step::Delete(gone) => {
                            observed.contents.retain(|content| content.uid != gone.uid);
                        }
                        _ => observed.namespace = Arc::new(Namespace::default()),
                    }
                }
                if observed.namespace.spec.is_none() {
                    break;
                }
            }
            let end = ["delete pods p", "delete deployments d", "delete secrets s", "finalize"];
            assert_eq!(lines, end, "stopped after {stop}");
        }
    }

    #[test]
    fn waits_for_what_is_going() {
        let mut observed = observed(true);
        let pod = content("", "pods", "p");
        observed.contents = vec![Content { going: true, ..pod }, content("", "secrets", "s")];
        assert_eq!(text(&observed), "");
    }
}
