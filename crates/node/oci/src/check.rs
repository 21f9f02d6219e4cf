//! What of a configuration is wrong, or not done here, is found before anything is made.
//!
//! The rules are those of the runtime specification. What engines may get wrong without harm, a capability that cannot be granted, is
//! taken out and told as a warning.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::Path;

use berth_runtime::labels::Modules;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::Value;

use crate::OciError;

/// Fields that would have to be acted on, and are not.
const REFUSED: [&str; 2] = ["/linux/intelRdt", "/linux/netDevices"];

fn is_said(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        // An empty group still asks for a group.
        Value::Object(_) | Value::Bool(_) | Value::Number(_) => true,
    }
}

fn wrong(text: impl Into<String>) -> OciError {
    OciError::Invalid(text.into())
}

/// The rules on the text itself, before it is read into types.
pub(crate) fn raw(value: &Value) -> Result<(), OciError> {
    version(value["ociVersion"].as_str().unwrap_or_default())?;
    for field in REFUSED {
        if value.pointer(field).is_some_and(is_said) {
            return Err(OciError::Unsupported(format!("`{}` of the bundle", &field[1..])));
        }
    }
    labels(value, Modules::here)?;
    for foreign in ["windows", "solaris", "vm", "zos", "freebsd"] {
        if value.get(foreign).is_some_and(is_said) {
            return Err(OciError::Unsupported(format!("a container for `{foreign}`")));
        }
    }
    if value["annotations"].as_object().is_some_and(|all| all.contains_key("")) {
        return Err(wrong("an annotation has no name"));
    }
    let mut kinds = BTreeSet::new();
    for limit in value["process"]["rlimits"].as_array().into_iter().flatten() {
        if !kinds.insert(limit["type"].to_string()) {
            return Err(wrong(format!("the limit {} is given twice", limit["type"])));
        }
    }
    Ok(())
}

/// The rule on labels: a container that is not confined as it was asked for is worse than none.
pub(crate) fn labels(value: &Value, modules: impl Fn() -> Modules) -> Result<(), OciError> {
    for (field, module) in [
        ("/process/apparmorProfile", "AppArmor"),
        ("/process/selinuxLabel", "SELinux"),
        ("/linux/mountLabel", "SELinux"),
    ] {
        if !value.pointer(field).is_some_and(is_said) {
            continue;
        }
        let modules = modules();
        if !(if module == "AppArmor" { modules.app_armor } else { modules.se_linux }) {
            let reason = format!("`{}` of the bundle without {module} in the kernel", &field[1..]);
            return Err(OciError::Unsupported(reason));
        }
    }
    Ok(())
}

/// Any version 1 that is written as semantic versions are: what a later one adds is an unknown field, which is passed over.
fn version(text: &str) -> Result<(), OciError> {
    let refuse = || {
        wrong(format!("`{text}` is no version of the runtime specification that is known: 1.x.y"))
    };
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (numbers, draft) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let is_number = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let words = |part: Option<&str>| part.is_none_or(|part| part.split('.').all(is_word));
    let parts: Vec<&str> = numbers.split('.').collect();
    match parts[..] {
        ["1", minor, patch] if is_number(minor) && is_number(patch) => {}
        _ => return Err(refuse()),
    }
    if words(draft) && words(build) { Ok(()) } else { Err(refuse()) }
}

/// Takes capabilities out that nobody can grant, and returns them.
pub(crate) fn grant(process: &mut Value) -> Vec<String> {
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = own
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .unwrap_or(0);
    let known: Vec<String> = berth_runtime::capabilities()
        .filter(|(_, number)| bounding & (1 << number) != 0)
        .map(|(name, _)| name)
        .collect();
    let mut refused = BTreeSet::new();
    let Some(sets) = process["capabilities"].as_object_mut() else { return Vec::new() };
    for names in sets.values_mut().filter_map(Value::as_array_mut) {
        names.retain(|name| {
            let granted = name.as_str().is_none_or(|name| known.iter().any(|it| it == name));
            if !granted {
                refused.insert(format!("the capability {name} cannot be granted"));
            }
            granted
        });
    }
    // The kernel makes only those ambient that are permitted and inheritable, and only permitted ones effective.
    for (set, within) in
        [("effective", &["permitted"][..]), ("ambient", &["permitted", "inheritable"])]
    {
        let missing = |name: &Value, sets: &serde_json::Map<String, Value>| {
            let holds = |other: &&str| {
                sets.get(*other).and_then(Value::as_array).is_some_and(|all| all.contains(name))
            };
            !within.iter().all(holds)
        };
        let all = sets.get(set).and_then(Value::as_array).cloned().unwrap_or_default();
        let (without, with): (Vec<Value>, Vec<Value>) =
            all.into_iter().partition(|name| missing(name, sets));
        for name in without {
            refused.insert(format!("the capability {name} cannot be {set}"));
        }
        if sets.contains_key(set) {
            sets.insert(set.to_owned(), with.into());
        }
    }
    refused.into_iter().collect()
}

