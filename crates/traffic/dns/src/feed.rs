//! Feeds the index from watches. While the API server is away the index stays as it was.

use std::sync::Arc;

use berth_client::{Change, Mirror};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::Index;

/// Follows the server until told to stop.
pub async fn run(client: Client, index: &Arc<Index>, stop: &CancellationToken) {
    let services: Mirror<Service> = Mirror::new();
    let slices: Mirror<EndpointSlice> = Mirror::new();
    let pods: Mirror<Pod> = Mirror::new();
    let to = Arc::clone(index);
    services.listen(move |change| match change {
        Change::Put { new, .. } => to.put_service(new),
        Change::Gone { old } => to.remove_service(old),
    });
    let to = Arc::clone(index);
    slices.listen(move |change| match change {
        Change::Put { new, .. } => to.put_slice(new),
        Change::Gone { old } => to.remove_slice(old),
    });
    let to = Arc::clone(index);
    pods.listen(move |change| match change {
        Change::Put { new, .. } => to.put_pod(new),
        Change::Gone { old } => to.remove_pod(old),
    });
    let ready = async {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = async { futures::join!(services.synced(), slices.synced(), pods.synced()) } => {}
        }
        index.set_ready();
        info!("knows the names of the cluster");
    };
    futures::join!(
        services.run(Api::all(client.clone()), stop),
        slices.run(Api::all(client.clone()), stop),
        pods.run(Api::all(client), stop),
        ready,
    );
}
