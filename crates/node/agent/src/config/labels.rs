//! What security modules of the kernel are to hold a container to: a profile of AppArmor, a label of SELinux.
//!
//! A container that asks for one where the module is not in use does not run.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use berth_runtime::labels::Modules;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SELinuxOptions};

use super::Cause;

/// What a container is labelled with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// The AppArmor profile.
    pub profile: Option<String>,
    /// The SELinux label of its processes.
    pub process: Option<String>,
    /// The same, of its files.
    pub files: Option<String>,
}

/// The profile that `RuntimeDefault` means.
const DEFAULT: &str = "berth-default";

/// Its text. Files and the network are ordinary matters of a container; mounts, other processes and the kernel's own files are not.
const PROFILE: &str = "\
profile berth-default flags=(attach_disconnected, mediate_deleted) {
  file,
  network,
  capability,
  unix,
  umount,
  signal peer=berth-default,
  signal (receive) peer=unconfined,
  ptrace peer=berth-default,
  deny mount,
  deny /proc/kcore rwklx,
  deny /proc/kmem rwklx,
  deny /proc/mem rwklx,
  deny /proc/sysrq-trigger rwklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/kernel/debug/** rwklx,
  deny /sys/kernel/tracing/** rwklx,
}
";

/// What the container asks for. The profile of the node's own is loaded by the program `apparmor_parser`, once.
pub fn of(pod: &Pod, container: &Container) -> Result<Labels, Cause> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    let labels = asked(pod, container, Modules::here)?;
    if labels.profile.as_deref() == Some(DEFAULT) {
        let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*loaded {
            load(Path::new("apparmor_parser")).map_err(|error| {
                Cause::config(format!(
                    "appArmorProfile: RuntimeDefault: `apparmor_parser` cannot load the profile (package `apparmor`): {error}"
                ))
            })?;
            *loaded = true;
        }
    }
    Ok(labels)
}

/// What is in use is only looked at for those who ask.
fn asked(pod: &Pod, container: &Container, modules: impl Fn() -> Modules) -> Result<Labels, Cause> {
    let own = container.security_context.as_ref();
    let shared = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let profile = own.and_then(|own| own.app_armor_profile.as_ref());
    let profile = profile.or(shared.and_then(|shared| shared.app_armor_profile.as_ref()));
    let options = own.and_then(|own| own.se_linux_options.as_ref());
    let options = options.or(shared.and_then(|shared| shared.se_linux_options.as_ref()));
    let privileged = super::is_privileged(container);
    let profile = profile.map(|profile| named(profile, privileged)).transpose()?.flatten();
    if profile.is_some() && !modules().app_armor {
        return Err(Cause::config(
            "appArmorProfile: Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ));
    }
    let Some(options) = options else { return Ok(Labels { profile, ..Labels::default() }) };
    if !modules().se_linux {
        return Err(Cause::config("seLinuxOptions: SELinux is not enabled on the host"));
    }
    let process = label(options, "system_r", if privileged { "spc_t" } else { "container_t" });
    let files = SELinuxOptions { role: None, type_: None, ..options.clone() };
    let files = label(&files, "object_r", "container_file_t");
    Ok(Labels { profile, process: Some(process), files: Some(files) })
}

/// The profile by its name in the kernel, unless none is meant.
fn named(profile: &AppArmorProfile, privileged: bool) -> Result<Option<String>, Cause> {
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Unconfined", _) => Ok(None),
        // Its denials would take back what makes it privileged.
        ("RuntimeDefault", _) => Ok((!privileged).then(|| DEFAULT.to_owned())),
        ("Localhost", Some(name)) if !name.is_empty() => Ok(Some(name.to_owned())),
        (other, _) => Err(Cause::config(format!("appArmorProfile: `{other}` names no profile"))),
    }
}

fn label(options: &SELinuxOptions, role: &str, kind: &str) -> String {
    let part = |given: &Option<String>, usual: &str| {
        given.clone().filter(|part| !part.is_empty()).unwrap_or_else(|| usual.to_owned())
    };
    let user = part(&options.user, "system_u");
    let (role, kind) = (part(&options.role, role), part(&options.type_, kind));
    format!("{user}:{role}:{kind}:{}", part(&options.level, "s0"))
}

/// Loads the profile, or replaces what an older version loaded.
fn load(parser: &Path) -> io::Result<()> {
    let mut parser = Command::new(parser)
        .args(["--skip-cache", "--replace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = parser
        .stdin
        .take()
        .map_or(Ok(()), |mut input| io::Write::write_all(&mut input, PROFILE.as_bytes()));
    let output = parser.wait_with_output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::{Value, json};

    use super::*;

    const BOTH: Modules = Modules { app_armor: true, se_linux: true };
    const NONE: Modules = Modules { app_armor: false, se_linux: false };

    fn of_both(pod: Value, container: Value, modules: Modules) -> Result<Labels, String> {
        let pod = json!({"spec": {"containers": [], "securityContext": pod}});
        let container = json!({"name": "a", "securityContext": container});
        let pod = serde_json::from_value(pod).unwrap();
        let container = serde_json::from_value(container).unwrap();
        asked(&pod, &container, || modules).map_err(|cause| cause.message)
    }

    #[test]
    fn the_containers_profile_stands_above_the_pods() {
        let profile = |kind: &str, name: Option<&str>| json!({"appArmorProfile": {"type": kind, "localhostProfile": name}});
        let local = || profile("Localhost", Some("k8s-nginx"));
        let found = |pod, container| of_both(pod, container, BOTH).unwrap().profile;
        assert_eq!(found(local(), json!({})).as_deref(), Some("k8s-nginx"));
        assert_eq!(found(local(), profile("RuntimeDefault", None)).as_deref(), Some(DEFAULT));
        assert_eq!(found(local(), profile("Unconfined", None)), None);
        assert_eq!(found(json!({}), json!({})), None);
        let mut privileged = profile("RuntimeDefault", None);
        privileged["privileged"] = true.into();
        assert_eq!(found(json!({}), privileged), None);
        assert!(of_both(profile("Localhost", None), json!({}), BOTH).is_err());
        for asked in [local(), profile("RuntimeDefault", None)] {
            let why = of_both(asked, json!({}), NONE).unwrap_err();
            assert!(why.contains("AppArmor is not enabled on the host"), "{why}");
        }
        assert_eq!(of_both(profile("Unconfined", None), json!({}), NONE), Ok(Labels::default()));
    }

    #[test]
    fn a_label_has_the_parts_that_are_given_and_the_usual_ones_else() {
        let options = |options: Value| json!({"seLinuxOptions": options});
        let found = of_both(options(json!({"level": "s0:c1,c2"})), json!({}), BOTH).unwrap();
        assert_eq!(found.process.as_deref(), Some("system_u:system_r:container_t:s0:c1,c2"));
        assert_eq!(found.files.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
        let all = json!({"user": "u", "role": "r", "type": "t", "level": "s1"});
        let found = of_both(options(json!({"level": "s0"})), options(all), BOTH).unwrap();
        assert_eq!(found.process.as_deref(), Some("u:r:t:s1"));
        assert_eq!(found.files.as_deref(), Some("u:object_r:container_file_t:s1"));
        let why = of_both(options(json!({"level": "s0"})), json!({}), NONE).unwrap_err();
        assert!(why.contains("SELinux is not enabled on the host"), "{why}");
    }

    #[test]
    fn the_profile_is_given_to_the_program_that_loads_it() {
        let folder = tempfile::tempdir().unwrap();
        let (parser, heard) = (folder.path().join("parser"), folder.path().join("heard"));
        let script = |text: String| {
            fs::write(&parser, format!("#!/bin/sh\n{text}")).unwrap();
            fs::set_permissions(&parser, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script(format!("{{ echo \"$@\"; cat; }} > {}", heard.display()));
        load(&parser).unwrap();
        let heard = fs::read_to_string(&heard).unwrap();
        assert_eq!(heard, format!("--skip-cache --replace\n{PROFILE}"));
        script("echo wrong syntax >&2; exit 1".to_owned());
        assert_eq!(load(&parser).unwrap_err().to_string(), "wrong syntax");
        assert!(load(&folder.path().join("none")).is_err());
    }
}