/// Two flags of schedulers are spelled otherwise by the types that read them.
pub(crate) fn spell(process: &mut Value) {
    const SPELLINGS: [(&str, &str); 2] = [
        ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
        ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
    ];
    let Some(flags) = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut) else {
        return;
    };
    for flag in flags {
        if let Some((_, theirs)) = SPELLINGS.iter().find(|(name, _)| flag == name) {
            *flag = (*theirs).into();
        }
    }
}

/// The rules on a process.
pub(crate) fn process(process: &Value) -> Result<(), OciError> {
    let cwd = process["cwd"].as_str().unwrap_or_default();
    if !cwd.starts_with('/') {
        return Err(wrong(format!("the working directory `{cwd}` is not absolute")));
    }
    if process["args"].as_array().is_none_or(Vec::is_empty) {
        return Err(wrong("the process has no arguments"));
    }
    Ok(())
}

/// The rules on what was read.
pub(crate) fn typed(spec: &Spec) -> Result<(), OciError> {
    hooks(spec)?;
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let mut kinds = Vec::new();
    for namespace in namespaces {
        if kinds.contains(&namespace.typ()) {
            return Err(wrong(format!("the namespace `{}` is listed twice", namespace.typ())));
        }
        kinds.push(namespace.typ());
        if namespace.path().as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(wrong(format!(
                "the path of the namespace `{}` is not absolute",
                namespace.typ()
            )));
        }
    }
    let named = |kind| namespaces.iter().find(|namespace| namespace.typ() == kind);
    let is_new = |kind| named(kind).is_some_and(|namespace| namespace.path().is_none());
    if !is_new(LinuxNamespaceType::Mount) {
        return Err(OciError::Unsupported("a container without mounts of its own".to_owned()));
    }
    for (what, said) in [("host name", spec.hostname()), ("domain name", spec.domainname())] {
        if said.as_ref().is_some_and(|name| !name.is_empty()) && !is_new(LinuxNamespaceType::Uts) {
            return Err(OciError::Unsupported(format!("a {what} without a UTS namespace")));
        }
    }
    let Some(linux) = linux else { return Ok(()) };
    let maps = [linux.uid_mappings(), linux.gid_mappings()];
    let mapped = maps.map(|map| map.as_ref().is_some_and(|map| !map.is_empty()));
    match (named(LinuxNamespaceType::User), mapped) {
        (None, [false, false]) => {}
        (None, _) => return Err(wrong("ids are mapped, and there is no user namespace")),
        (Some(namespace), [false, false]) if namespace.path().is_some() => {}
        (Some(namespace), [true, true]) if namespace.path().is_none() => {}
        (Some(namespace), _) if namespace.path().is_some() => {
            return Err(wrong("ids are mapped, and the user namespace is another's"));
        }
        _ => return Err(wrong("a user namespace needs mappings of users and of groups")),
    }
    let clocks = linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty());
    if clocks && !is_new(LinuxNamespaceType::Time) {
        return Err(wrong("clocks are set, and there is no time namespace of its own"));
    }
    for path in [linux.masked_paths(), linux.readonly_paths()].into_iter().flatten().flatten() {
        if !path.starts_with('/') {
            return Err(wrong(format!("`{path}` is masked or read-only, and not absolute")));
        }
    }
    for device in linux.devices().iter().flatten() {
        if !device.path().is_absolute() {
            return Err(wrong(format!("the device `{}` is not absolute", device.path().display())));
        }
    }
    for name in linux.sysctl().iter().flat_map(|all| all.keys()) {
        sysctl(name, is_new, &named)?;
    }
    Ok(())
}

/// The namespace a kernel setting belongs to, if it belongs to any.
fn namespace_of(name: &str) -> Option<LinuxNamespaceType> {
    const MESSAGES: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = if name.contains('/') { name.replace('/', ".") } else { name.to_owned() };
    if MESSAGES.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Some(LinuxNamespaceType::Ipc)
    } else if dotted.starts_with("net.") {
        Some(LinuxNamespaceType::Network)
    } else if dotted == "kernel.domainname" {
        Some(LinuxNamespaceType::Uts)
    } else {
        None
    }
}

