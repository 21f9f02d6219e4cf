//! What a namespace's labels ask for.

use serde_json::Value;

use crate::{Level, Policy, Version};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// What happens to pods of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// Pods that break this are refused.
    pub enforce: Policy,
    /// Pods that break this are noted in the audit log.
    pub audit: Policy,
    /// Whoever makes pods that break this is warned.
    pub warn: Policy,
}

/// A label that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{label}: {value:?} is none of {expected}")]
pub struct LabelError {
    /// The label's key.
    pub label: String,
    /// Its value.
    pub value: String,
    /// What it could be.
    pub expected: &'static str,
}

impl Policies {
    /// The same for all three.
    #[must_use]
    pub const fn all(policy: Policy) -> Self {
        Self { enforce: policy, audit: policy, warn: policy }
    }

    /// Reads the labels of a namespace; what they do not say is as in `default`.
    ///
    /// Where a label cannot be read, the level is [`Level::Restricted`], as upstream has it: who set it wanted something.
    #[must_use]
    pub fn of(labels: &Value, default: Self) -> (Self, Vec<LabelError>) {
        let mut errors = Vec::new();
        let mut read = |mode: &str, default: Policy| {
            let mut policy = default;
            let label = format!("{PREFIX}{mode}");
            if let Some(value) = labels[&label].as_str() {
                policy.level = value.parse().unwrap_or_else(|()| {
                    let expected = "privileged, baseline, restricted";
                    errors.push(LabelError { label, value: value.to_owned(), expected });
                    Level::Restricted
                });
            }
            let label = format!("{PREFIX}{mode}-version");
            if let Some(value) = labels[&label].as_str() {
                policy.version = value.parse().unwrap_or_else(|()| {
                    let expected = "latest, v1.x";
                    errors.push(LabelError { label, value: value.to_owned(), expected });
                    Version::Latest
                });
            }
            policy
        };
        let enforce = read("enforce", default.enforce);
        let (audit, warn) = (read("audit", default.audit), read("warn", default.warn));
        (Self { enforce, audit, warn }, errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const fn policy(level: Level, version: Version) -> Policy {
        Policy { level, version }
    }

    #[test]
    fn labels_change_what_they_name() {
        let default = Policies::all(policy(Level::Baseline, Version::Latest));
        let labels = json!({
            "pod-security.kubernetes.io/enforce": "privileged",
            "pod-security.kubernetes.io/warn": "restricted",
            "pod-security.kubernetes.io/warn-version": "v1.28",
        });
        let (read, errors) = Policies::of(&labels, default);
        assert_eq!(errors, []);
        assert_eq!(read.enforce, policy(Level::Privileged, Version::Latest));
        assert_eq!(read.audit, default.audit);
        assert_eq!(read.warn, policy(Level::Restricted, Version::Minor(28)));
        assert_eq!(Policies::of(&Value::Null, default), (default, Vec::new()));
    }

    #[test]
    fn what_cannot_be_read_is_strict_and_reported() {
        let default = Policies::all(policy(Level::Privileged, Version::Minor(30)));
        let labels = json!({
            "pod-security.kubernetes.io/enforce": "Baseline",
            "pod-security.kubernetes.io/audit-version": "1.30",
        });
        let (read, errors) = Policies::of(&labels, default);
        assert_eq!(read.enforce, policy(Level::Restricted, Version::Minor(30)));
        assert_eq!(read.audit.version, Version::Latest);
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("pod-security.kubernetes.io/enforce: \"Baseline\""));
    }
}
