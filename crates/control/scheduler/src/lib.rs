//! Binds pods to nodes, as soon as both are there.
//!
//! One task holds a running account of what is used on every node, fed by watches. A pod that fits is charged to its node
//! before the server has answered, so any number of pods can be bound at once without one node being promised twice. A pod
//! that fits nowhere waits until a node, a volume or another pod changes; nothing is retried by time, except after errors.

pub mod apply;
mod filter;
pub mod observe;
pub mod plan;
mod queue;
mod score;

use berth_client::{Change, Key, Mirror, Recorder};
use futures::StreamExt;
use futures::future::join;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::queue::{Scheduler, Wake};

/// The name that pods ask for to be bound by us.
pub const NAME: &str = "default-scheduler";

/// What the scheduler sees of the cluster.
#[derive(Clone, Default)]
pub(crate) struct Mirrors {
    pods: Mirror<Pod>,
    nodes: Mirror<Node>,
    claims: Mirror<PersistentVolumeClaim>,
    volumes: Mirror<PersistentVolume>,
}

/// Why the scheduler ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// Its own sources of news are gone; a fault of ours.
    #[error("the watches ended before the scheduler")]
    Deaf,
}

/// Binds pods until told to stop.
///
/// # Errors
/// Only by our own fault: everything the API server can do is waited out.
pub async fn run(client: Client, stop: CancellationToken) -> Result<(), SchedulerError> {
    let mirrors = Mirrors::default();
    let (wakes, news) = mpsc::unbounded_channel();
    listen(&mirrors, &wakes);
    drop(wakes);
    let (recorder, events) = Recorder::new(client.clone(), NAME, stop.clone());
    let watches = async {
        futures::join!(
            mirrors.pods.run(Api::all(client.clone()), &stop),
            mirrors.nodes.run(Api::all(client.clone()), &stop),
            mirrors.claims.run(Api::all(client.clone()), &stop),
            mirrors.volumes.run(Api::all(client.clone()), &stop),
        );
    };
    let scheduler = Scheduler::new(client.clone(), mirrors.clone(), recorder);
    let (outcome, _) = join(scheduler.run(news, &stop), join(watches, events)).await;
    outcome
}

fn listen(mirrors: &Mirrors, wakes: &mpsc::UnboundedSender<Wake>) {
    // A send fails only while everything is being taken down.
    let to = wakes.clone();
    mirrors.pods.listen(move |change| {
        let _closed = to.send(match change {
            Change::Put { new, .. } => Wake::Pod((*new).clone()),
            Change::Gone { old } => Wake::PodGone(Key::of(old.as_ref())),
        });
    });
    let to = wakes.clone();
    mirrors.nodes.listen(move |change| {
        let _closed = to.send(match change {
            Change::Put { new, .. } => Wake::Node((*new).clone()),
            Change::Gone { old } => Wake::NodeGone(Key::of(old.as_ref()).name),
        });
    });
    let to = wakes.clone();
    mirrors.claims.listen(move |_| {
        let _closed = to.send(Wake::Volumes);
    });
    let to = wakes.clone();
    mirrors.volumes.listen(move |_| {
        let _closed = to.send(Wake::Volumes);
    });
}

/// Takes all that is waiting, and waits for the first of it.
pub(crate) async fn drain<T>(news: &mut mpsc::UnboundedReceiver<T>, into: &mut Vec<T>) -> usize {
    news.recv_many(into, 1024).await
}

/// The next outcome of work under way; never, when there is none.
pub(crate) async fn next_of<S: futures::Stream + Unpin>(work: &mut S) -> S::Item {
    match work.next().await {
        Some(item) => item,
        None => std::future::pending().await,
    }
}
