//! `/stats/summary`.

use berth_runtime::cgroup::Memory;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::agent::Shared;
use crate::directory::PodDirectory;
use crate::usage::{ContainerUse, NodeUse, PodUse, Rate, Space, Traffic};

/// Everything about the node and its pods; without `disks` no directory is walked.
pub fn summary(shared: &Shared, read: &NodeUse, disks: bool) -> Value {
    let pods: Vec<Value> = read.pods.iter().map(|pod| self::pod(shared, pod, disks)).collect();
    json!({ "node": node(shared, read, disks), "pods": pods })
}

fn cpu(at: Timestamp, used: u64, rate: Option<Rate>) -> Value {
    let mut value = json!({ "time": at.to_string(), "usageCoreNanoSeconds": used });
    if let Some(rate) = rate {
        value["usageNanoCores"] = json!(rate.nano_cores);
        value["windowNanoSeconds"] =
            json!(u64::try_from(rate.window.as_nanos()).unwrap_or(u64::MAX));
    }
    value
}

fn memory(at: Timestamp, memory: &Memory) -> Value {
    json!({
        "time": at.to_string(),
        "usageBytes": memory.usage,
        "workingSetBytes": memory.working_set,
        "rssBytes": memory.rss,
        "pageFaults": memory.faults,
        "majorPageFaults": memory.major_faults,
    })
}

fn network(at: Timestamp, name: &str, traffic: &Traffic) -> Value {
    let interface = json!({
        "name": name,
        "rxBytes": traffic.received.bytes, "rxErrors": traffic.received.errors,
        "txBytes": traffic.sent.bytes, "txErrors": traffic.sent.errors,
    });
    let mut value = interface.clone();
    value["time"] = json!(at.to_string());
    value["interfaces"] = json!([interface]);
    value
}

fn space(at: Timestamp, space: &Space) -> Value {
    json!({
        "time": at.to_string(),
        "capacityBytes": space.capacity,
        "availableBytes": space.available,
        "usedBytes": space.used,
        "inodes": space.inodes,
        "inodesFree": space.inodes_free,
        "inodesUsed": space.inodes_used,
    })
}

fn node(shared: &Shared, read: &NodeUse, disks: bool) -> Value {
    let (machine, at) = (&read.machine, read.at);
    let boot = Timestamp::from_second(machine.boot).unwrap_or(Timestamp::UNIX_EPOCH);
    let used = Memory {
        usage: machine.memory_used,
        working_set: machine.memory_working_set,
        rss: machine.memory_rss,
        faults: machine.faults,
        major_faults: machine.major_faults,
        ..Memory::default()
    };
    let mut memory = memory(at, &used);
    memory["availableBytes"] = json!(machine.memory_total.saturating_sub(used.working_set));
    let mut node = json!({
        "nodeName": shared.settings.node,
        "systemContainers": [],
        "startTime": boot.to_string(),
        "cpu": cpu(at, read.cpu, read.rate),
        "memory": memory,
        "rlimit": { "time": at.to_string(), "maxpid": machine.processes.1, "curproc": machine.processes.0 },
    });
    if !disks {
        return node;
    }
    if let Some(name) = &machine.outside
        && let Some(traffic) = machine.through(name)
    {
        node["network"] = network(at, name, &traffic);
    }
    // A disk that cannot be asked is left out.
    if let Ok(data) = Space::of(&shared.settings.data) {
        node["fs"] = space(at, &data);
    }
    if let Ok(images) = shared.meter.disks.directory(&shared.settings.images) {
        node["runtime"] = json!({ "imageFs": space(at, &images) });
    }
    node
}

fn pod(shared: &Shared, read: &PodUse, disks: bool) -> Value {
    let resident = &read.pod;
    let directory = PodDirectory::of(&shared.settings.data, &resident.uid);
    let containers: Vec<Value> = read
        .containers
        .iter()
        .map(|container| self::container(shared, &directory, container, disks))
        .collect();
    let rates: Option<Vec<Rate>> = read.containers.iter().map(|container| container.rate).collect();
    let rate = rates.filter(|rates| !rates.is_empty()).map(|rates| Rate {
        nano_cores: rates.iter().map(|rate| rate.nano_cores).sum(),
        window: rates.iter().map(|rate| rate.window).min().unwrap_or_default(),
    });
    let mut pod = json!({
        "podRef": { "name": resident.name, "namespace": resident.namespace, "uid": resident.uid },
        "startTime": resident.since.map(|since| since.to_string()),
        "containers": containers,
        "cpu": cpu(read.at, read.usage.cpu, rate),
        "memory": memory(read.at, &read.usage.memory),
        "process_stats": { "process_count": read.usage.processes },
    });
    if !disks {
        return pod;
    }
    if let Some(traffic) = &read.traffic {
        pod["network"] = network(read.at, "eth0", traffic);
    }
    if let Ok(whole) = shared.meter.disks.directory(directory.path()) {
        pod["ephemeral-storage"] = space(read.at, &whole);
    }
    let volumes = std::fs::read_dir(directory.path().join("volumes")).into_iter().flatten();
    let volumes = volumes.flatten().filter_map(|entry| {
        let found = shared.meter.disks.directory(&entry.path()).ok()?;
        let mut volume = space(read.at, &found);
        volume["name"] = json!(entry.file_name().to_string_lossy());
        Some(volume)
    });
    pod["volume"] = volumes.collect();
    pod
}

fn container(shared: &Shared, directory: &PodDirectory, read: &ContainerUse, disks: bool) -> Value {
    let running = &read.container;
    let mut container = json!({
        "name": running.name,
        "startTime": running.since.to_string(),
        "cpu": cpu(read.at, read.usage.cpu, read.rate),
        "memory": memory(read.at, &read.usage.memory),
        "swap": { "time": read.at.to_string(), "swapUsageBytes": read.usage.memory.swap },
    });
    if !disks {
        return container;
    }
    let written = directory.scratch(&running.instance).join("upper");
    if let Ok(written) = shared.meter.disks.directory(&written) {
        container["rootfs"] = space(read.at, &written);
    }
    let log = directory.log(&running.instance);
    if let (Ok(whole), Ok(metadata)) = (Space::of(&log), std::fs::metadata(&log)) {
        let logs = Space { used: metadata.len(), inodes_used: 1, ..whole };
        container["logs"] = space(read.at, &logs);
    }
    container
}
