//! The OCI runtime configuration of a container, from its pod and its image.
//!
//! Whatever a pod does not ask for is denied: few capabilities, no new privileges, the default system call filter, masked
//! kernel paths, read-only `/proc/sys`.

pub mod labels;
mod privilege;

use std::collections::BTreeMap;
use std::path::Path;

use berth_client::demand::Quality;
use berth_content::Image;
use berth_runtime::user::STRICT;
use berth_shim::protocol::Filter;
use k8s_openapi::api::core::v1::{
    Container, Pod, PodSpec, ResourceFieldSelector, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use self::labels::Labels;
pub use self::privilege::sealed_memory;
use crate::devices::Device;
use crate::environment::expand;
use crate::groups;
use crate::huge_pages;
use crate::volume::Mounted;

/// Why a container cannot be started: the reason people see in its status, and the words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Cause {
    /// For example `CreateContainerConfigError`.
    pub reason: &'static str,
    /// The whole chain.
    pub message: String,
    /// Exit code where the container counts as started and ended: 126, 127 or 128.
    pub exit_code: Option<i32>,
}

impl Cause {
    /// Something in the pod's configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.into(), exit_code: None }
    }

    /// Something the node could not do.
    pub fn create(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerError", message: message.into(), exit_code: None }
    }
}

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Annotation of a pod whose programs are executed from memory, without a file.
const MEMORY_EXEC: &str = "berth.dev/memory-exec";

/// Most processes of a container that asks for no other limit.
const PIDS: i64 = 4096;

/// Everything a container's configuration is made of.
pub struct Ingredients<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a Image,
    pub environment: Vec<String>,
    pub mounts: Vec<Mounted>,
    /// What it has besides the usual devices.
    pub devices: &'a [Device],
    /// Annotations of its configuration.
    pub annotations: &'a BTreeMap<String, String>,
    /// What security modules hold it to.
    pub labels: Labels,
    /// Where profiles of the node are.
    pub profiles: &'a Path,
    /// The memory that the pod's containers share, where it is not the host's.
    pub shared_memory: &'a Path,
}

/// A container ready for its shim.
pub struct Prepared {
    pub spec: Spec,
    /// User by name or number as the image has it, unless the pod gives a number.
    pub user: Option<String>,
    pub filter: Filter,
}

/// Makes the configuration.
pub fn prepare(ingredients: Ingredients<'_>) -> Result<Prepared, Cause> {
    let Ingredients { pod, container, image, environment, mounts, .. } = ingredients;
    let Ingredients { devices, annotations, labels, profiles, shared_memory, .. } = ingredients;
    let pod_spec = pod.spec.as_ref().ok_or_else(|| Cause::config("the pod has no spec"))?;
    let context = container.security_context.as_ref();
    let privileged = is_privileged(container);
    let (user, ids) = user(pod, pod_spec, container, image)?;
    let mapped = crate::pod::apply::wants_user_namespace(pod_spec);
    let capabilities = privilege::capabilities(context, privileged, mapped);
    let no_new_privileges = !privileged
        && !context.and_then(|context| context.allow_privilege_escalation).unwrap_or(false);
    let mut process = json!({
        "terminal": container.tty.unwrap_or(false),
        "user": ids,
        "args": arguments(container, image, &environment)?,
        "env": environment,
        "cwd": directory(container, image)?,
        "noNewPrivileges": no_new_privileges,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "oomScoreAdj": out_of_memory_score(pod_spec, container).max(privilege::lowest_score()),
    });
    process["apparmorProfile"] = json!(labels.profile);
    process["selinuxLabel"] = json!(labels.process);
    if let Some(limits) = limits(pod)? {
        process["rlimits"] = limits;
    }
    let masks = !privileged
        && context.and_then(|context| context.proc_mount.as_deref()) != Some("Unmasked");
    let (filter, profile) = filter(context, pod_spec, privileged, profiles)?;
    let mut configuration = json!({
        "ociVersion": "1.2.0",
        "root": {
            "path": "rootfs",
            "readonly": context.and_then(|context| context.read_only_root_filesystem).unwrap_or(false),
        },
        "process": process,
        "annotations": annotations,
        "mounts": all_mounts(pod_spec, &mounts, privileged, shared_memory),
        "linux": {
            "maskedPaths": if masks { MASKED.as_slice() } else { &[] },
            "readonlyPaths": if masks { READONLY.as_slice() } else { &[] },
            "mountLabel": labels.files,
            "devices": devices.iter().map(Device::to_oci).collect::<Vec<_>>(),
        },
    });
    if let Some(profile) = profile {
        configuration["linux"]["seccomp"] = profile;
    }
    let own_processes = has_own_processes(pod_spec) && !joins(pod_spec, container);
    if !privileged && own_processes && !may_execute_memory(pod) {
        configuration["linux"]["sysctl"] = json!(privilege::sealed_memory());
    }
    let spec = serde_json::from_value(configuration)
        .map_err(|error| Cause::config(format!("the configuration is not valid: {error}")))?;
    Ok(Prepared { spec, user, filter })
}

