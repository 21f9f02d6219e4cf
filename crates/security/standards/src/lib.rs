//! The Pod Security Standards of Kubernetes (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>): what a pod
//! may ask for at each level.
//!
//! A judge in the sense of our layers: it reads a pod's template and says what is wrong with it; others act on that. The
//! checks depend on the version a namespace is pinned to, so that an upgrade never breaks what ran.

mod baseline;
mod labels;
mod restricted;
mod spec;

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

pub use labels::{LabelError, Policies};

/// How much a pod may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Anything.
    Privileged,
    /// Nothing that is known to lead out of the container.
    Baseline,
    /// What hardened applications need.
    Restricted,
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// The version of the standards: that of a minor release of Kubernetes, or the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `v1.` and this number.
    Minor(u32),
    /// The newest there is.
    Latest,
}

impl Version {
    /// Whether a rule that came with this minor release is in it.
    const fn has(self, minor: u32) -> bool {
        match self {
            Self::Minor(own) => own >= minor,
            Self::Latest => true,
        }
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let minor = text.strip_prefix("v1.").ok_or(())?;
        // `v1.07` and `v1.+7` are not versions.
        if !minor.bytes().all(|byte| byte.is_ascii_digit())
            || (minor.len() > 1 && minor.starts_with('0'))
        {
            return Err(());
        }
        minor.parse().map(Self::Minor).map_err(|_| ())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(to, "v1.{minor}"),
            Self::Latest => to.write_str("latest"),
        }
    }
}

/// A level at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

impl fmt::Display for Policy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}:{}", self.level, self.version)
    }
}

/// One thing a pod asks for and may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The name of the check, as upstream names it: `hostNamespaces`.
    pub check: &'static str,
    /// In a word or two: `host namespaces`.
    pub reason: String,
    /// Where and what: `hostNetwork=true`.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} ({})", self.reason, self.detail)
    }
}

/// A pod, or the template of one, as the checks see it.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// Its `metadata`, for annotations that older versions look at.
    pub metadata: &'a Value,
    /// Its `spec`.
    pub spec: &'a Value,
}

/// Everything about the pod that the policy forbids, by the names of the checks.
#[must_use]
pub fn judge(policy: Policy, pod: Pod<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    if policy.level >= Level::Baseline {
        baseline::judge(policy, pod, &mut found);
    }
    if policy.level >= Level::Restricted {
        restricted::judge(policy.version, pod, &mut found);
    }
    found.sort_by_key(|violation| violation.check);
    found
}

