//! Reading how much is left, and what pods use of it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::Part;
use super::local::{self, LocalUse, amount_of};
use super::plan::{Reading, Readings};
use super::rank::Candidate;
use crate::agent::Shared;
use crate::directory::PodDirectory;
use crate::groups::most_processes;
use crate::limits::Signal;
use crate::roster::Member;
use crate::usage::{NodeUse, Space};
use kube::ResourceExt;

/// How much is left of memory and process numbers, or of disks. What cannot be read is said once and left out.
pub fn read(shared: &Shared, part: Part) -> (Readings, Vec<String>) {
    let mut readings = Readings::new();
    let mut failures = Vec::new();
    let mut take = |part: &str, read: io::Result<Vec<(Signal, Reading)>>| match read {
        Ok(read) => readings.extend(read),
        Err(error) => failures.push(format!("{part}: {error}")),
    };
    let settings = &shared.settings;
    if part == Part::Disks {
        take("disk", disk(&settings.data, Signal::Disk, Signal::DiskFiles));
        take("disk of images", disk(&settings.images, Signal::ImageDisk, Signal::ImageFiles));
        return (readings, failures);
    }
    take("memory", memory());
    take("processes", processes());
    // Without a reservation pods may have all there is, and the machine's own figure says it.
    if settings.limits.reserved().contains_key("memory") {
        take("memory of pods", pod_memory(shared));
    }
    (readings, failures)
}

fn memory() -> io::Result<Vec<(Signal, Reading)>> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.map(|number| number * 1024).ok_or_else(|| io::Error::other(format!("no {name}")))
    };
    // As with a kubelet: file pages that nobody has touched lately can be had back at once.
    let (whole, free) = (value("MemTotal:")?, value("MemFree:")?);
    let available = free.saturating_add(value("Inactive(file):")?).min(whole);
    Ok(vec![(Signal::Memory, Reading { available, capacity: whole })])
}

fn disk(path: &std::path::Path, room: Signal, files: Signal) -> io::Result<Vec<(Signal, Reading)>> {
    let space = Space::of(path)?;
    let mut read = vec![(room, Reading { available: space.available, capacity: space.capacity })];
    // Some file systems make files as they are needed and count none.
    if space.inodes > 0 {
        let reading = Reading { available: space.inodes_free, capacity: space.inodes };
        read.push((files, reading));
    }
    Ok(read)
}

fn processes() -> io::Result<Vec<(Signal, Reading)>> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let running = load.split(['/', ' ']).nth(4).and_then(|number| number.parse::<u64>().ok());
    let running = running.ok_or_else(|| io::Error::other("no number of processes"))?;
    let capacity = u64::try_from(most_processes()).unwrap_or(0);
    let reading = Reading { available: capacity.saturating_sub(running), capacity };
    Ok(vec![(Signal::Processes, reading)])
}

fn pod_memory(shared: &Shared) -> io::Result<Vec<(Signal, Reading)>> {
    let whole = shared.capacity.of_pods(&shared.settings.limits, "memory");
    let capacity = whole.and_then(|whole| u64::try_from(whole).ok()).unwrap_or(0);
    let used = shared.meter.pod_memory().map_err(io::Error::other)?;
    let reading = Reading { available: capacity.saturating_sub(used), capacity };
    Ok(vec![(Signal::PodMemory, reading)])
}

/// Whether images have a disk of their own, so that ending a pod frees nothing of it.
pub fn images_apart(shared: &Shared) -> bool {
    let device = |path: &std::path::Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(&shared.settings.data) != device(&shared.settings.images)
}

/// All pods with what they use of what is short. Blocks.
///
/// # Errors
/// When the machine's own files cannot be read.
pub fn candidates(shared: &Shared, signal: Signal) -> io::Result<Vec<Candidate>> {
    let read = shared.meter.read()?;
    let members = shared.roster.members().into_iter().filter(|member| member.active);
    Ok(members.map(|member| candidate(shared, signal, &read, &member)).collect())
}

fn candidate(shared: &Shared, signal: Signal, read: &NodeUse, member: &Member) -> Candidate {
    let uid = member.pod.uid().unwrap_or_default();
    let used = read.pods.iter().find(|used| used.pod.uid == uid);
    let spec = member.pod.spec.clone().unwrap_or_default();
    let local = || {
        let directory = PodDirectory::of(&shared.settings.data, &uid);
        local::measure(&directory, &member.pod, &member.containers)
    };
    let (request, amount, containers) = match signal {
        Signal::Memory | Signal::PodMemory => {
            let request = amount_of(&member.promised, "memory");
            let amount = used.map_or(0, |used| used.usage.memory.working_set);
            let asked = |name: &str| {
                let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
                let container = all.find(|container| container.name == name);
                let resources = container.and_then(|container| container.resources.as_ref());
                let requests = resources.and_then(|resources| resources.requests.as_ref());
                amount_of(&berth_client::demand::amounts(requests), "memory")
            };
            let containers = used.into_iter().flat_map(|used| &used.containers).map(|one| {
                let name = one.container.name.clone();
                let asked = asked(&name);
                (name, one.usage.memory.working_set, asked)
            });
            (request, amount, containers.collect())
        }
        Signal::Disk | Signal::ImageDisk => {
            let LocalUse { containers, whole, .. } = local();
            let asked = local::requests(&spec);
            let containers = containers.into_iter().map(|(name, held)| {
                let request = asked.get(&name).copied().unwrap_or(0);
                (name, held.bytes, request)
            });
            let request = amount_of(&member.promised, "ephemeral-storage");
            (request, whole.bytes, containers.collect())
        }
        Signal::DiskFiles | Signal::ImageFiles => (0, local().whole.files, Vec::new()),
        Signal::Processes => (0, used.map_or(0, |used| used.usage.processes), Vec::new()),
    };
    Candidate {
        uid,
        name: format!("{}/{}", member.pod.namespace().unwrap_or_default(), member.pod.name_any()),
        priority: spec.priority.unwrap_or(0),
        critical: member.critical,
        request,
        used: amount,
        containers,
    }
}