/// Variables that come with devices: they stand above those of the image, and those of the pod above them.
pub fn with_given(
    mut environment: Vec<String>,
    container: &Container,
    given: &BTreeMap<String, String>,
) -> Vec<String> {
    let said = |name: &str| container.env.iter().flatten().any(|variable| variable.name == name);
    for (name, value) in given.iter().filter(|(name, _)| !said(name)) {
        let is_it = |entry: &String| entry.split('=').next() == Some(name);
        environment.retain(|entry| !is_it(entry));
        environment.push(format!("{name}={value}"));
    }
    environment
}

/// Whether each container has a pid namespace of its own, to which settings of processes belong.
pub fn has_own_processes(spec: &PodSpec) -> bool {
    !spec.host_pid.unwrap_or(false) && !spec.share_process_namespace.unwrap_or(false)
}

/// Whether a pod says that its programs are to be executed from memory.
pub fn may_execute_memory(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(MEMORY_EXEC)).is_some_and(|it| it == "true")
}

/// Whether the container was added beside the processes of another, which are held to what that one is held to.
fn joins(spec: &PodSpec, container: &Container) -> bool {
    let mut added = spec.ephemeral_containers.iter().flatten();
    let target = added.find(|it| it.name == container.name).map(|it| &it.target_container_name);
    target.is_some_and(|name| name.as_ref().is_some_and(|name| !name.is_empty()))
}

/// Whether the container asks for everything.
pub fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
}

/// The process of `kubectl exec`: the container's own, with another command.
pub fn exec_process(
    base: &Spec,
    command: &[String],
    terminal: bool,
) -> Option<oci_spec::runtime::Process> {
    let mut process = base.process().clone()?;
    process.set_args(Some(command.to_vec()));
    process.set_terminal(Some(terminal));
    process.set_oom_score_adj(None);
    if terminal {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        process.set_env(Some(env));
    }
    Some(process)
}

type User = (Option<String>, Value);

fn user(pod: &Pod, spec: &PodSpec, container: &Container, image: &Image) -> Result<User, Cause> {
    let own = container.security_context.as_ref();
    let shared = spec.security_context.as_ref();
    let uid = own.and_then(|own| own.run_as_user).or(shared.and_then(|shared| shared.run_as_user));
    let gid =
        own.and_then(|own| own.run_as_group).or(shared.and_then(|shared| shared.run_as_group));
    let mut groups: Vec<i64> =
        shared.and_then(|shared| shared.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(shared.and_then(|shared| shared.fs_group));
    let non_root = own
        .and_then(|own| own.run_as_non_root)
        .or(shared.and_then(|shared| shared.run_as_non_root))
        .unwrap_or(false);
    let annotation = format!("user.berth.dev/{}", container.name);
    let named = pod.metadata.annotations.as_ref().and_then(|all| all.get(&annotation)).cloned();
    let from_image = image.config.config().as_ref().and_then(|config| config.user().clone());
    let name = named.or(from_image).unwrap_or_default();
    if non_root {
        must_not_be_root(uid, &name)?;
    }
    let policy = shared.and_then(|shared| shared.supplemental_groups_policy.as_deref());
    let (user, ids) = user_of(uid, gid, &name, &groups);
    if policy == Some("Strict") {
        return Ok(strictly(user, ids));
    }
    Ok((user, ids))
}

/// `supplementalGroupsPolicy: Strict`: the pod's groups and no others, whatever the image says.
fn strictly(user: Option<String>, mut ids: Value) -> User {
    if let Some(ids) = ids.as_object_mut() {
        ids.remove("username");
    }
    (Some(format!("{STRICT}{}", user.unwrap_or_default())), ids)
}

/// Refuses root, and whoever might be it.
fn must_not_be_root(uid: Option<i64>, of_image: &str) -> Result<(), Cause> {
    let name = of_image.split(':').next().unwrap_or_default();
    let why = match (uid, name, name.parse::<u32>()) {
        (Some(0), _, _) => "the container must not run as root (runAsNonRoot), but its user is 0",
        (Some(_), _, _) => return Ok(()),
        (None, "", _) | (None, _, Ok(0)) => "container has runAsNonRoot and image will run as root",
        (None, _, Ok(_)) => return Ok(()),
        (None, name, Err(_)) => {
            return Err(Cause::config(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )));
        }
    };
    Err(Cause::config(why))
}

