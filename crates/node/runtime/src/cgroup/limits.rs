//! OCI resources as file contents of either cgroup version.
//!
//! Each is worked out for both, and the caller takes the one of the version that has the controller: a host may have some controllers
//! here and some there. Zero stands for what was not said where the kernel has no use for it, as engines mean it.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// One value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the specification calls it.
    pub field: &'static str,
    /// Names of the controller in version 1 and in version 2.
    pub controllers: (&'static str, &'static str),
    /// Names of the file in version 1, of which the first that exists counts, and what to write.
    pub legacy: Option<(Vec<String>, String)>,
    /// The same in version 2.
    pub unified: Option<(Vec<String>, String)>,
}

type Form<'a> = Option<(&'a str, String)>;

fn entry(
    field: &'static str,
    controllers: (&'static str, &'static str),
    legacy: Form<'_>,
    unified: Form<'_>,
) -> Entry {
    let form = |(names, value): (&str, String)| {
        (names.split('|').map(str::to_owned).collect::<Vec<_>>(), value)
    };
    Entry { field, controllers, legacy: legacy.map(form), unified: unified.map(form) }
}

/// Whether a version 1 limit of memory with swap has to be raised before that of memory alone, which may not be above it.
pub fn raises_swap(resources: &LinuxResources, current: Option<u64>) -> bool {
    let wanted = resources.memory().as_ref().and_then(LinuxMemory::swap);
    match (wanted, current) {
        (Some(wanted), Some(current)) => u64::try_from(wanted).map_or(true, |it| it > current),
        _ => false,
    }
}

/// What a cgroup has now, where what is to be written depends on it.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Version 1: the limit of memory with swap, if the host counts that.
    pub swap: Option<u64>,
    /// Version 2: the share of each period, which is written together with the period.
    pub quota: Option<String>,
}

/// What is to be written, in the order in which it must be.
pub fn entries(resources: &LinuxResources, present: &Present) -> Vec<Entry> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_entries(memory, raises_swap(resources, present.swap), present, &mut all);
    }
    if let Some(cpu) = resources.cpu() {
        cpu_entries(cpu, present, &mut all);
    }
    if let Some(pids) = resources.pids() {
        let value = if pids.limit() <= 0 { "max".to_owned() } else { pids.limit().to_string() };
        let form = || Some(("pids.max", value.clone()));
        all.push(entry("pids.limit", ("pids", "pids"), form(), form()));
    }
    if let Some(block) = resources.block_io() {
        block_entries(block, &mut all);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        let value = limit.limit().to_string();
        let amount = if limit.limit() < 0 { "max".to_owned() } else { value.clone() };
        let (usage, unified) =
            (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        let controllers = ("hugetlb", "hugetlb");
        all.push(entry(
            "hugepageLimits",
            controllers,
            Some((&usage, value.clone())),
            Some((&unified, amount)),
        ));
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            let form = Some(("net_cls.classid", class.to_string()));
            all.push(entry("network.classID", ("net_cls", "net_cls"), form, None));
        }
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            let form = Some(("net_prio.ifpriomap", value));
            all.push(entry("network.priorities", ("net_prio", "net_prio"), form, None));
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        let part = |name: &str, value: Option<u32>| {
            value.map_or_else(String::new, |value| format!(" {name}={value}"))
        };
        let handles = part("hca_handle", limit.hca_handles());
        let value = format!("{device}{handles}{}", part("hca_object", limit.hca_objects()));
        let form = || Some(("rdma.max", value.clone()));
        all.push(entry("rdma", ("rdma", "rdma"), form(), form()));
    }
    all
}

fn memory_entries(memory: &LinuxMemory, swap_first: bool, present: &Present, all: &mut Vec<Entry>) {
    let names = ("memory", "memory");
    let said = |value: Option<i64>| value.filter(|value| *value != 0);
    let amount = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    let limit = said(memory.limit()).map(|limit| {
        let legacy = Some(("memory.limit_in_bytes", limit.to_string()));
        entry("memory.limit", names, legacy, Some(("memory.max", amount(limit))))
    });
    let swap = said(memory.swap()).map(|swap| {
        // Version 1 counts both together, version 2 swap alone.
        let alone = match said(memory.limit()) {
            Some(limit) if swap > 0 && limit > 0 => Some(amount((swap - limit).max(0))),
            _ if swap < 0 => Some("max".to_owned()),
            _ => None,
        };
        let legacy = Some(("memory.memsw.limit_in_bytes", swap.to_string()));
        entry("memory.swap", names, legacy, alone.map(|value| ("memory.swap.max", value)))
    });
    // No limit of memory alone is above one of both.
    if present.swap.is_some() && swap.is_none() && memory.limit().is_some_and(|limit| limit < 0) {
        let legacy = Some(("memory.memsw.limit_in_bytes", "-1".to_owned()));
        // With version 2, which counts swap by itself, that stays as it is.
        let unified = Some(("memory.max", "max".to_owned()));
        all.push(entry("memory.limit", names, legacy, unified));
    }
    if swap_first {
        all.extend(swap.into_iter().chain(limit));
    } else {
        all.extend(limit.into_iter().chain(swap));
    }
    if let Some(reservation) = said(memory.reservation()) {
        let legacy = Some(("memory.soft_limit_in_bytes", reservation.to_string()));
        let unified = Some(("memory.low", amount(reservation)));
        all.push(entry("memory.reservation", names, legacy, unified));
    }
    let mut only_old = |field, file, value: Option<String>| {
        all.extend(value.map(|value| entry(field, names, Some((file, value)), None)));
    };
    let text = |value: Option<i64>| said(value).map(|value| value.to_string());
    only_old("memory.kernel", "memory.kmem.limit_in_bytes", text(memory.kernel()));
    only_old("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", text(memory.kernel_tcp()));
    only_old(
        "memory.swappiness",
        "memory.swappiness",
        memory.swappiness().map(|value| value.to_string()),
    );
    let yes = |value: Option<bool>| value.filter(|it| *it).map(|_| "1".to_owned());
    only_old("memory.disableOOMKiller", "memory.oom_control", yes(memory.disable_oom_killer()));
    only_old("memory.useHierarchy", "memory.use_hierarchy", yes(memory.use_hierarchy()));
}

