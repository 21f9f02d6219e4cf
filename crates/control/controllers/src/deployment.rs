//! Deployments: one ReplicaSet per template, and an orderly way from the old ones to the new.

pub mod apply;
mod hash;
pub mod observe;
pub mod plan;
mod proportion;
pub mod status;

use std::time::Duration;

use berth_client::{Key, Queue};
use k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use crate::wake;

/// Reconciles all Deployments until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    listen(&context, &queue);
    context.mirrors.synced().await;
    queue.serve(16, &context.stop, |key| reconcile(&context, key)).await;
}

fn listen(context: &Context, queue: &Queue<Key>) {
    let to = queue.clone();
    context.mirrors.deployments.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let mirrors = &context.mirrors;
    wake::owners(&mirrors.replica_sets, &mirrors.deployments, queue, |owner| {
        owner.spec.as_ref().map(|spec| &spec.selector)
    });
}

async fn reconcile(context: &Context, key: Key) -> Result<Option<Duration>, kube::Error> {
    let observe = || {
        let deployment = context.mirrors.deployments.get(&key)?;
        let sets = context.mirrors.replica_sets.in_namespace(&key.namespace);
        Some(observe::observe(deployment, &sets, Timestamp::now()))
    };
    let Some(observed) = observe() else { return Ok(None) };
    let failure = apply::apply(context, &observed, plan::plan(&observed)).await.err();
    let Some(observed) = observe() else { return Ok(None) };
    let (wanted, next) = status::status(&observed);
    if let Some(wanted) = wanted {
        apply::status(context, &observed, wanted).await?;
    }
    failure.map_or(Ok(next), Err)
}