/// The user in the terms of the image, and what is added to the groups the image has for it.
fn user_of(uid: Option<i64>, gid: Option<i64>, of_image: &str, groups: &[i64]) -> User {
    let mut ids = json!({ "uid": 0, "gid": 0, "additionalGids": groups });
    let name = match uid {
        Some(uid) => uid.to_string(),
        None => of_image.to_owned(),
    };
    let Some(gid) = gid else { return (Some(name), ids) };
    let user = match name.split(':').next().unwrap_or_default() {
        "" => "0",
        user => user,
    };
    // Another first group takes nobody out of those the image has.
    ids["username"] = json!(user);
    (Some(format!("{user}:{gid}")), ids)
}

/// The command line: what the pod says, else the image's entry point and command.
fn arguments(
    container: &Container,
    image: &Image,
    environment: &[String],
) -> Result<Vec<String>, Cause> {
    let known: Vec<(String, String)> = environment
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let expanded =
        |list: &[String]| list.iter().map(|text| expand(text, &known)).collect::<Vec<_>>();
    let config = image.config.config().as_ref();
    let entrypoint = config.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let default = config.and_then(|config| config.cmd().clone()).unwrap_or_default();
    let command = container.command.as_deref().filter(|command| !command.is_empty());
    let args = container.args.as_deref().filter(|args| !args.is_empty());
    let line = match (command, args) {
        (Some(command), args) => [expanded(command), expanded(args.unwrap_or_default())].concat(),
        (None, Some(args)) => [entrypoint, expanded(args)].concat(),
        (None, None) => [entrypoint, default].concat(),
    };
    if line.is_empty() {
        return Err(Cause {
            reason: "CreateContainerError",
            message: "there is no command to run: neither the pod nor the image names one"
                .to_owned(),
            exit_code: Some(127),
        });
    }
    Ok(line)
}

/// Where the container's program begins. What lies below `/proc` leads to other processes, and they may lead anywhere.
fn directory(container: &Container, image: &Image) -> Result<String, Cause> {
    let from_image = image.config.config().as_ref().and_then(|config| config.working_dir().clone());
    let directory = container.working_dir.clone().or(from_image);
    let directory = directory.filter(|directory| !directory.is_empty());
    let directory = directory.unwrap_or_else(|| "/".to_owned());
    let mut parts = std::path::Path::new(&directory).components();
    let first = parts.find(|part| matches!(part, std::path::Component::Normal(_)));
    if first.is_some_and(|part| part.as_os_str() == "proc") {
        let why = format!("the working directory `{directory}` lies below /proc, which is refused");
        return Err(Cause::config(why));
    }
    Ok(directory)
}

fn all_mounts(
    spec: &PodSpec,
    mounts: &[Mounted],
    privileged: bool,
    shared_memory: &Path,
) -> Vec<Value> {
    let sys = if privileged { "rw" } else { "ro" };
    let mut all = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
    ];
    if spec.host_network.unwrap_or(false) {
        // The kernel shows its network in /sys only to the owner of the network namespace.
        all.push(json!({ "destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", sys] }));
    } else {
        all.push(json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys] }));
    }
    let own_shm = mounts.iter().any(|mount| mount.destination == Path::new("/dev/shm"));
    if !own_shm {
        let of_host = spec.host_ipc.unwrap_or(false);
        let source = if of_host { Path::new("/dev/shm") } else { shared_memory };
        all.push(json!({ "destination": "/dev/shm", "type": "bind", "source": source, "options": ["rbind", "nosuid", "noexec", "nodev", "rw"] }));
    }
    let mut volumes: Vec<&Mounted> = mounts.iter().collect();
    // Outer mounts first, or they would hide the inner ones.
    volumes.sort_by_key(|mount| mount.destination.components().count());
    all.extend(volumes.iter().map(|mount| mount.to_oci()));
    all
}