fn cpu_entries(cpu: &LinuxCpu, present: &Present, all: &mut Vec<Entry>) {
    let names = ("cpu", "cpu");
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let unified = Some(("cpu.weight", weight(shares).to_string()));
        all.push(entry("cpu.shares", names, Some(("cpu.shares", shares.to_string())), unified));
    }
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if let Some(period) = period {
        let legacy = Some(("cpu.cfs_period_us", period.to_string()));
        // Version 2 has both in one file.
        let kept = present.quota.clone().unwrap_or_else(|| "max".to_owned());
        let unified = format!("{} {period}", quota.map_or(kept, share));
        all.push(entry("cpu.period", names, legacy, Some(("cpu.max", unified))));
    }
    if let Some(quota) = quota {
        // Alone it leaves the period as it is.
        let unified = Some(("cpu.max", share(quota)));
        all.push(entry("cpu.quota", names, Some(("cpu.cfs_quota_us", quota.to_string())), unified));
    }
    if let Some(burst) = cpu.burst() {
        let form = |name| Some((name, burst.to_string()));
        all.push(entry("cpu.burst", names, form("cpu.cfs_burst_us"), form("cpu.max.burst")));
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        let legacy = Some(("cpu.rt_period_us", period.to_string()));
        all.push(entry("cpu.realtimePeriod", names, legacy, None));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        let legacy = Some(("cpu.rt_runtime_us", runtime.to_string()));
        all.push(entry("cpu.realtimeRuntime", names, legacy, None));
    }
    if let Some(idle) = cpu.idle() {
        let form = || Some(("cpu.idle", idle.to_string()));
        all.push(entry("cpu.idle", names, form(), form()));
    }
    let sets = ("cpuset", "cpuset");
    for (field, file, list) in
        [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())]
    {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            let form = || Some((file, list.clone()));
            all.push(entry(field, sets, form(), form()));
        }
    }
}

fn block_entries(block: &LinuxBlockIo, all: &mut Vec<Entry>) {
    let names = ("blkio", "io");
    // Version 1 counts from 10 to 1000, version 2 from 1 to 10000; its elevator counts as version 1 does.
    let scaled = |weight: u16| 1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990;
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        let legacy = Some(("blkio.weight|blkio.bfq.weight", weight.to_string()));
        let unified = Some(("io.weight", scaled(weight).to_string()));
        all.push(entry("blockIO.weight", names, legacy, unified));
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0) {
        let legacy = Some(("blkio.leaf_weight", weight.to_string()));
        all.push(entry("blockIO.leafWeight", names, legacy, None));
    }
    for device in block.weight_device().iter().flatten() {
        let place = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let legacy =
                Some(("blkio.weight_device|blkio.bfq.weight_device", format!("{place} {weight}")));
            let unified = Some(("io.weight", format!("{place} {}", scaled(weight))));
            all.push(entry("blockIO.weightDevice", names, legacy, unified));
        }
        if let Some(weight) = device.leaf_weight() {
            let legacy = Some(("blkio.leaf_weight_device", format!("{place} {weight}")));
            all.push(entry("blockIO.weightDevice", names, legacy, None));
        }
    }
    type Throttles<'a> = &'a Option<Vec<LinuxThrottleDevice>>;
    let throttles: [(&'static str, &str, &str, Throttles<'_>); 4] = [
        (
            "blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            block.throttle_read_bps_device(),
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            block.throttle_write_bps_device(),
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            block.throttle_read_iops_device(),
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            block.throttle_write_iops_device(),
        ),
    ];
    for (field, file, key, devices) in throttles {
        for device in devices.iter().flatten() {
            let place = format!("{}:{}", device.major(), device.minor());
            let legacy = Some((file, format!("{place} {}", device.rate())));
            let unified = Some(("io.max", format!("{place} {key}={}", device.rate())));
            all.push(entry(field, names, legacy, unified));
        }
    }
}

