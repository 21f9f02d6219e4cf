//! ReplicaSets: as many pods of one template as asked for.
//!
//! Written pods go into the mirror at once, so a plan made right after creating sees them, and nothing is created twice
//! however far the watch lags behind.

pub mod apply;
pub mod observe;
pub mod plan;

use berth_client::{Key, Queue};
use k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use crate::wake;

/// Reconciles all ReplicaSets until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    listen(&context, &queue);
    context.mirrors.synced().await;
    queue.serve(16, &context.stop, |key| reconcile(&context, key)).await;
}

fn listen(context: &Context, queue: &Queue<Key>) {
    let to = queue.clone();
    context.mirrors.replica_sets.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let mirrors = &context.mirrors;
    wake::owners(&mirrors.pods, &mirrors.replica_sets, queue, |owner| {
        owner.spec.as_ref().map(|spec| &spec.selector)
    });
}

async fn reconcile(
    context: &Context,
    key: Key,
) -> Result<Option<std::time::Duration>, kube::Error> {
    let Some(set) = context.mirrors.replica_sets.get(&key) else { return Ok(None) };
    let now = Timestamp::now();
    let observed = observe::observe(set, &context.mirrors.pods.in_namespace(&key.namespace), now);
    let steps = plan::plan(&observed);
    let failure = apply::apply(context, &observed, steps).await.err();
    // The status tells what is true after the steps, also when one of them failed.
    let Some(set) = context.mirrors.replica_sets.get(&key) else { return Ok(None) };
    let pods = context.mirrors.pods.in_namespace(&key.namespace);
    let observed = observe::observe(set, &pods, Timestamp::now());
    if let Some(status) = plan::status(&observed, failure.as_ref().map(ToString::to_string)) {
        apply::status(context, &observed, status).await?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(observed.next),
    }
}
