//! Volumes: claims find or are given a volume, and volumes go after their claims.
//!
//! Local volumes are directories on a node. Only their objects are made here; the node makes the directory when a pod
//! mounts it, and removes it before it lets the volume's object go.

pub mod apply;
pub mod observe;
pub mod plan;
mod reclaim;

use std::fmt;
use std::time::Duration;

use berth_client::{Change, Key, Queue};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::context::Context;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    /// The class of local volumes.
    Class,
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class => formatter.write_str("storage class"),
            Self::Claim(key) => write!(formatter, "claim {key}"),
            Self::Volume(name) => write!(formatter, "volume {name}"),
        }
    }
}

/// Reconciles claims and volumes until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    listen(&context, &queue);
    context.mirrors.synced().await;
    queue.push(Subject::Class);
    queue.serve(8, &context.stop, |subject| reconcile(&context, subject)).await;
}

fn listen(context: &Context, queue: &Queue<Subject>) {
    let to = queue.clone();
    let volumes = context.mirrors.volumes.clone();
    context.mirrors.claims.listen(move |change| {
        let claim = change.object();
        to.push(Subject::Claim(Key::of(claim.as_ref())));
        for volume in volumes.all() {
            let named = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            if named.is_some_and(|named| named.uid == claim.uid()) {
                to.push(Subject::Volume(volume.name_any()));
            }
        }
    });
    let to = queue.clone();
    let claims = context.mirrors.claims.clone();
    context.mirrors.volumes.listen(move |change| {
        to.push(Subject::Volume(change.object().name_any()));
        for claim in claims.all() {
            let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase != Some("Bound") || name == Some(change.object().name_any()) {
                to.push(Subject::Claim(Key::of(claim.as_ref())));
            }
        }
    });
    let to = queue.clone();
    let claims = context.mirrors.claims.clone();
    let pending = move |to: &Queue<Subject>| {
        for claim in claims.all() {
            if claim.spec.as_ref().is_none_or(|spec| spec.volume_name.is_none()) {
                to.push(Subject::Claim(Key::of(claim.as_ref())));
            }
        }
    };
    let wake = pending.clone();
    context.mirrors.classes.listen(move |change| {
        if matches!(change, Change::Gone { .. }) {
            to.push(Subject::Class);
        }
        wake(&to);
    });
    let to = queue.clone();
    context.mirrors.nodes.listen(move |_| pending(&to));
    let to = queue.clone();
    context.mirrors.pods.listen(move |change| {
        let pod: &Pod = change.object();
        let done = matches!(change, Change::Gone { .. }) || crate::object::is_finished(pod);
        if done {
            let namespace = pod.namespace().unwrap_or_default();
            for claim in observe::claims_of(pod) {
                to.push(Subject::Claim(Key::new(&namespace, claim)));
            }
        }
    });
}

async fn reconcile(context: &Context, subject: Subject) -> Result<Option<Duration>, kube::Error> {
    match subject {
        Subject::Class => apply::ensure_class(context).await?,
        Subject::Claim(key) => {
            let Some(observed) = observe::observe(context, &key) else { return Ok(None) };
            for step in plan::plan(&observed) {
                apply::apply(context, &observed, step).await?;
            }
        }
        Subject::Volume(name) => reclaim::reconcile(context, &name).await?,
    }
    Ok(None)
}
