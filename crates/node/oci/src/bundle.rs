//! A bundle: its configuration, made whole and checked.

use std::fs;
use std::path::{Path, PathBuf};

use berth_runtime::cgroup::Hierarchies;
use berth_runtime::labels::Modules;
use oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use serde_json::{Value, json};

use crate::{OciError, check};

/// The version of the specification.
pub(crate) const VERSION: &str = "1.3.0";
const CONFIGURATION: &str = "config.json";

/// The kinds of hooks.
pub(crate) const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A bundle that can be run.
pub(crate) struct Bundle {
    pub spec: Spec,
    pub rootfs: PathBuf,
    /// Below the root of every hierarchy.
    pub cgroup: PathBuf,
    pub annotations: serde_json::Map<String, Value>,
    /// Whether there is a program to start.
    pub program: bool,
    /// What was not granted.
    pub warnings: Vec<String>,
    /// The configuration as it was read: what becomes of the file later changes nothing.
    pub text: Vec<u8>,
}

impl Bundle {
    /// Its hooks.
    pub fn hooks(&self) -> Option<&Hooks> {
        self.spec.hooks().as_ref()
    }
}

fn broken(path: &Path) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> OciError + use<'_> {
    move |source| OciError::Bundle { path: path.to_owned(), source }
}

/// Reads a bundle for a container of this name.
pub(crate) fn load(
    folder: &Path,
    name: &str,
    hierarchies: &Hierarchies,
) -> Result<Bundle, OciError> {
    read(&folder.join(CONFIGURATION), folder, name, hierarchies)
}

/// Reads a configuration that lies at `path` and belongs to the bundle in `folder`.
pub(crate) fn read(
    path: &Path,
    folder: &Path,
    name: &str,
    hierarchies: &Hierarchies,
) -> Result<Bundle, OciError> {
    let failed = broken(path);
    let text = fs::read(path).map_err(|error| failed(error.into()))?;
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    check::raw(&value)?;
    let program = value["process"].is_object();
    let mut warnings = Vec::new();
    if program {
        check::process(&value["process"])?;
        check::spell(&mut value["process"]);
        warnings = check::grant(&mut value["process"]);
    } else {
        // The place of the program is kept by one that is never let on.
        let user = json!({"uid": 0, "gid": 0});
        value["process"] = json!({"user": user, "args": ["/proc/self/exe"], "cwd": "/"});
    }
    let cgroup = cgroup(&value, name)?;
    mounts(&mut value, folder, hierarchies, &cgroup);
    let annotations = value["annotations"].as_object().cloned().unwrap_or_default();
    let spec: Spec = serde_json::from_value(value).map_err(|error| failed(error.into()))?;
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| OciError::Invalid("the bundle has no root".to_owned()))?;
    let rootfs = folder.join(root.path());
    check::typed(&spec)?;
    Ok(Bundle { spec, rootfs, cgroup, annotations, program, warnings, text })
}

fn cgroup(value: &Value, name: &str) -> Result<PathBuf, OciError> {
    let cgroup = match value["linux"]["cgroupsPath"].as_str() {
        None | Some("") => Path::new("berth-oci").join(name),
        Some(path) if path.contains(':') => {
            return Err(OciError::Unsupported(format!("the cgroup `{path}` of systemd")));
        }
        Some(path) => PathBuf::from(path.trim_start_matches('/')),
    };
    let normal = cgroup.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !normal || cgroup.as_os_str().is_empty() {
        return Err(OciError::Unsupported(format!("the cgroup `{}`", cgroup.display())));
    }
    Ok(cgroup)
}

/// Makes every mount absolute, and puts what cgroups are here in the place of those that say cgroup.
fn mounts(value: &mut Value, folder: &Path, hierarchies: &Hierarchies, cgroup: &Path) {
    let apart = value["linux"]["namespaces"]
        .as_array()
        .is_some_and(|all| all.iter().any(|namespace| namespace["type"] == "cgroup"));
    let Some(mounts) = value["mounts"].as_array_mut() else { return };
    let all = std::mem::take(mounts);
    for mut mount in all {
        if let Some(destination) = mount["destination"].as_str().filter(|it| !it.starts_with('/')) {
            mount["destination"] = format!("/{destination}").into();
        }
        let options = mount["options"].as_array().cloned().unwrap_or_default();
        let binds =
            mount["type"] == "bind" || options.iter().any(|it| it == "bind" || it == "rbind");
        if let (true, Some(source)) = (binds, mount["source"].as_str()) {
            mount["source"] = folder.join(source).to_string_lossy().into();
        }
        mounts.extend(cgroups(mount, hierarchies, cgroup, apart));
    }
}

/// What stands for a mount of the cgroup file system: with version 2 that itself, which the container's namespace bounds; with
/// version 1, or without such a namespace, the container's own directories alone.
fn cgroups(mount: Value, hierarchies: &Hierarchies, cgroup: &Path, apart: bool) -> Vec<Value> {
    if mount["type"] != "cgroup" {
        return vec![mount];
    }
    let at = PathBuf::from(mount["destination"].as_str().unwrap_or("/sys/fs/cgroup"));
    let mut options = vec!["bind", "nosuid", "noexec", "nodev"];
    if mount["options"].as_array().is_some_and(|options| options.iter().any(|it| it == "ro")) {
        options.push("ro");
    }
    if hierarchies.legacy.is_empty() {
        let mut mount = mount;
        if let (false, Some(unified)) = (apart, &hierarchies.unified) {
            return vec![json!({"destination": at, "type": "bind",
                "source": unified.join(cgroup), "options": options})];
        }
        mount["type"] = "cgroup2".into();
        mount["source"] = "cgroup2".into();
        return vec![mount];
    }
    let mut all = vec![json!({"destination": at, "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"]})];
    for (_, root) in &hierarchies.legacy {
        let Some(own) = root.file_name() else { continue };
        all.push(json!({"destination": at.join(own), "type": "bind",
            "source": root.join(cgroup), "options": options}));
    }
    all
}

/// The numbers of the namespaces that are joined by a descriptor.
pub(crate) fn clone_flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => 0x0002_0000,
        LinuxNamespaceType::Cgroup => 0x0200_0000,
        LinuxNamespaceType::Uts => 0x0400_0000,
        LinuxNamespaceType::Ipc => 0x0800_0000,
        LinuxNamespaceType::User => 0x1000_0000,
        LinuxNamespaceType::Pid => 0x2000_0000,
        LinuxNamespaceType::Network => 0x4000_0000,
        LinuxNamespaceType::Time => 0x80,
    }
}

/// What this runtime knows, as the specification has it.
pub(crate) fn features() -> Value {
    let capabilities: Vec<String> = berth_runtime::capabilities().map(|(name, _)| name).collect();
    let actions =
        ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP"];
    let modules = Modules::here();
    let operators = ["EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"];
    let flags = [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": HOOKS,
        "mountOptions": berth_runtime::known_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": actions.map(|name| format!("SCMP_ACT_{name}")),
                "operators": operators.map(|name| format!("SCMP_CMP_{name}")),
                "archs": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": modules.app_armor},
            "selinux": {"enabled": modules.se_linux},
            "intelRdt": {"enabled": false, "schemata": false, "monitoring": false},
            "memoryPolicy": {
                "modes": ["MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE",
                    "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_LOCAL"],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
    })
}
