//! Pages of memory that are larger than others. They are set apart by whoever runs the machine, and given to those pods alone
//! that ask for them: any other is held to none.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use berth_client::demand::{Amounts, amounts, limits as pod_limits};
use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};

use crate::capacity::binary;

const PLACE: &str = "/sys/kernel/mm/hugepages";

/// Sizes in bytes, and how many pages there are of each.
pub fn present() -> Vec<(u64, u64)> {
    let entries = fs::read_dir(PLACE).into_iter().flatten().flatten();
    let mut found: Vec<(u64, u64)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some((size * 1024, count.trim().parse().ok()?))
        })
        .collect();
    found.sort_unstable();
    found
}

/// Whether this machine had any when it was asked first, as the agent does before it looks for cgroups. Pages that are set
/// apart later are the node's with the next start: no cgroup that was found before can hold anybody to them.
pub fn any() -> bool {
    static ANY: OnceLock<bool> = OnceLock::new();
    *ANY.get_or_init(|| present().iter().any(|(_, count)| *count > 0))
}

/// The resource that pages of this size are.
pub fn resource(size: u64) -> String {
    format!("hugepages-{}", binary(size))
}

/// What a container is held to, in the terms of the runtime specification: nothing of any size it has not asked for.
pub fn limits(pod: &Pod, container: &Container) -> Value {
    limits_of(&present(), pod, container)
}

fn limits_of(present: &[(u64, u64)], pod: &Pod, container: &Container) -> Value {
    let own = amounts(container.resources.as_ref().and_then(|it| it.limits.as_ref()));
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let whole = amounts(whole.and_then(|it| it.limits.as_ref()));
    let one = |(size, _): &(u64, u64)| {
        let name = resource(*size);
        let limit = own.get(&name).or(whole.get(&name)).copied().unwrap_or(0);
        // The kernel's own name of the size: 2MB, 1GB.
        json!({ "pageSize": binary(*size).replace('i', "B"), "limit": limit })
    };
    present.iter().map(one).collect()
}

/// Why this node has not what a container asks for, if so.
pub fn lacking(container: &Container, capacity: &Amounts) -> Option<String> {
    let limits = amounts(container.resources.as_ref().and_then(|it| it.limits.as_ref()));
    let mut asked = limits.into_iter().filter(|(name, _)| name.starts_with("hugepages-"));
    let (name, _) =
        asked.find(|(name, amount)| capacity.get(name).copied().unwrap_or(0) < *amount)?;
    Some(format!("resources.limits.{name}: there are not so many such pages"))
}

/// The size of pages that a volume of this medium has.
///
/// # Errors
/// When the pod asks for no such pages, or for several sizes and the medium does not say which.
pub fn of_volume(pod: &Pod, medium: &str) -> Result<u64, String> {
    let Some(spec) = &pod.spec else { return Err("the pod has no specification".to_owned()) };
    let mut asked: BTreeSet<String> = pod_limits(spec).into_keys().collect();
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in all {
        asked.extend(
            amounts(container.resources.as_ref().and_then(|it| it.limits.as_ref())).into_keys(),
        );
    }
    asked.retain(|name| name.starts_with("hugepages-"));
    let named = medium.strip_prefix("HugePages-").map(|size| format!("hugepages-{size}"));
    let name = match (named, asked.len()) {
        (Some(named), _) if asked.contains(&named) => named,
        (Some(named), _) => return Err(format!("no container has a limit of {named}")),
        (None, 1) => asked.pop_first().unwrap_or_default(),
        (None, 0) => return Err("no container has a limit of huge pages".to_owned()),
        (None, _) => return Err("the pod has huge pages of several sizes, say which".to_owned()),
    };
    let size = name.trim_start_matches("hugepages-").parse::<berth_objects::Quantity>();
    let size = size.ok().and_then(|size| u64::try_from(size.value()).ok());
    size.filter(|size| *size > 0).ok_or_else(|| format!("`{name}` is no size of pages"))
}

/// Mounts a file system of such pages. The limits of the containers bound what is in it.
pub fn mount_at(path: &Path, size: u64) -> io::Result<()> {
    let options = CString::new(format!("mode=777,pagesize={size}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("hugetlbfs", path, "hugetlbfs", flags, options.as_c_str())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(limits: &[Value]) -> Pod {
        let containers: Vec<Value> = limits
            .iter()
            .map(|limits| json!({"name": "a", "resources": {"limits": limits}}))
            .collect();
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn a_container_has_the_pages_it_asked_for_and_no_others() {
        let made = pod(&[json!({"hugepages-2Mi": "4Mi"})]);
        let container = made.spec.clone().unwrap().containers.remove(0);
        let held = limits_of(&[(2 << 20, 8), (1 << 30, 0)], &made, &container);
        let wanted =
            json!([{"pageSize": "2MB", "limit": 4 << 20}, {"pageSize": "1GB", "limit": 0}]);
        assert_eq!(held, wanted);
        let capacity = |amount: i64| Amounts::from([("hugepages-2Mi".to_owned(), amount)]);
        assert_eq!(lacking(&container, &capacity(4 << 20)), None);
        assert!(lacking(&container, &capacity(2 << 20)).unwrap().contains("hugepages-2Mi"));
        assert!(lacking(&container, &Amounts::new()).is_some());
    }

    #[test]
    fn a_volume_has_pages_of_a_size_that_is_asked_for() {
        let one = pod(&[json!({"hugepages-2Mi": "4Mi"}), json!({"memory": "1Gi"})]);
        assert_eq!(of_volume(&one, "HugePages"), Ok(2 << 20));
        assert_eq!(of_volume(&one, "HugePages-2Mi"), Ok(2 << 20));
        assert!(of_volume(&one, "HugePages-1Gi").unwrap_err().contains("hugepages-1Gi"));
        let two = pod(&[json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"})]);
        assert!(of_volume(&two, "HugePages").unwrap_err().contains("several sizes"));
        assert_eq!(of_volume(&two, "HugePages-1Gi"), Ok(1 << 30));
        assert!(of_volume(&pod(&[json!({})]), "HugePages").is_err());
    }
}
