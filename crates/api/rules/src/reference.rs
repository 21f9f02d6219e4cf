//! Pods that a node runs of its own, from files, and that the API only mirrors.
//!
//! They must start where no API answers, so they may need nothing of it.

use berth_objects::{FieldError, Object};
use serde_json::Value;

/// The annotation of a pod that only stands for one that its node runs of its own. Its value says which.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a pod only stands for one that its node runs of its own.
#[must_use]
pub fn is_mirror(pod: &Value) -> bool {
    pod.annotation(MIRROR).is_some()
}

/// Volumes whose files come from objects of the API, or from what those name.
const VOLUMES: [&str; 5] = ["secret", "configMap", "persistentVolumeClaim", "ephemeral", "csi"];
/// Parts of projected volumes of the same kind.
const PARTS: [&str; 5] =
    ["secret", "configMap", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
/// Volumes over the network that may name a Secret.
const REMOTE: [&str; 7] =
    ["cephfs", "rbd", "flexVolume", "scaleIO", "storageos", "iscsi", "azureFile"];

/// The path of the first field of a pod that refers to another object of the API, if there is one.
#[must_use]
pub fn reference(pod: &Value) -> Option<String> {
    for field in ["serviceAccountName", "serviceAccount"] {
        if !pod.text(&["spec", field]).is_empty() {
            return Some(format!("spec.{field}"));
        }
    }
    for field in ["imagePullSecrets", "resourceClaims"] {
        if !pod.list(&["spec", field]).is_empty() {
            return Some(format!("spec.{field}"));
        }
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    let of_containers = containers.into_iter().find_map(|field| {
        let mut all = pod.list(&["spec", field]).iter().enumerate();
        all.find_map(|(place, container)| {
            Some(format!("spec.{field}[{place}].{}", of_container(container)?))
        })
    });
    of_containers.or_else(|| {
        let mut all = pod.list(&["spec", "volumes"]).iter().enumerate();
        all.find_map(|(place, volume)| {
            Some(format!("spec.volumes[{place}].{}", of_volume(volume)?))
        })
    })
}

fn is_set(value: &Value, path: &[&str]) -> bool {
    value.at(path).is_some_and(|value| !value.is_null())
}

fn of_container(container: &Value) -> Option<String> {
    let variables = container.list(&["env"]).iter().enumerate();
    let sources = container.list(&["envFrom"]).iter().enumerate();
    let of_variable = variables.flat_map(|(place, variable)| {
        ["secretKeyRef", "configMapKeyRef"]
            .into_iter()
            .filter(move |kind| is_set(variable, &["valueFrom", kind]))
            .map(move |kind| format!("env[{place}].valueFrom.{kind}"))
    });
    let of_source = sources.flat_map(|(place, source)| {
        ["secretRef", "configMapRef"]
            .into_iter()
            .filter(move |kind| is_set(source, &[kind]))
            .map(move |kind| format!("envFrom[{place}].{kind}"))
    });
    of_variable.chain(of_source).next()
}

fn of_volume(volume: &Value) -> Option<String> {
    if let Some(kind) = VOLUMES.into_iter().find(|kind| is_set(volume, &[kind])) {
        return Some(kind.to_owned());
    }
    let names_secret =
        |kind: &&str| is_set(volume, &[kind, "secretRef"]) || is_set(volume, &[kind, "secretName"]);
    if let Some(kind) = REMOTE.into_iter().find(names_secret) {
        return Some(kind.to_owned());
    }
    let mut sources = volume.list(&["projected", "sources"]).iter().enumerate();
    sources.find_map(|(place, source)| {
        let kind = PARTS.into_iter().find(|kind| is_set(source, &[kind]))?;
        Some(format!("projected.sources[{place}].{kind}"))
    })
}

/// What is wrong with a new pod as a mirror.
pub(crate) fn fresh(pod: &Value, errors: &mut Vec<FieldError>) {
    if is_mirror(pod) && pod.text(&["spec", "nodeName"]).is_empty() {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::required(&place(), why));
    }
}

/// Nobody makes a mirror of a pod, or something else of a mirror, and what it mirrors is not changed through it.
pub(crate) fn kept(pod: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let why = match (pod.annotation(MIRROR), old.annotation(MIRROR)) {
        (new, before) if new == before => return,
        (_, None) => "may not add mirror pod annotation",
        _ => "may not remove or update mirror pod annotation",
    };
    errors.push(FieldError::forbidden(&place(), why));
}

/// What a mirror stands for follows its file alone.
pub(crate) fn as_it_is(pod: &Value, what: &str, errors: &mut Vec<FieldError>) {
    if is_mirror(pod) {
        errors.push(FieldError::forbidden(&place(), format!("static pods do not support {what}")));
    }
}

fn place() -> String {
    format!("metadata.annotations[{MIRROR}]")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_needs_the_api_is_found() {
        let container = |part: Value| json!({"containers": [{"name": "a"}, part]});
        let volume = |part: Value| json!({"volumes": [{"name": "x"}, part]});
        let source = |part: Value| volume(json!({"projected": {"sources": [part]}}));
        for (spec, wanted) in [
            (json!({"serviceAccountName": "a"}), "spec.serviceAccountName"),
            (json!({"serviceAccount": "a"}), "spec.serviceAccount"),
            (json!({"imagePullSecrets": [{"name": "a"}]}), "spec.imagePullSecrets"),
            (json!({"resourceClaims": [{"name": "a"}]}), "spec.resourceClaims"),
            (
                container(
                    json!({"env": [{"name": "a"}, {"valueFrom": {"secretKeyRef": {"optional": true}}}]}),
                ),
                "spec.containers[1].env[1].valueFrom.secretKeyRef",
            ),
            (
                container(json!({"envFrom": [{"configMapRef": {"name": "a"}}]})),
                "spec.containers[1].envFrom[0].configMapRef",
            ),
            (
                json!({"initContainers": [{"envFrom": [{"secretRef": {}}]}]}),
                "spec.initContainers[0].envFrom[0].secretRef",
            ),
            (volume(json!({"secret": {"secretName": "a"}})), "spec.volumes[1].secret"),
            (volume(json!({"persistentVolumeClaim": {}})), "spec.volumes[1].persistentVolumeClaim"),
            (volume(json!({"ephemeral": {}})), "spec.volumes[1].ephemeral"),
            (volume(json!({"rbd": {"secretRef": {"name": "a"}}})), "spec.volumes[1].rbd"),
            (
                source(json!({"serviceAccountToken": {}})),
                "spec.volumes[1].projected.sources[0].serviceAccountToken",
            ),
        ] {
            assert_eq!(reference(&json!({"spec": spec})).as_deref(), Some(wanted));
        }
        let harmless = json!({"spec": {
            "containers": [{"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [{"emptyDir": {}}, {"hostPath": {"path": "/"}},
                {"projected": {"sources": [{"downwardAPI": {}}]}}]}});
        assert_eq!(reference(&harmless), None);
    }

    #[test]
    fn a_mirror_stays_one_and_nothing_becomes_one() {
        let pod = |value: Option<&str>, node: &str| {
            let mut pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": node}});
            if let Some(value) = value {
                pod.set(&["metadata", "annotations", MIRROR], value);
            }
            pod
        };
        let changed = |new: Option<&str>, old: Option<&str>| {
            let mut errors = Vec::new();
            kept(&pod(new, "n"), &pod(old, "n"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<String>()
        };
        assert_eq!(changed(Some("1"), Some("1")) + &changed(None, None), "");
        assert!(changed(Some("1"), None).contains("may not add mirror pod annotation"));
        assert!(changed(Some("2"), Some("1")).contains("may not remove or update"));
        assert!(changed(None, Some("1")).contains("may not remove or update"));
        let mut errors = Vec::new();
        fresh(&pod(Some(""), "n"), &mut errors);
        fresh(&pod(None, ""), &mut errors);
        assert!(errors.is_empty());
        fresh(&pod(Some(""), ""), &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
