//! The Node object and its lease.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::Shared;
use crate::capacity::quantities;
use crate::event::Severity;
use crate::limits::Pressure;
use crate::status::chain;

/// What was last said of each condition: its status and since when that is so.
pub(crate) type Said = HashMap<String, (String, Timestamp)>;

/// Creates or refreshes the Node object and says how it is. What it was said to be short of counts at the first attempt alone:
/// after that it is looked at.
pub(crate) async fn register(shared: &Shared, first: bool) -> Result<Said, kube::Error> {
    let api: Api<Node> = Api::all(shared.client.clone());
    let name = &shared.settings.node;
    let labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "berth",
    });
    let (network, length) = shared.settings.network.pods;
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels },
        "spec": { "podCIDR": format!("{network}/{length}"), "podCIDRs": [format!("{network}/{length}")] },
    });
    let mut said = Said::new();
    if let Some(known) = api.get_opt(name).await? {
        for condition in known.status.iter().flat_map(|status| status.conditions.iter().flatten()) {
            let since = condition.last_transition_time.as_ref().map(|time| time.0);
            let state = (condition.status.clone(), since.unwrap_or_else(Timestamp::now));
            said.insert(condition.type_.clone(), state);
        }
        // What the node was short of before this agent began counts until that has been over for a while.
        let held = |pressure: &Pressure| {
            said.get(pressure.as_str()).is_some_and(|(status, _)| status == "True")
        };
        if first {
            shared.roster.press(Pressure::ALL.into_iter().filter(held).collect());
        }
    } else {
        let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &node).await?;
    }
    report(shared, &mut said).await?;
    renew(shared).await?;
    Ok(said)
}

/// Says how the node is.
async fn report(shared: &Shared, said: &mut Said) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(shared.client.clone());
    let status = json!({ "status": status(shared, said) });
    // By the merge keys of the lists: conditions that others write stay.
    let patch = Patch::Strategic(&status);
    api.patch_status(&shared.settings.node, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// What a condition is called in events and reasons while it holds and while not, and the words for both.
fn words(pressure: Pressure) -> [(&'static str, &'static str); 2] {
    match pressure {
        Pressure::Memory => [
            ("HasInsufficientMemory", "the node is short of memory"),
            ("HasSufficientMemory", "the node has memory to spare"),
        ],
        Pressure::Disk => [
            ("HasDiskPressure", "the node is short of disk"),
            ("HasNoDiskPressure", "the node has disk to spare"),
        ],
        Pressure::Processes => [
            ("HasInsufficientPID", "the node is short of process numbers"),
            ("HasSufficientPID", "the node has process numbers to spare"),
        ],
    }
}

fn conditions(shared: &Shared, said: &mut Said) -> Vec<Value> {
    let now = Timestamp::now();
    let mut condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let word = if holds { "True" } else { "False" };
        let known = said.get(kind).filter(|(status, _)| status == word);
        let since = known.map_or(now, |(_, since)| *since);
        if known.is_none() && said.contains_key(kind) {
            let event = format!("Node{}", reason.trim_start_matches("Kubelet"));
            let message = format!("Node {} status is now: {event}", shared.settings.node);
            shared.events.post_node(Severity::Normal, &event, message);
        }
        said.insert(kind.to_owned(), (word.to_owned(), since));
        json!({ "type": kind, "status": word, "reason": reason, "message": message,
                "lastHeartbeatTime": second(now), "lastTransitionTime": second(since) })
    };
    let short = shared.roster.pressures().borrow().clone();
    let mut all: Vec<Value> = Pressure::ALL
        .into_iter()
        .map(|pressure| {
            let holds = short.contains(&pressure);
            let (reason, message) = words(pressure)[usize::from(!holds)];
            condition(pressure.as_str(), holds, &format!("Kubelet{reason}"), message)
        })
        .collect();
    all.push(match unready(shared) {
        None => condition("Ready", true, "KubeletReady", "the node agent is ready"),
        Some(why) => condition("Ready", false, "KubeletNotReady", &why),
    });
    all
}

