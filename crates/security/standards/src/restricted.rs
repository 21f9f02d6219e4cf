//! What hardened pods must say of themselves.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::spec::{plural, quoted, setters, text};
use crate::{Pod, Version, Violation};

/// Volumes that hold nothing of the host.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Finds what the level above `baseline` adds.
pub(crate) fn judge(version: Version, pod: Pod<'_>, found: &mut Vec<Violation>) {
    found.extend(volumes(pod));
    // Windows has no such things; that it is excused came with 1.25.
    let windows = version.has(25) && pod.is_for_windows();
    if version.has(8) && !windows {
        found.extend(privilege_escalation(pod));
    }
    if version.has(22) && !windows {
        found.extend(capabilities(pod));
    }
    if version.has(19) && !windows {
        found.extend(seccomp(pod));
    }
    // Root in a user namespace of its own is nobody outside; that it is excused came with 1.35.
    let own_users = version.has(35) && pod.has_own_users();
    if !own_users {
        found.extend(run_as_non_root(pod));
        if version.has(23) {
            found.extend(run_as_user(pod));
        }
    }
}

fn volumes(pod: Pod<'_>) -> Option<Violation> {
    // One without any source is an emptyDir.
    fn kind(volume: &Value) -> Option<&str> {
        let fields = volume.as_object().into_iter().flatten();
        let mut kinds = fields.filter(|(name, value)| *name != "name" && !value.is_null());
        kinds.next().map(|(kind, _)| kind.as_str())
    }
    let is_wrong = |volume: &&Value| kind(volume).is_some_and(|kind| !VOLUMES.contains(&kind));
    let wrong: Vec<&Value> = pod.volumes().filter(is_wrong).collect();
    let names: Vec<&str> = wrong.iter().map(|volume| text(&volume["name"])).collect();
    let kinds: BTreeSet<&str> = wrong.iter().filter_map(|volume| kind(volume)).collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    (!names.is_empty()).then(|| Violation {
        check: "restrictedVolumes",
        reason: "restricted volume types".to_owned(),
        detail: format!(
            "{} {} {} {} {}",
            plural("volume", names.len()),
            quoted(&names),
            if names.len() == 1 { "uses" } else { "use" },
            plural("restricted volume type", kinds.len()),
            quoted(&kinds)
        ),
    })
}

fn privilege_escalation(pod: Pod<'_>) -> Option<Violation> {
    let containers = pod.containers_where(|container| {
        container["securityContext"]["allowPrivilegeEscalation"] != Value::Bool(false)
    });
    (!containers.is_empty()).then(|| Violation {
        check: "allowPrivilegeEscalation",
        reason: "allowPrivilegeEscalation != false".to_owned(),
        detail: format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            setters(false, &containers)
        ),
    })
}

fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    fn listed<'a>(container: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
        let list = container["securityContext"]["capabilities"][list].as_array();
        list.into_iter().flatten().map(text)
    }
    let keeps =
        pod.containers_where(|container| !listed(container, "drop").any(|name| name == "ALL"));
    let is_wrong = |name: &&str| *name != "NET_BIND_SERVICE";
    let adds =
        pod.containers_where(|container| listed(container, "add").any(|name| is_wrong(&name)));
    let names: BTreeSet<&str> =
        pod.containers().flat_map(|one| listed(one, "add")).filter(is_wrong).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            setters(false, &keeps)
        ));
    }
    if !adds.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            setters(false, &adds),
            quoted(&names)
        ));
    }
    (!details.is_empty()).then(|| Violation {
        check: "capabilities_restricted",
        reason: "unrestricted capabilities".to_owned(),
        detail: details.join("; "),
    })
}

fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let kind = |context: &Value| text(&context["seccompProfile"]["type"]).to_owned();
    let is_good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let own = kind(pod.context());
    let set = |container: &Value| kind(&container["securityContext"]);
    let wrong = |kind: &str| !kind.is_empty() && !is_good(kind);
    let containers = pod.containers_where(|container| wrong(&set(container)));
    let detail = if wrong(&own) || !containers.is_empty() {
        let mut kinds: BTreeSet<String> =
            pod.containers().map(set).filter(|kind| wrong(kind)).collect();
        kinds.extend(wrong(&own).then(|| own.clone()));
        let kinds: Vec<String> = kinds.into_iter().collect();
        format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters(wrong(&own), &containers),
            quoted(&kinds)
        )
    } else {
        let silent = pod.containers_where(|container| set(container).is_empty());
        if is_good(&own) || silent.is_empty() {
            return None;
        }
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            setters(false, &silent)
        )
    };
    Some(Violation {
        check: "seccompProfile_restricted",
        reason: "seccompProfile".to_owned(),
        detail,
    })
}

fn run_as_non_root(pod: Pod<'_>) -> Option<Violation> {
    let set = |context: &Value| context["runAsNonRoot"].as_bool();
    let own = set(pod.context());
    let containers =
        pod.containers_where(|container| set(&container["securityContext"]) == Some(false));
    let detail = if own == Some(false) || !containers.is_empty() {
        format!(
            "{} must not set securityContext.runAsNonRoot=false",
            setters(own == Some(false), &containers)
        )
    } else {
        let silent = pod.containers_where(|container| set(&container["securityContext"]).is_none());
        if own == Some(true) || silent.is_empty() {
            return None;
        }
        format!("pod or {} must set securityContext.runAsNonRoot=true", setters(false, &silent))
    };
    Some(Violation { check: "runAsNonRoot", reason: "runAsNonRoot != true".to_owned(), detail })
}

fn run_as_user(pod: Pod<'_>) -> Option<Violation> {
    let is_root = |context: &Value| context["runAsUser"].as_i64() == Some(0);
    let own = is_root(pod.context());
    let containers = pod.containers_where(|container| is_root(&container["securityContext"]));
    (own || !containers.is_empty()).then(|| Violation {
        check: "runAsUser",
        reason: "runAsUser=0".to_owned(),
        detail: format!("{} must not set runAsUser=0", setters(own, &containers)),
    })
}
