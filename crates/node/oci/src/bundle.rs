//! A bundle: its configuration, and what of it we do.

use std::fs;
use std::path::{Path, PathBuf};

use berth_runtime::cgroup::Hierarchies;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::{Value, json};

use crate::OciError;

/// The version of the specification.
pub(crate) const VERSION: &str = "1.2.0";
const CONFIGURATION: &str = "config.json";

/// Fields that would have to be acted on, and are not.
const REFUSED: [&str; 13] = [
    "/domainname",
    "/hooks/prestart",
    "/hooks/createRuntime",
    "/hooks/createContainer",
    "/hooks/startContainer",
    "/hooks/poststart",
    "/hooks/poststop",
    "/process/apparmorProfile",
    "/process/selinuxLabel",
    "/process/scheduler",
    "/linux/intelRdt",
    "/linux/personality",
    "/linux/timeOffsets",
];

/// A bundle that can be run.
pub(crate) struct Bundle {
    pub spec: Spec,
    pub rootfs: PathBuf,
    /// Below the root of every hierarchy.
    pub cgroup: PathBuf,
    pub annotations: serde_json::Map<String, Value>,
}

fn read(path: &Path) -> Result<Value, OciError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OciError::Bundle {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(|error| failed(error.into()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
}

fn is_said(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Reads a bundle for a container of this name.
pub(crate) fn load(
    folder: &Path,
    name: &str,
    hierarchies: &Hierarchies,
) -> Result<Bundle, OciError> {
    let path = folder.join(CONFIGURATION);
    let mut value = read(&path)?;
    for field in REFUSED {
        if value.pointer(field).is_some_and(is_said) {
            return Err(OciError::Unsupported(format!("`{}` of the bundle", &field[1..])));
        }
    }
    if matches!(value["linux"]["rootfsPropagation"].as_str(), Some("shared" | "rshared")) {
        return Err(OciError::Unsupported("a root file system whose mounts are shared".to_owned()));
    }
    let cgroup = match value["linux"]["cgroupsPath"].as_str() {
        None | Some("") => Path::new("berth-oci").join(name),
        Some(path) if path.contains(':') => {
            return Err(OciError::Unsupported(format!("the cgroup `{path}` of systemd")));
        }
        Some(path) => PathBuf::from(path.trim_start_matches('/')),
    };
    if cgroup.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(OciError::Unsupported(format!("the cgroup `{}`", cgroup.display())));
    }
    if let Some(mounts) = value["mounts"].as_array_mut() {
        let all = std::mem::take(mounts);
        mounts.extend(all.into_iter().flat_map(|mount| cgroups(mount, hierarchies, &cgroup)));
    }
    let annotations = value["annotations"].as_object().cloned().unwrap_or_default();
    let spec: Spec = serde_json::from_value(value)
        .map_err(|source| OciError::Bundle { path: path.clone(), source: source.into() })?;
    let root =
        spec.root().as_ref().map_or_else(|| PathBuf::from("rootfs"), |root| root.path().clone());
    let rootfs = folder.join(root);
    check(&spec)?;
    Ok(Bundle { spec, rootfs, cgroup, annotations })
}

fn check(spec: &Spec) -> Result<(), OciError> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let named = |kind| namespaces.iter().find(|namespace| namespace.typ() == kind);
    match named(LinuxNamespaceType::Mount) {
        Some(namespace) if namespace.path().is_none() => {}
        _ => return Err(OciError::Unsupported("a container without mounts of its own".to_owned())),
    }
    for kind in [LinuxNamespaceType::User, LinuxNamespaceType::Time] {
        if named(kind).is_some() {
            return Err(OciError::Unsupported(format!("a namespace of the kind `{kind}`")));
        }
    }
    if named(LinuxNamespaceType::Cgroup).is_some_and(|namespace| namespace.path().is_some()) {
        return Err(OciError::Unsupported("the cgroup namespace of another".to_owned()));
    }
    Ok(())
}

/// What stands for a mount of the cgroup file system: with version 2 that itself, which the container's namespace bounds; with
/// version 1 the container's own directories of all hierarchies.
fn cgroups(mount: Value, hierarchies: &Hierarchies, cgroup: &Path) -> Vec<Value> {
    if mount["type"] != "cgroup" {
        return vec![mount];
    }
    if hierarchies.legacy.is_empty() {
        let mut mount = mount;
        mount["type"] = "cgroup2".into();
        mount["source"] = "cgroup2".into();
        return vec![mount];
    }
    let at = PathBuf::from(mount["destination"].as_str().unwrap_or("/sys/fs/cgroup"));
    let mut all = vec![json!({"destination": at, "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"]})];
    for (_, root) in &hierarchies.legacy {
        let Some(own) = root.file_name() else { continue };
        let mut options = vec!["bind", "nosuid", "noexec", "nodev"];
        if mount["options"].as_array().is_some_and(|options| options.iter().any(|it| it == "ro")) {
            options.push("ro");
        }
        all.push(json!({"destination": at.join(own), "type": "bind",
            "source": root.join(cgroup), "options": options}));
    }
    all
}

/// What this runtime knows, as the specification has it.
pub(crate) fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": [],
        "mountOptions": ["bind", "rbind", "ro", "rw", "nosuid", "nodev", "noexec", "private", "rprivate",
            "slave", "rslave", "shared", "rshared", "relatime"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
        },
    })
}