/// Why no pod can be started here, if so.
fn unready(shared: &Shared) -> Option<String> {
    if shared.roster.is_leaving() {
        return Some("node is shutting down".to_owned());
    }
    let pods = shared.settings.data.join("pods");
    if let Err(error) = std::fs::read_dir(&pods) {
        return Some(format!("`{}` cannot be read: {error}", pods.display()));
    }
    let root = std::path::Path::new(&shared.settings.instance);
    let cgroup = berth_runtime::cgroup::Cgroup::at(&shared.hierarchies, root);
    cgroup.cpu_time().err().map(|error| format!("the cgroup of pods is gone: {}", chain(&error)))
}

fn status(shared: &Shared, said: &mut Said) -> Value {
    let settings = &shared.settings;
    let system = rustix::system::uname();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os = read("/etc/os-release");
    let (mut capacity, mut allocatable) =
        (shared.capacity.whole.clone(), shared.capacity.allocatable.clone());
    let (devices, healthy) = shared.devices.amounts();
    capacity.extend(devices);
    allocatable.extend(healthy);
    let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    json!({
        "capacity": quantities(&capacity),
        "allocatable": quantities(&allocatable),
        "conditions": conditions(shared, said),
        "addresses": [
            { "type": "InternalIP", "address": settings.address.to_string() },
            { "type": "Hostname", "address": settings.node },
        ],
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/sys/class/dmi/id/product_uuid"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": system.release().to_string_lossy(),
            "osImage": pretty.trim_matches('"'),
            "containerRuntimeVersion": concat!("berth://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": concat!("v1.35.0-berth.", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    })
}

fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How often the lease is renewed; it counts as lost after four times as long.
const RENEW: Duration = Duration::from_secs(10);
/// How often the node says how it is when nothing has changed, in renewals of its lease.
const REPEAT: u32 = 30;

/// What tells that the node is not as it was.
pub(crate) struct Changes {
    pressures: watch::Receiver<BTreeSet<Pressure>>,
    devices: watch::Receiver<u64>,
}

impl Changes {
    /// Those from now on. Taken before the node is registered, so that none falls between the two.
    pub(crate) fn of(shared: &Shared) -> Self {
        Self { pressures: shared.roster.pressures(), devices: shared.devices.changes() }
    }
}

/// Renews the lease, and says how the node is whenever that changes, until told to stop.
pub(crate) async fn keep(
    shared: &Shared,
    mut said: Said,
    Changes { mut pressures, mut devices }: Changes,
    stop: CancellationToken,
) {
    let mut rhythm = tokio::time::interval(RENEW);
    rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    rhythm.tick().await;
    let (mut silent, mut lost) = (0, false);
    let mut was_ready = true;
    loop {
        let changed = tokio::select! {
            _ = rhythm.tick() => false,
            Ok(()) = pressures.changed() => true,
            Ok(()) = devices.changed() => true,
            () = stop.cancelled() => return,
        };
        if !changed {
            let renewed = renew(shared).await;
            if let Err(error) = &renewed {
                warn!(error = %chain(error), "the node's lease was not renewed");
            }
            silent += 1;
            // While it was silent others may have said that nobody knows how it is.
            silent = if lost && renewed.is_ok() { REPEAT } else { silent };
            lost = renewed.is_err();
        }
        let ready = unready(shared).is_none();
        if !changed && silent < REPEAT && ready == was_ready {
            continue;
        }
        match report(shared, &mut said).await {
            Ok(()) => (silent, was_ready) = (0, ready),
            Err(error) => {
                // Tried again with the next renewal.
                (silent, lost) = (REPEAT, true);
                warn!(error = %chain(&error), "it was not said how the node is");
            }
        }
    }
}

async fn renew(shared: &Shared) -> Result<(), kube::Error> {
    let name = &shared.settings.node;
    let api: Api<Lease> = Api::namespaced(shared.client.clone(), "kube-node-lease");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": 40,
            "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        },
    });
    api.patch(name, &PatchParams::apply("berth-node").force(), &Patch::Apply(&lease)).await?;
    Ok(())
}