fn share(quota: i64) -> String {
    if quota < 0 { "max".to_owned() } else { quota.to_string() }
}

/// The conversion every runtime uses: shares 2 to 262144 onto weights 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> (Vec<String>, Vec<String>) {
        lines_at(text, &Present::default())
    }

    fn lines_at(text: &str, present: &Present) -> (Vec<String>, Vec<String>) {
        let resources: LinuxResources = serde_json::from_str(text).unwrap();
        let all = entries(&resources, present);
        let line = |form: &Option<(Vec<String>, String)>| {
            form.as_ref().map(|(names, value)| format!("{}={value}", names.join("|")))
        };
        (
            all.iter().filter_map(|entry| line(&entry.legacy)).collect(),
            all.iter().filter_map(|entry| line(&entry.unified)).collect(),
        )
    }

    #[test]
    fn both_versions_say_the_same() {
        let (old, new) = lines(
            r#"{"memory": {"limit": 1048576, "swap": 2097152, "reservation": 4096}, "pids": {"limit": 0},
                "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 7, "idle": 1, "cpus": "0-1", "mems": "0"},
                "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 99}],
                    "weightDevice": [{"major": 8, "minor": 1, "weight": 10}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
                "rdma": {"mlx": {"hcaHandles": 3}}}"#,
        );
        assert_eq!(
            old,
            [
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=2097152",
                "memory.soft_limit_in_bytes=4096",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpu.cfs_burst_us=7",
                "cpu.idle=1",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "pids.max=max",
                "blkio.weight|blkio.bfq.weight=500",
                "blkio.weight_device|blkio.bfq.weight_device=8:1 10",
                "blkio.throttle.read_bps_device=8:0 99",
                "hugetlb.2MB.limit_in_bytes=4194304",
                "rdma.max=mlx hca_handle=3",
            ]
        );
        assert_eq!(
            new,
            [
                "memory.max=1048576",
                "memory.swap.max=1048576",
                "memory.low=4096",
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "cpu.max=50000",
                "cpu.max.burst=7",
                "cpu.idle=1",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "pids.max=max",
                "io.weight=4950",
                "io.weight=8:1 1",
                "io.max=8:0 rbps=99",
                "hugetlb.2MB.max=4194304",
                "rdma.max=mlx hca_handle=3",
            ]
        );
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let present = Present { swap: Some(7), quota: Some("50000".to_owned()) };
        let (old, new) = lines_at(r#"{"cpu": {"quota": 40000}}"#, &present);
        assert_eq!(
            (old, new),
            (vec!["cpu.cfs_quota_us=40000".into()], vec!["cpu.max=40000".into()])
        );
        let (old, new) = lines_at(r#"{"cpu": {"period": 50000}}"#, &present);
        let wanted = vec!["cpu.max=50000 50000".to_owned()];
        assert_eq!((old, new), (vec!["cpu.cfs_period_us=50000".into()], wanted));
        let (_, new) = lines_at(r#"{"cpu": {"quota": -1}}"#, &present);
        assert_eq!(new, ["cpu.max=max"]);
        let (old, _) = lines_at(r#"{"memory": {"limit": -1}}"#, &present);
        assert_eq!(old, ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
        let (old, new) = lines(r#"{"memory": {"limit": -1}}"#);
        assert_eq!(
            (old, new),
            (vec!["memory.limit_in_bytes=-1".into()], vec!["memory.max=max".into()])
        );
        let (old, new) = lines(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}"#);
        assert_eq!(
            (old, new),
            (vec!["hugetlb.2MB.limit_in_bytes=-1".into()], vec!["hugetlb.2MB.max=max".into()])
        );
    }

    #[test]
    fn zero_is_nothing_said() {
        let (old, new) = lines(
            r#"{"memory": {"limit": 0, "swap": 0, "disableOOMKiller": false}, "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""},
                "blockIO": {"weight": 0}}"#,
        );
        assert!(old.is_empty() && new.is_empty(), "{old:?} {new:?}");
    }

    #[test]
    fn what_version_2_has_no_word_for_has_no_form_there() {
        let (old, new) = lines(
            r#"{"memory": {"swappiness": 3, "disableOOMKiller": true, "kernelTCP": 5}, "cpu": {"realtimeRuntime": 9},
                "network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 3}]}}"#,
        );
        assert_eq!(old.len(), 6, "{old:?}");
        assert!(new.is_empty(), "{new:?}");
    }

    #[test]
    fn a_limit_above_the_present_one_with_swap_waits_for_that() {
        let resources = |text: &str| serde_json::from_str::<LinuxResources>(text).unwrap();
        let swap = resources(r#"{"memory": {"limit": 10, "swap": 20}}"#);
        assert!(raises_swap(&swap, Some(5)));
        assert!(!raises_swap(&swap, Some(50)));
        assert!(!raises_swap(&swap, None));
        let present = Present { swap: Some(5), quota: None };
        assert_eq!(entries(&swap, &present)[0].field, "memory.swap");
        assert!(raises_swap(&resources(r#"{"memory": {"swap": -1}}"#), Some(50)));
    }
}
