//! OCI resources as file contents of either cgroup version.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

/// Files and values for a version 1 hierarchy with these controllers, in the order they must be written.
pub fn legacy(resources: &LinuxResources, controllers: &[String]) -> Vec<(&'static str, String)> {
    let has = |name: &str| controllers.iter().any(|controller| controller == name);
    let mut files = Vec::new();
    if has("memory")
        && let Some(memory) = resources.memory()
    {
        if let Some(limit) = memory.limit() {
            files.push(("memory.limit_in_bytes", limit.to_string()));
        }
        if let Some(reservation) = memory.reservation() {
            files.push(("memory.soft_limit_in_bytes", reservation.to_string()));
        }
    }
    if has("cpu")
        && let Some(cpu) = resources.cpu()
    {
        if let Some(shares) = cpu.shares() {
            files.push(("cpu.shares", shares.to_string()));
        }
        if let Some(period) = cpu.period() {
            files.push(("cpu.cfs_period_us", period.to_string()));
        }
        if let Some(quota) = cpu.quota() {
            files.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    if has("pids")
        && let Some(pids) = resources.pids()
    {
        files.push(("pids.max", pids_limit(pids.limit())));
    }
    if has("devices")
        && let Some(rules) = resources.devices()
    {
        for rule in rules {
            let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
            files.push((file, device(rule)));
        }
    }
    files
}

/// Files and values for version 2.
pub fn unified(resources: &LinuxResources) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let amount = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit() {
            files.push(("memory.max", amount(limit)));
        }
        if let Some(reservation) = memory.reservation() {
            files.push(("memory.low", amount(reservation)));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares() {
            files.push(("cpu.weight", weight(shares).to_string()));
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let period = cpu.period().unwrap_or(100_000);
            files.push(("cpu.max", format!("{} {period}", amount(cpu.quota().unwrap_or(-1)))));
        }
    }
    if let Some(pids) = resources.pids() {
        files.push(("pids.max", pids_limit(pids.limit())));
    }
    files
}

/// The conversion every runtime uses: shares 2 to 262144 onto weights 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn pids_limit(limit: i64) -> String {
    if limit <= 0 { "max".to_owned() } else { limit.to_string() }
}

fn device(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        Some(LinuxDeviceType::A | LinuxDeviceType::P) | None => "a",
    };
    let number = |value: Option<i64>| match value {
        Some(value) if value >= 0 => value.to_string(),
        _ => "*".to_owned(),
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
    };

    #[test]
    fn both_versions_say_the_same() {
        let resources = LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().limit(1 << 20).build().unwrap())
            .cpu(
                LinuxCpuBuilder::default()
                    .shares(1024_u64)
                    .quota(50_000)
                    .period(100_000_u64)
                    .build()
                    .unwrap(),
            )
            .pids(LinuxPidsBuilder::default().limit(0_i64).build().unwrap())
            .build()
            .unwrap();
        let controllers = ["memory", "cpu", "pids"].map(str::to_owned);
        let line = |files: Vec<(&str, String)>| {
            files
                .iter()
                .map(|(file, value)| format!("{file}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            line(legacy(&resources, &controllers)),
            "memory.limit_in_bytes=1048576 cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 pids.max=max"
        );
        assert_eq!(
            line(unified(&resources)),
            "memory.max=1048576 cpu.weight=39 cpu.max=50000 100000 pids.max=max"
        );
    }
}