/// Which filter, and the profile where it is one of the node's files.
fn filter(
    context: Option<&SecurityContext>,
    spec: &PodSpec,
    privileged: bool,
    profiles: &Path,
) -> Result<(Filter, Option<Value>), Cause> {
    let shared =
        spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let profile: Option<&SeccompProfile> =
        context.and_then(|context| context.seccomp_profile.as_ref()).or(shared);
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        _ if privileged => Ok((Filter::Unconfined, None)),
        None | Some(("RuntimeDefault", _)) => Ok((Filter::RuntimeDefault, None)),
        Some(("Unconfined", _)) => Ok((Filter::Unconfined, None)),
        Some(("Localhost", Some(name))) => {
            Ok((Filter::Configured, Some(seccomp_profile(profiles, name)?)))
        }
        Some((other, _)) => {
            Err(Cause::config(format!("seccompProfile: `{other}` is no profile of this node")))
        }
    }
}

/// A profile of the node, in the form of the OCI runtime configuration.
fn seccomp_profile(profiles: &Path, name: &str) -> Result<Value, Cause> {
    let wrong = |why: &dyn std::fmt::Display| {
        Cause::config(format!("cannot use the seccomp profile `{name}` of this node: {why}"))
    };
    let mut parts = Path::new(name).components();
    if !parts.all(|part| matches!(part, std::path::Component::Normal(_))) {
        return Err(wrong(&"it is not below the folder of profiles"));
    }
    let text = std::fs::read(profiles.join(name)).map_err(|error| wrong(&error))?;
    let profile: Value = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    let conditional = |entry: &Value| {
        let given = |field: &str| entry.get(field).is_some_and(|it| it != &json!({}));
        given("includes") || given("excludes")
    };
    if profile["syscalls"].as_array().into_iter().flatten().any(conditional) {
        return Err(wrong(&"it has docker's `includes` or `excludes`, which depend on the host"));
    }
    let parsed: oci_spec::runtime::LinuxSeccomp =
        serde_json::from_value(profile).map_err(|error| wrong(&error))?;
    serde_json::to_value(parsed).map_err(|error| wrong(&error))
}

