//! EndpointSlices: the addresses behind each Service that selects pods.

pub mod apply;
pub mod observe;
pub mod plan;

use std::time::Duration;

use berth_client::{Change, Key, Mirror, Queue};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;

use crate::context::Context;
use crate::object::controlled_by;
use observe::{SERVICE_NAME, is_ours};

/// Reconciles the slices of all Services until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    listen(&context, &queue);
    context.mirrors.synced().await;
    queue.serve(16, &context.stop, |key| reconcile(&context, key)).await;
}

fn listen(context: &Context, queue: &Queue<Key>) {
    let to = queue.clone();
    context.mirrors.services.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let to = queue.clone();
    context.mirrors.slices.listen(move |change| {
        let slice = change.object();
        if is_ours(slice)
            && let Some(service) = slice.labels().get(SERVICE_NAME)
        {
            to.push(Key::new(slice.namespace().unwrap_or_default(), service));
        }
    });
    let to = queue.clone();
    let services = context.mirrors.services.clone();
    context.mirrors.pods.listen(move |change| match change {
        Change::Put { old: Some(old), new } => {
            if observe::differs(old, new) {
                wake(&to, &services, old);
                wake(&to, &services, new);
            }
        }
        Change::Put { old: None, new: pod } | Change::Gone { old: pod } => {
            wake(&to, &services, pod)
        }
    });
}

fn wake(queue: &Queue<Key>, services: &Mirror<Service>, pod: &Pod) {
    for service in services.in_namespace(&pod.namespace().unwrap_or_default()) {
        if observe::selects(&service, pod) {
            queue.push(Key::of(service.as_ref()));
        }
    }
}

async fn reconcile(context: &Context, key: Key) -> Result<Option<Duration>, kube::Error> {
    let Some(service) = context.mirrors.services.get(&key) else { return Ok(None) };
    let pods = context.mirrors.pods.in_namespace(&key.namespace);
    let slices = context.mirrors.slices.in_namespace(&key.namespace);
    let observed = observe::observe(service, &pods, &slices);
    let reference = Some(controlled_by(observed.service.as_ref()));
    let owner = apply::Owner { key: &key, reference };
    for step in plan::plan(&observed) {
        apply::apply(context, &owner, &observed.slices, step).await?;
    }
    Ok(None)
}
