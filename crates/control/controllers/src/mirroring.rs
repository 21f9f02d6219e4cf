//! EndpointSlices of Services without a selector: copies of the Endpoints that somebody wrote for them by hand.
//!
//! Everything else here reads slices alone. A copy is made only where nobody else makes slices: the Service selects no pods, and
//! the Endpoints neither serve an election nor say that they are not to be copied.

pub mod observe;

use std::time::Duration;

use berth_client::{Key, Level, Queue};
use kube::ResourceExt;

use crate::context::Context;
use crate::endpoints::apply::{Owner, apply};
use crate::endpoints::observe::SERVICE_NAME;
use crate::endpoints::plan;
use crate::object::controlled_by;
use observe::is_ours;

/// Copies Endpoints until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    listen(&context, &queue);
    context.mirrors.synced().await;
    queue.serve(16, &context.stop, |key| reconcile(&context, key)).await;
}

fn listen(context: &Context, queue: &Queue<Key>) {
    let to = queue.clone();
    context.mirrors.endpoints.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let to = queue.clone();
    context.mirrors.services.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let to = queue.clone();
    context.mirrors.slices.listen(move |change| {
        for slice in change.objects() {
            if is_ours(slice)
                && let Some(service) = slice.labels().get(SERVICE_NAME)
            {
                to.push(Key::new(slice.namespace().unwrap_or_default(), service));
            }
        }
    });
}

async fn reconcile(context: &Context, key: Key) -> Result<Option<Duration>, kube::Error> {
    let mirrors = &context.mirrors;
    let endpoints = mirrors.endpoints.get(&key);
    let service = mirrors.services.get(&key);
    let slices = mirrors.slices.in_namespace(&key.namespace);
    let observed = observe::observe(&key.name, endpoints.clone(), service.as_deref(), &slices);
    let owner = endpoints.as_deref().map(controlled_by);
    let uid = owner.as_ref().map(|owner| owner.uid.clone());
    let steps = plan::settle(uid.as_ref(), &observed.slices, observed.wanted);
    if let Some(endpoints) = endpoints.filter(|_| observed.skipped > 0 && !steps.is_empty()) {
        let message = format!(
            "A max of {} addresses can be mirrored to EndpointSlices per Endpoints resource. {} addresses were skipped",
            observe::ROOM,
            observed.skipped
        );
        let recorder = &context.recorder;
        recorder.record(endpoints.as_ref(), Level::Warning, "TooManyAddressesToMirror", message);
    }
    let owner = Owner { key: &key, reference: owner };
    for step in steps {
        apply(context, &owner, &observed.slices, step).await?;
    }
    Ok(None)
}

#[cfg(test)]
#[path = "mirroring/tests.rs"]
mod tests;
