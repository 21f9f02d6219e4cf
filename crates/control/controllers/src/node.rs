//! Nodes that fall silent.
//!
//! A node renews its Lease. When we have not seen that for 40 s, the node is unknown and gets a taint, and its pods no
//! longer count as ready. What counts is when *we* saw the renewal: after a restart of the server every node gets the whole
//! time again, since it could not have renewed anything meanwhile; and clocks of nodes may be wrong.

pub mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_client::{Change, Key, Level, Queue};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::context::{Context, or_absent};
use plan::{Observed, Step};

const LEASES: &str = "kube-node-lease";

type Seen = Arc<Mutex<HashMap<String, Instant>>>;

/// Watches over all nodes until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    let seen = Seen::default();
    let to = queue.clone();
    context.mirrors.nodes.listen(move |change| to.push(change.object().name_any()));
    let (to, when) = (queue.clone(), Arc::clone(&seen));
    context.mirrors.leases.listen(move |change| {
        let lease = change.object();
        if lease.namespace().as_deref() != Some(LEASES) {
            return;
        }
        let mut when = when.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Put { .. } => when.insert(lease.name_any(), Instant::now()),
            Change::Gone { .. } => when.remove(&lease.name_any()),
        };
        to.push(lease.name_any());
    });
    context.mirrors.synced().await;
    let begin = Instant::now();
    queue.serve(4, &context.stop, |name| reconcile(&context, &seen, begin, name)).await;
}

async fn reconcile(
    context: &Context,
    seen: &Seen,
    begin: Instant,
    name: String,
) -> Result<Option<Duration>, kube::Error> {
    let Some(node) = context.mirrors.nodes.get(&Key::new("", &name)) else { return Ok(None) };
    let renewed = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A node without a Lease has the whole time from when it was first seen.
        *seen.entry(name.clone()).or_insert_with(Instant::now)
    };
    let pods = context.mirrors.pods.all();
    let on_node = |pod: &Arc<Pod>| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name.as_str())
    };
    let silent = renewed.max(begin).elapsed();
    let observed = Observed { node, silent, pods: pods.into_iter().filter(on_node).collect() };
    for step in plan::plan(&observed) {
        info!(node = %name, %step, "node");
        apply(context, &observed.node, step).await?;
    }
    Ok(observed.next())
}

async fn apply(context: &Context, node: &Node, step: Step) -> Result<(), kube::Error> {
    let name = node.name_any();
    let api: Api<Node> = Api::all(context.client.clone());
    let params = PatchParams::default();
    let now = Time(Timestamp::now());
    let changed = match step {
        Step::Doubt => {
            warn!(node = %name, "node has stopped posting status");
            context.recorder.record(
                node,
                Level::Normal,
                "NodeNotReady",
                format!("Node {name} status is now: NodeNotReady"),
            );
            let condition = json!({
                "type": "Ready",
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now,
            });
            let patch = json!({ "status": { "conditions": [condition] } });
            api.patch_status(&name, &params, &Patch::Strategic(&patch)).await
        }
        Step::Taint(taints) => {
            let patch = json!({
                "metadata": { "resourceVersion": node.resource_version() },
                "spec": { "taints": taints },
            });
            api.patch(&name, &params, &Patch::Merge(&patch)).await
        }
        Step::Silence { pod } => {
            let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
            let condition = json!({
                "type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now,
            });
            let patch = json!({ "status": { "conditions": [condition] } });
            let outcome = api.patch_status(&pod.name, &params, &Patch::Strategic(&patch)).await;
            if let Some(pod) = or_absent(outcome)? {
                context.mirrors.pods.note(pod);
            }
            return Ok(());
        }
    };
    if let Some(node) = or_absent(changed)? {
        context.mirrors.nodes.note(node);
    }
    Ok(())
}