fn not_apart(name: &str) -> OciError {
    wrong(format!("the kernel parameter `{name}` needs a namespace of its own"))
}

/// Kernel settings that belong to a namespace which is not the host's. Any other would be the host's.
fn sysctl<'a>(
    name: &str,
    is_new: impl Fn(LinuxNamespaceType) -> bool,
    named: &impl Fn(LinuxNamespaceType) -> Option<&'a oci_spec::runtime::LinuxNamespace>,
) -> Result<(), OciError> {
    let apart = match namespace_of(name) {
        Some(LinuxNamespaceType::Uts) => is_new(LinuxNamespaceType::Uts),
        Some(kind) => named(kind).is_some(),
        None => {
            let reason = format!("the kernel parameter `{name}` belongs to the whole host");
            return Err(wrong(reason));
        }
    };
    if apart { Ok(()) } else { Err(not_apart(name)) }
}

/// The rule on a namespace that is joined, as it was opened: no setting of it is made if it is our own, by whatever path.
pub(crate) fn joined(
    linux: Option<&oci_spec::runtime::Linux>,
    kind: LinuxNamespaceType,
    opened: BorrowedFd<'_>,
) -> Result<(), OciError> {
    let names =
        linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flat_map(|it| it.keys());
    let Some(name) = names.into_iter().find(|name| namespace_of(name) == Some(kind)) else {
        return Ok(());
    };
    let ours = if kind == LinuxNamespaceType::Ipc { "ipc" } else { "net" };
    let path = Path::new("/proc/self/ns").join(ours);
    let compared = rustix::fs::stat(&path).and_then(|ours| {
        let theirs = rustix::fs::fstat(opened)?;
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    });
    match compared {
        Ok(false) => Ok(()),
        Ok(true) => Err(not_apart(name)),
        Err(error) => Err(OciError::file("look at", path)(error.into())),
    }
}

fn hooks(spec: &Spec) -> Result<(), OciError> {
    for kind in crate::bundle::HOOKS {
        for hook in crate::hooks::named(spec.hooks().as_ref(), kind) {
            let path = hook.path();
            if !path.is_absolute() {
                return Err(wrong(format!(
                    "the path `{}` of a hook is not absolute",
                    path.display()
                )));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(wrong(format!("the hook `{}` has no time", path.display())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_are_semantic() {
        for good in ["1.0.0", "1.2.1", "1.3.0", "1.0.2-dev", "1.0.0-rc5+dev.7", "1.99.0"] {
            assert!(version(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "1",
            "1.0",
            "0.2.0",
            "2.0.0",
            "1.0.0.0",
            "1.01.0",
            "v1.0.0",
            "1.0.0-",
            "1.0.0-a..b",
            "x",
        ] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_taken_where_their_module_is() {
        let (none, both) = ((false, false), (true, true));
        let taken = |value: &Value, (app_armor, se_linux)| {
            labels(value, || Modules { app_armor, se_linux }).map_err(|error| error.to_string())
        };
        for (value, module) in [
            (json!({"process": {"apparmorProfile": "x"}}), "AppArmor"),
            (json!({"process": {"selinuxLabel": "x"}}), "SELinux"),
            (json!({"linux": {"mountLabel": "x"}}), "SELinux"),
        ] {
            assert!(taken(&value, none).unwrap_err().contains(module), "{value}");
            let other = if module == "SELinux" { (true, false) } else { (false, true) };
            assert!(taken(&value, other).is_err(), "{value}");
            assert_eq!(taken(&value, both), Ok(()));
        }
        let nothing = json!({"process": {"apparmorProfile": "", "selinuxLabel": null}});
        assert_eq!(taken(&nothing, none), Ok(()));
    }

    #[test]
    fn capabilities_without_a_kernel_behind_them_are_taken_out() {
        let mut process = json!({"capabilities": {
            "bounding": ["CAP_KILL", "CAP_NOTHING"], "permitted": ["CAP_KILL"], "inheritable": [],
            "effective": ["CAP_KILL", "CAP_CHOWN"], "ambient": ["CAP_KILL"]}});
        let warnings = grant(&mut process);
        assert_eq!(
            process["capabilities"],
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": [],
                "effective": ["CAP_KILL"], "ambient": []})
        );
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }
}