/// The violations in one line: `violates PodSecurity "baseline:latest": privileged (container "a" …)`.
#[must_use]
pub fn sentence(policy: Policy, violations: &[Violation]) -> String {
    let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
    format!("violates PodSecurity \"{policy}\": {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_strictly() {
        assert_eq!("latest".parse(), Ok(Version::Latest));
        assert_eq!("v1.35".parse(), Ok(Version::Minor(35)));
        assert_eq!("v1.0".parse(), Ok(Version::Minor(0)));
        for wrong in ["1.35", "v1", "v1.", "v1.07", "v1.+7", "v2.0", "", "v1.99999999999"] {
            assert_eq!(wrong.parse::<Version>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_sentence_names_policy_reason_and_place() {
        let policy = Policy { level: Level::Baseline, version: Version::Latest };
        let spec = serde_json::json!({
            "hostNetwork": true,
            "containers": [{ "name": "a", "securityContext": { "privileged": true } }],
        });
        let pod = Pod { metadata: &Value::Null, spec: &spec };
        assert_eq!(
            sentence(policy, &judge(policy, pod)),
            "violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true), \
             privileged (container \"a\" must not set securityContext.privileged=true)"
        );
        let all = Policy { level: Level::Privileged, version: Version::Latest };
        assert!(judge(all, pod).is_empty());
    }

    /// The names of the checks a pod fails, with the metadata and the only container's parts given.
    fn checks(level: Level, version: Version, spec: Value, container: Value) -> Vec<&'static str> {
        let mut spec = spec;
        let mut only = container;
        only["name"] = "a".into();
        spec["containers"] = serde_json::json!([only]);
        let metadata = spec["metadata"].take();
        let pod = Pod { metadata: &metadata, spec: &spec };
        judge(Policy { level, version }, pod).into_iter().map(|found| found.check).collect()
    }

    #[test]
    fn each_check_of_baseline_finds_its_field() {
        use serde_json::json;
        let context = |context: Value| json!({ "securityContext": context });
        let cases = [
            ("hostNamespaces", json!({ "hostPID": true }), json!({})),
            ("hostNamespaces", json!({ "hostIPC": true }), json!({})),
            ("hostPorts", json!({}), json!({ "ports": [{ "hostPort": 80 }] })),
            ("hostPathVolumes", json!({ "volumes": [{ "name": "v", "hostPath": {} }] }), json!({})),
            ("privileged", json!({}), context(json!({ "privileged": true }))),
            (
                "capabilities_baseline",
                json!({}),
                context(json!({ "capabilities": { "add": ["CHOWN", "SYS_ADMIN"] } })),
            ),
            ("procMount", json!({}), context(json!({ "procMount": "Unmasked" }))),
            ("seLinuxOptions", json!({}), context(json!({ "seLinuxOptions": { "type": "x_t" } }))),
            ("seLinuxOptions", context(json!({ "seLinuxOptions": { "user": "u" } })), json!({})),
            (
                "seccompProfile_baseline",
                context(json!({ "seccompProfile": { "type": "Unconfined" } })),
                json!({}),
            ),
            (
                "appArmorProfile",
                json!({}),
                context(json!({ "appArmorProfile": { "type": "Unconfined" } })),
            ),
            (
                "appArmorProfile",
                json!({ "metadata": { "annotations": {
                    "container.apparmor.security.beta.kubernetes.io/a": "unconfined" } } }),
                json!({}),
            ),
            ("sysctls", context(json!({ "sysctls": [{ "name": "kernel.msgmax" }] })), json!({})),
            (
                "windowsHostProcess",
                context(json!({ "windowsOptions": { "hostProcess": true } })),
                json!({}),
            ),
            (
                "hostProbesAndHostLifecycle",
                json!({}),
                json!({ "lifecycle": { "preStop": { "tcpSocket": { "host": "10.0.0.1" } } } }),
            ),
        ];
        for (check, spec, container) in cases {
            let found = checks(Level::Baseline, Version::Latest, spec.clone(), container.clone());
            assert_eq!(found, [check], "{spec} {container}");
            assert!(checks(Level::Privileged, Version::Latest, spec, container).is_empty());
        }
        assert!(checks(Level::Baseline, Version::Latest, json!({}), json!({})).is_empty());
    }

    #[test]
    fn what_is_hardened_passes_restricted_and_each_omission_is_found() {
        use serde_json::json;
        let good = json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        let with = |field: &str, value: Value| {
            let mut context = good.clone();
            context[field] = value;
            checks(
                Level::Restricted,
                Version::Latest,
                json!({}),
                json!({ "securityContext": context }),
            )
        };
        assert!(with("readOnlyRootFilesystem", json!(true)).is_empty());
        assert_eq!(with("allowPrivilegeEscalation", Value::Null), ["allowPrivilegeEscalation"]);
        assert_eq!(with("runAsNonRoot", Value::Null), ["runAsNonRoot"]);
        assert_eq!(with("runAsUser", json!(0)), ["runAsUser"]);
        assert_eq!(with("capabilities", json!({ "drop": ["CHOWN"] })), ["capabilities_restricted"]);
        assert_eq!(with("seccompProfile", Value::Null), ["seccompProfile_restricted"]);
        let volumes = json!({ "volumes": [
            { "name": "fine" }, { "name": "also", "secret": {} }, { "name": "no", "nfs": {} },
        ] });
        let found =
            checks(Level::Restricted, Version::Latest, volumes, json!({ "securityContext": good }));
        assert_eq!(found, ["restrictedVolumes"]);
    }

    #[test]
    fn a_pinned_version_judges_as_it_did_then() {
        use serde_json::json;
        let sysctl = |name: &str| json!({ "securityContext": { "sysctls": [{ "name": name }] } });
        let at =
            |minor, spec: Value| checks(Level::Baseline, Version::Minor(minor), spec, json!({}));
        assert_eq!(at(26, sysctl("net.ipv4.ip_local_reserved_ports")), ["sysctls"]);
        assert!(at(27, sysctl("net.ipv4.ip_local_reserved_ports")).is_empty());
        let unmasked = || json!({ "securityContext": { "procMount": "Unmasked" } });
        let own = || json!({ "hostUsers": false });
        let judged = |minor| checks(Level::Baseline, Version::Minor(minor), own(), unmasked());
        assert_eq!((judged(34), judged(35)), (vec!["procMount"], vec![]));
        let root = |minor| {
            let spec = json!({ "hostUsers": false, "securityContext": { "runAsUser": 0 } });
            checks(Level::Restricted, Version::Minor(minor), spec, json!({}))
        };
        assert!(root(34).contains(&"runAsUser") && !root(35).contains(&"runAsUser"));
        let annotated = json!({ "metadata": { "annotations": {
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined" } } });
        assert_eq!(at(18, annotated.clone()), ["seccompProfile_baseline"]);
        assert!(at(19, annotated).is_empty());
    }
}
