//! The Node object and its lease.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::Shared;
use crate::config::total_memory;
use crate::status::chain;

/// Creates or refreshes the Node object and says that it is ready.
pub(crate) async fn register(shared: &Shared) -> Result<(), kube::Error> {
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
    if api.get_opt(name).await?.is_none() {
        let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &node).await?;
    }
    let status = json!({ "status": status(shared) });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    renew(shared).await
}

fn status(shared: &Shared) -> Value {
    let settings = &shared.settings;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = format!("{}Ki", total_memory() / 1024);
    let disk = rustix::fs::statvfs(&settings.data)
        .map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize) / 1024);
    let capacity = json!({
        "cpu": cores.to_string(),
        "memory": memory,
        "ephemeral-storage": format!("{disk}Ki"),
        "pods": settings.pods.to_string(),
    });
    let now = second();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({ "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": now })
    };
    let system = rustix::system::uname();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os = read("/etc/os-release");
    let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    json!({
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "the node has memory to spare"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "the node has disk to spare"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "the node has process numbers to spare"),
            condition("Ready", true, "KubeletReady", "the node agent is ready"),
        ],
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

fn second() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How often the lease is renewed; it counts as lost after four times as long.
const RENEW: Duration = Duration::from_secs(10);

/// Renews the lease until told to stop.
pub(crate) async fn keep_lease(shared: &Shared, stop: CancellationToken) {
    let mut rhythm = tokio::time::interval(RENEW);
    rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    rhythm.tick().await;
    loop {
        tokio::select! {
            _ = rhythm.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = renew(shared).await {
            warn!(error = %chain(&error), "the node's lease was not renewed");
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
