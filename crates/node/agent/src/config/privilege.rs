//! Which privileges a container gets, within what this agent has itself: in a container or a virtual machine it may lack some.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use berth_runtime::DEFAULT_CAPABILITIES;
use k8s_openapi::api::core::v1::SecurityContext;

/// By their number.
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities of a container. Everything is what this agent has itself, unless the pod has a user namespace, in which the
/// kernel gives all of them.
pub fn capabilities(
    context: Option<&SecurityContext>,
    privileged: bool,
    mapped: bool,
) -> Vec<String> {
    let everything = || {
        let held = if mapped { u64::MAX } else { held() };
        let all = ALL_CAPABILITIES.iter().enumerate();
        all.filter(move |(number, _)| held & (1 << number) != 0).map(|(_, name)| *name)
    };
    if privileged {
        return everything().map(str::to_owned).collect();
    }
    let changes = context.and_then(|context| context.capabilities.as_ref());
    let named = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|name| capability(name)).collect()
    };
    let drop = named(changes.and_then(|changes| changes.drop.as_ref()));
    let add = named(changes.and_then(|changes| changes.add.as_ref()));
    let all = |list: &[String]| list.iter().any(|name| name == "CAP_ALL");
    let base: Vec<&str> =
        if all(&add) { everything().collect() } else { DEFAULT_CAPABILITIES.to_vec() };
    let mut kept: Vec<String> = base
        .iter()
        .map(|name| (*name).to_owned())
        .filter(|name| !all(&drop) && !drop.contains(name))
        .collect();
    kept.extend(add.into_iter().filter(|name| ALL_CAPABILITIES.contains(&name.as_str())));
    kept.sort();
    kept.dedup();
    kept
}

fn capability(name: &str) -> String {
    let upper = name.to_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The setting of a pid namespace by which nothing can be executed that is only in memory: malware that leaves no file does so.
/// Programs that make code in memory go on. Before Linux 6.6 the strict value refuses whoever does not ask for a seal, too.
pub fn sealed_memory() -> BTreeMap<String, String> {
    if !std::path::Path::new("/proc/sys/vm/memfd_noexec").exists() {
        return BTreeMap::new();
    }
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let value = if version >= (6, 6) { "2" } else { "1" };
    BTreeMap::from([("vm.memfd_noexec".to_owned(), value.to_owned())])
}

/// What this agent may use, as the kernel's bits.
fn held() -> u64 {
    // It stays as it was at the start, and is asked for with each container.
    static HELD: LazyLock<u64> = LazyLock::new(|| {
        // Without the file nothing is known to be missing.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX)
    });
    *HELD
}

/// The lowest preference as a victim of memory pressure that this agent can give: any, or only its own.
pub fn lowest_score() -> i32 {
    const SYS_RESOURCE: u64 = 1 << 24;
    if held() & SYS_RESOURCE != 0 {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_what_the_agent_has() {
        let own = held();
        let all = capabilities(None, true, false);
        assert_eq!(all.len(), (own & ((1 << 41) - 1)).count_ones() as usize);
        assert_eq!(capabilities(None, true, true).len(), 41);
        let context: SecurityContext = serde_json::from_value(
            json!({"capabilities": {"add": ["ALL"], "drop": ["CAP_CHOWN", "kill"]}}),
        )
        .unwrap();
        let most = capabilities(Some(&context), false, true);
        assert_eq!(most.len(), 39);
        assert!(!most.iter().any(|name| name == "CAP_KILL"));
    }
}
