//! The cgroups that pods live in.
//!
//! Below the cgroup of this node's pods those of guaranteed quality have theirs directly; all burstable ones share a level and
//! so do all that asked for nothing. When processors are short a level gets what its pods asked for together, and the last
//! level next to nothing.

use std::path::{Path, PathBuf};

use berth_client::demand::{self, Amounts, Quality};
use berth_runtime::cgroup::{Cgroup, CgroupError, Hierarchies};
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::capacity::Capacity;
use crate::settings::Settings;

/// The time a limit of processor time is counted over, in microseconds.
pub const PERIOD: i64 = 100_000;
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;

/// The part of a processor in the terms of cgroups.
pub fn shares(milli: i64) -> i64 {
    milli.saturating_mul(1024).checked_div(1000).unwrap_or(0).clamp(LEAST_SHARES, MOST_SHARES)
}

/// The processor time within a period.
pub fn quota(milli: i64) -> i64 {
    milli.saturating_mul(PERIOD).checked_div(1000).unwrap_or(0).max(1000)
}

/// The level of a quality, below the cgroup of all pods.
fn level(quality: Quality) -> Option<&'static str> {
    match quality {
        Quality::Guaranteed => None,
        Quality::Burstable => Some("burstable"),
        Quality::BestEffort => Some("besteffort"),
    }
}

/// Where a pod of this quality has its cgroup.
pub fn of_pod(instance: &str, quality: Quality, uid: &str) -> PathBuf {
    let mut path = PathBuf::from(instance);
    path.extend(level(quality));
    path.push(format!("pod{uid}"));
    path
}

/// What a pod as a whole is held to. Where a container has no limit, neither has the pod.
pub fn pod_limits(spec: &PodSpec, processes: Option<i64>) -> LinuxResources {
    let (requests, limits) = (demand::requests(spec), demand::limits(spec));
    limits_of(&requests, &limits, Some(processes.unwrap_or(0)))
}

/// What a container is held to when its size changes.
pub fn container_limits(resources: &ResourceRequirements) -> LinuxResources {
    let limits = demand::amounts(resources.limits.as_ref());
    let mut requests = limits.clone();
    requests.extend(demand::amounts(resources.requests.as_ref()));
    limits_of(&requests, &limits, None)
}

fn limits_of(requests: &Amounts, limits: &Amounts, processes: Option<i64>) -> LinuxResources {
    let cpu = requests.get("cpu").or(limits.get("cpu")).copied().unwrap_or(0);
    // What is not limited is said, too: a resize takes limits away.
    let mut value = json!({
        "cpu": {
            "shares": shares(cpu),
            "period": PERIOD,
            "quota": limits.get("cpu").map_or(-1, |limit| quota(*limit)),
        },
        "memory": { "limit": limits.get("memory").copied().unwrap_or(-1) },
    });
    if let Some(processes) = processes {
        value["pids"] = json!({ "limit": processes });
    }
    resources(value)
}

fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).expect("the fields are those of the runtime specification")
}

/// Makes the levels and holds all pods together to what they may have, but for their memory.
///
/// # Errors
/// When the kernel refuses.
pub fn establish(
    hierarchies: &Hierarchies,
    settings: &Settings,
    capacity: &Capacity,
) -> Result<(), CgroupError> {
    let limits = &settings.limits;
    let cpu = capacity.of_pods(limits, "cpu").unwrap_or(0);
    let kept = limits.reserved();
    let processes = kept.get("pid").map_or(0, |kept| (most_processes() - kept).max(1));
    let all = resources(json!({
        "cpu": { "shares": shares(cpu) },
        "pids": { "limit": processes },
    }));
    Cgroup::create(hierarchies, Path::new(&settings.instance))?.limit(&all)?;
    make_levels(hierarchies, &settings.instance)
}

/// Makes the levels that are not there. Those that are keep their weight: pods of an earlier agent go on in them.
fn make_levels(hierarchies: &Hierarchies, instance: &str) -> Result<(), CgroupError> {
    for quality in [Quality::Burstable, Quality::BestEffort] {
        let path = level(quality).map(|level| Path::new(instance).join(level));
        let known = path.and_then(|path| {
            Cgroup::at(hierarchies, &path).read("cpu", "cpu.shares", "cpu.weight")
        });
        if known.is_none() {
            weigh(hierarchies, instance, quality, 0)?;
        }
    }
    Ok(())
}

/// Holds all pods together to the memory they may have. False while they use more: the kernel would have to end some at once,
/// and whoever evicts chooses better.
///
/// # Errors
/// When the kernel refuses.
pub fn hold_memory(
    hierarchies: &Hierarchies,
    instance: &str,
    most: Option<i64>,
) -> Result<bool, CgroupError> {
    let cgroup = Cgroup::at(hierarchies, Path::new(instance));
    let used = cgroup.usage()?.memory.working_set;
    if most.is_some_and(|most| u64::try_from(most).unwrap_or(0) < used) {
        return Ok(false);
    }
    cgroup.limit(&resources(json!({ "memory": { "limit": most.unwrap_or(-1) } })))?;
    Ok(true)
}