/// The kernel's preference among victims: containers with guaranteed resources last, those without any first.
fn out_of_memory_score(spec: &PodSpec, container: &Container) -> i32 {
    // What nothing on this node can do without. Without the privilege for it nobody is protected better than this agent.
    const NODE_CRITICAL: i32 = 2_000_001_000;
    if spec.priority.unwrap_or(0) >= NODE_CRITICAL {
        return -997;
    }
    match Quality::of(spec) {
        Quality::Guaranteed => -997,
        Quality::BestEffort => 1000,
        Quality::Burstable => {
            let request = memory_request(spec, container);
            let total = total_memory().max(1);
            let share =
                1000 - i64::try_from(1000 * i128::from(request) / i128::from(total)).unwrap_or(0);
            i32::try_from(share.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What a container asks for, with its part of what the pod asks for beyond its containers.
fn memory_request(spec: &PodSpec, container: &Container) -> i64 {
    let own = |container: &Container| amount(container.resources.as_ref(), "memory", false);
    let of_pod = amount(spec.resources.as_ref(), "memory", false).unwrap_or(0);
    let all: i64 = spec.containers.iter().filter_map(own).sum();
    let count = i64::try_from(spec.containers.len().max(1)).unwrap_or(1);
    own(container).unwrap_or(0).saturating_add((of_pod - all).max(0) / count)
}

/// Memory of the machine in bytes.
pub fn total_memory() -> i64 {
    let info = rustix::system::sysinfo();
    i64::try_from(u128::from(info.totalram) * u128::from(info.mem_unit)).unwrap_or(i64::MAX)
}

fn limits(pod: &Pod) -> Result<Option<Value>, Cause> {
    let annotations = pod.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get("berth.dev/ulimits")) else {
        return Ok(None);
    };
    let wrong = |error: &dyn std::fmt::Display| {
        Cause::config(format!("annotation berth.dev/ulimits is not valid: {error}"))
    };
    let given: BTreeMap<String, Value> =
        serde_json::from_str(text).map_err(|error| wrong(&error))?;
    let mut list = Vec::new();
    for (name, value) in given {
        let (soft, hard) = match &value {
            Value::Number(number) => (number.as_i64(), number.as_i64()),
            other => (other["soft"].as_i64(), other["hard"].as_i64()),
        };
        let (Some(soft), Some(hard)) = (soft, hard) else {
            return Err(wrong(&format!("`{name}` needs a number, or soft and hard")));
        };
        // -1 stands for no limit.
        list.push(json!({ "type": format!("RLIMIT_{}", name.to_uppercase()),
                          "soft": soft.cast_unsigned(), "hard": hard.cast_unsigned() }));
    }
    Ok(Some(Value::Array(list)))
}

/// Cgroup limits of a container.
pub fn resources(
    pod: &Pod,
    container: &Container,
    more: &[Device],
) -> Result<oci_spec::runtime::LinuxResources, Cause> {
    let requirements = container.resources.as_ref();
    let pids = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get("berth.dev/pids-limit"))
        .map(|text| text.parse::<i64>())
        .transpose()
        .map_err(|error| {
            Cause::config(format!("annotation berth.dev/pids-limit is not valid: {error}"))
        })?;
    let mut value = json!({ "pids": { "limit": pids.unwrap_or(PIDS) } });
    if let Some(limit) = amount(requirements, "memory", true) {
        value["memory"] = json!({ "limit": limit });
    }
    let request = milli(requirements, false).or_else(|| milli(requirements, true)).unwrap_or(0);
    let mut cpu = json!({ "shares": groups::shares(request) });
    if let Some(limit) = milli(requirements, true) {
        cpu["period"] = json!(groups::PERIOD);
        cpu["quota"] = json!(groups::quota(limit));
    }
    value["cpu"] = cpu;
    if huge_pages::any() {
        value["hugepageLimits"] = huge_pages::limits(pod, container);
    }
    if !is_privileged(container) {
        value["devices"] = devices(more);
    }
    serde_json::from_value(value).map_err(|error| Cause::config(error.to_string()))
}

/// Every device denied but those in the container's own `/dev`.
fn devices(more: &[Device]) -> Value {
    let allow = |kind: &str, major: i64, minor: Option<i64>, access: &str| {
        let mut rule = json!({ "allow": true, "type": kind, "major": major, "access": access });
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    let usual = [
        json!({ "allow": false, "access": "rwm" }),
        allow("c", 1, Some(3), "rwm"),
        allow("c", 1, Some(5), "rwm"),
        allow("c", 1, Some(7), "rwm"),
        allow("c", 1, Some(8), "rwm"),
        allow("c", 1, Some(9), "rwm"),
        allow("c", 5, Some(0), "rwm"),
        allow("c", 5, Some(2), "rwm"),
        allow("c", 136, None, "rwm"),
    ];
    usual.into_iter().chain(more.iter().map(Device::rule)).collect()
}

fn quantity<'a>(
    requirements: Option<&'a ResourceRequirements>,
    name: &str,
    limit: bool,
) -> Option<&'a Quantity> {
    let requirements = requirements?;
    let list = if limit { &requirements.limits } else { &requirements.requests };
    list.as_ref()?.get(name)
}

fn amount(requirements: Option<&ResourceRequirements>, name: &str, limit: bool) -> Option<i64> {
    Some(parse_quantity(&quantity(requirements, name, limit)?.0)?.value())
}

fn milli(requirements: Option<&ResourceRequirements>, limit: bool) -> Option<i64> {
    Some(parse_quantity(&quantity(requirements, "cpu", limit)?.0)?.milli())
}

/// The API server has checked quantities; one that does not parse counts as absent.
pub fn parse_quantity(text: &str) -> Option<berth_objects::Quantity> {
    text.parse().ok()
}

/// A `resourceFieldRef`: the container's limit or request, or what the machine has, in units of the divisor, rounded up.
pub fn resource_field(
    requirements: Option<&ResourceRequirements>,
    field: &ResourceFieldSelector,
) -> Result<String, Cause> {
    let name = &field.resource;
    let wrong = || Cause::config(format!("`{name}` is not a resource a container can ask for"));
    let (kind, resource) = name.split_once('.').ok_or_else(wrong)?;
    let limit = match kind {
        "limits" => true,
        "requests" => false,
        _ => return Err(wrong()),
    };
    let of_machine = match resource {
        "memory" => total_memory().saturating_mul(1000),
        "cpu" => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            i64::try_from(cores).unwrap_or(i64::MAX / 1000) * 1000
        }
        other if other == "ephemeral-storage" || other.starts_with("hugepages-") => 0,
        _ => return Err(wrong()),
    };
    // In thousandths, so that parts of a processor count.
    let own = quantity(requirements, resource, limit).and_then(|it| parse_quantity(&it.0));
    let value = own.map_or(if limit { of_machine } else { 0 }, |it| it.milli());
    let divisor = field.divisor.as_ref().and_then(|it| parse_quantity(&it.0));
    let divisor = divisor.map(|it| it.milli()).filter(|it| *it > 0).unwrap_or(1000);
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_devices_stand_between_the_image_and_the_pod() {
        let container: Container =
            serde_json::from_value(json!({"name": "a", "env": [{"name": "OWN", "value": "pod"}]}))
                .unwrap();
        let known = ["OWN=pod", "IMAGE=old", "PATH=/bin"].map(str::to_owned).to_vec();
        let given = [("OWN", "x"), ("IMAGE", "new"), ("MORE", "1")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let wanted = ["OWN=pod", "PATH=/bin", "IMAGE=new", "MORE=1"];
        assert_eq!(with_given(known, &container, &given), wanted);
    }

    #[test]
    fn users_are_those_of_the_pod_or_the_image_with_all_their_groups() {
        let told = |uid, gid, image| {
            let (user, ids) = user_of(uid, gid, image, &[5]);
            assert_eq!(ids["additionalGids"], json!([5]));
            (user.unwrap(), ids["username"].as_str().unwrap_or_default().to_owned())
        };
        let pair = |user: &str, name: &str| (user.to_owned(), name.to_owned());
        assert_eq!(told(None, None, "app:staff"), pair("app:staff", ""));
        assert_eq!(told(None, Some(7), "app:staff"), pair("app:7", "app"));
        assert_eq!(told(None, Some(7), ""), pair("0:7", "0"));
        assert_eq!(told(Some(1000), None, "app"), pair("1000", ""));
        assert_eq!(told(Some(1000), Some(7), "app"), pair("1000:7", "1000"));
    }

    #[test]
    fn a_profile_is_a_file_of_the_node_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "good.json",
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#,
        );
        write(
            "docker.json",
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}}]}"#,
        );
        let spec = |name: &str| -> PodSpec {
            let profile = json!({"type": "Localhost", "localhostProfile": name});
            let context = json!({"seccompProfile": profile});
            serde_json::from_value(json!({"containers": [], "securityContext": context})).unwrap()
        };
        let (filter, profile) =
            super::filter(None, &spec("good.json"), false, folder.path()).unwrap();
        assert!(matches!(filter, Filter::Configured));
        assert_eq!(profile.unwrap()["syscalls"][0]["names"][0], "mkdir");
        for name in ["../good.json", "/etc/passwd", "docker.json", "none.json", ""] {
            assert!(super::filter(None, &spec(name), false, folder.path()).is_err(), "{name}");
        }
    }

    #[test]
    fn whoever_might_be_root_does_not_run_as_non_root() {
        let refused = |uid, image| must_not_be_root(uid, image).is_err();
        for (uid, image) in [(Some(0), "7"), (None, ""), (None, "0"), (None, "0:7"), (None, "app")]
        {
            assert!(refused(uid, image), "{uid:?} {image}");
        }
        for (uid, image) in [(Some(7), ""), (Some(7), "root"), (None, "7"), (None, "7:0")] {
            assert!(!refused(uid, image), "{uid:?} {image}");
        }
    }
}
