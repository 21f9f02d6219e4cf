//! Directories of provisioned volumes whose claim is gone.
//!
//! The control plane deletes the volume; only the node can remove the data, and says so by clearing the finalizer.

use std::path::Path;

use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent::Shared;
use crate::status::chain;

/// Held by volumes whose directory is still there.
const FINALIZER: &str = "berth.dev/local-volume";
/// `delete` where the data goes with the claim.
const RECLAIM: &str = "berth.dev/reclaim";
/// The node that has the directory.
const NODE: &str = "berth.dev/node";

/// Removes directories of deleted volumes until told to stop.
pub(crate) async fn run(shared: &Shared, stop: CancellationToken) {
    let api: Api<PersistentVolume> = Api::all(shared.client.clone());
    let mut volumes =
        watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
    loop {
        let volume = tokio::select! {
            () = stop.cancelled() => return,
            volume = volumes.next() => volume,
        };
        match volume {
            Some(Ok(volume)) => {
                if let Err(error) =
                    look(&shared.client, &shared.settings.node, &shared.settings.data, &volume)
                        .await
                {
                    warn!(volume = %volume.name_any(), error = %chain(&*error), "a volume's directory was not removed");
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "watch of volumes interrupted"),
            None => return,
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn look(
    client: &Client,
    node: &str,
    data: &Path,
    volume: &PersistentVolume,
) -> Result<(), Failure> {
    let ours = volume.annotations().get(NODE).is_none_or(|of| of == node);
    let wanted = volume.annotations().get(RECLAIM).is_some_and(|what| what == "delete");
    let held = volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if volume.metadata.deletion_timestamp.is_none() || !ours || !wanted || !held {
        return Ok(());
    }
    let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
    if let Some(local) = local {
        let path = Path::new(&local.path);
        // The path comes from the API: only directories that are ours to remove are removed.
        let inside = path.parent() == Some(&data.join("volumes"));
        if !inside {
            return Err(format!("`{}` is not a volume of this node", path.display()).into());
        }
        let path = path.to_owned();
        let removed = tokio::task::spawn_blocking(move || berth_runtime::remove_tree(&path));
        removed.await??;
        info!(volume = %volume.name_any(), "removed the volume's directory");
    }
    let rest: Vec<&String> = volume.finalizers().iter().filter(|name| *name != FINALIZER).collect();
    let patch = json!({ "metadata": { "resourceVersion": volume.metadata.resource_version, "finalizers": rest } });
    let api: Api<PersistentVolume> = Api::all(client.clone());
    match api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // Changed meanwhile: the watch brings it again.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
