//! Keeps the index up to date with the API.
//!
//! Surprising: nothing here handles a lost API server. The mirrors keep what they have, take the differences from the
//! next complete list, and the index hears only of those.

use berth_client::{Change, Key, Mirror, Mirrored};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::index::Index;
use crate::{Shared, facts};

/// Follows Services, their endpoints and pods until told to stop.
pub(crate) async fn follow(client: &Client, index: &Shared, stop: &CancellationToken) {
    let services: Mirror<Service> = mirror(index, |index, key, service| {
        index.set_service(key, service.map(facts::of_service));
    });
    let slices: Mirror<EndpointSlice> = mirror(index, |index, key, slice| {
        index.set_slice(key, slice.and_then(facts::of_slice));
    });
    let pods: Mirror<Pod> = mirror(index, |index, key, pod| {
        index.set_pod(key, pod.and_then(facts::of_pod));
    });
    // Pods only refine what is said; a name can be denied without them.
    let complete = async {
        tokio::join!(services.synced(), slices.synced());
        index.write().ready = true;
        info!("the zone is complete");
    };
    tokio::join!(
        services.run(Api::all(client.clone()), stop),
        slices.run(Api::all(client.clone()), stop),
        pods.run(Api::all(client.clone()), stop),
        stop.run_until_cancelled(complete),
    );
}

fn mirror<K: Mirrored>(
    index: &Shared,
    set: impl Fn(&mut Index, &Key, Option<&K>) + Send + Sync + 'static,
) -> Mirror<K> {
    let mirror = Mirror::new();
    let index = index.clone();
    mirror.listen(move |change: &Change<'_, K>| {
        let key = Key::of(change.object().as_ref());
        let now = match change {
            Change::Put { new, .. } => Some(new.as_ref()),
            Change::Gone { .. } => None,
        };
        set(&mut index.write(), &key, now);
    });
    mirror
}