/// Gives a level what its pods asked for together, in thousandths of a processor.
///
/// # Errors
/// When the kernel refuses.
pub fn weigh(
    hierarchies: &Hierarchies,
    instance: &str,
    quality: Quality,
    milli: i64,
) -> Result<(), CgroupError> {
    let Some(level) = level(quality) else { return Ok(()) };
    let cgroup = Cgroup::create(hierarchies, &Path::new(instance).join(level))?;
    cgroup.limit(&resources(json!({ "cpu": { "shares": shares(milli) } })))
}

/// The most processes and threads the kernel has numbers for.
pub fn most_processes() -> i64 {
    let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    limits.into_iter().filter_map(read).min().unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quality_has_its_place() {
        let place = |quality| of_pod("berth", quality, "7").display().to_string();
        assert_eq!(place(Quality::Guaranteed), "berth/pod7");
        assert_eq!(place(Quality::Burstable), "berth/burstable/pod7");
        assert_eq!(place(Quality::BestEffort), "berth/besteffort/pod7");
    }

    #[test]
    fn a_pod_is_held_to_the_sum_of_its_containers_or_to_nothing() {
        let spec = |second: Value| -> PodSpec {
            let one = json!({"cpu": "500m", "memory": "1Mi"});
            serde_json::from_value(json!({"containers": [
                {"name": "a", "resources": {"limits": one, "requests": {"cpu": "250m"}}},
                {"name": "b", "resources": {"limits": second}},
            ], "overhead": {"memory": "1Mi"}}))
            .unwrap()
        };
        let told = |spec: &PodSpec| {
            let held = pod_limits(spec, Some(100));
            let (cpu, memory) = (held.cpu().clone().unwrap(), held.memory().unwrap());
            (cpu.shares(), cpu.quota(), memory.limit(), held.pids().as_ref().unwrap().limit())
        };
        let both = spec(json!({"cpu": "1", "memory": "1Mi"}));
        assert_eq!(told(&both), (Some(1280), Some(150_000), Some(3 << 20), 100));
        let one = spec(json!({"memory": "1Mi"}));
        assert_eq!(told(&one), (Some(256), Some(-1), Some(3 << 20), 100));
    }

    #[test]
    fn a_level_that_is_there_keeps_its_weight() {
        let hierarchies = Hierarchies::detect().unwrap();
        let instance = format!("berth-test/levels-{}", std::process::id());
        let at = |level: &str| Cgroup::at(&hierarchies, &Path::new(&instance).join(level));
        let told = |level: &str| at(level).read("cpu", "cpu.shares", "cpu.weight").unwrap();
        make_levels(&hierarchies, &instance).unwrap();
        let least = told("burstable");
        assert_eq!(told("besteffort"), least);
        weigh(&hierarchies, &instance, Quality::Burstable, 4000).unwrap();
        let weight = told("burstable");
        assert_ne!(weight, least);
        make_levels(&hierarchies, &instance).unwrap();
        assert_eq!((told("burstable"), told("besteffort")), (weight, least));
        for level in ["burstable", "besteffort", ""] {
            at(level).remove().unwrap();
        }
    }

    #[test]
    fn pods_that_use_more_than_they_may_are_not_ended_by_a_limit() {
        let hierarchies = Hierarchies::detect().unwrap();
        let instance = format!("berth-test/groups-{}", std::process::id());
        let cgroup = Cgroup::create(&hierarchies, Path::new(&instance)).unwrap();
        let limit = || {
            let text = cgroup.read("memory", "memory.limit_in_bytes", "memory.max");
            text.unwrap().trim().to_owned()
        };
        let hold = |most| hold_memory(&hierarchies, &instance, most).unwrap();
        assert!(hold(Some(64 << 20)));
        assert_eq!(limit(), (64 << 20).to_string());
        // A process that goes in by itself and then has memory of its own.
        let folders = ["memory", "pids", "cpu", "cpuacct", ""];
        let folders = folders.map(|name| Path::new("/sys/fs/cgroup").join(name).join(&instance));
        let enter: String = folders
            .iter()
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| format!("echo $$ > {}/cgroup.procs; ", path.display()))
            .collect();
        let line = format!(
            "{enter} x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo ready; read y || true"
        );
        let mut shell = std::process::Command::new("sh")
            .args(["-c", &line])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut ready).unwrap();
        assert!(!hold(Some(1 << 20)), "it uses more");
        assert_eq!(limit(), (64 << 20).to_string());
        assert!(hold(Some(32 << 20)) && hold(None));
        assert!(limit() == "max" || limit().len() > 15, "no limit: {}", limit());
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
        crate::pod::apply::remove_busy(&cgroup).unwrap();
    }
}
