//! Keeping abreast of what lies below a prefix of the store.

use std::future::Future;
use std::sync::Weak;
use std::time::Duration;

use berth_objects::Status;
use berth_store::{Event, Revision, Store, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;

/// Pause before everything is read again.
const PAUSE: Duration = Duration::from_millis(20);
/// The same while the store does not answer.
const AWAY: Duration = Duration::from_secs(1);

/// Who keeps abreast.
pub(crate) trait Follower: Sync {
    /// What it follows, for the log.
    const WHAT: &'static str;

    /// Below which all of it lies.
    fn prefix(&self) -> Bytes;

    /// Up to where all of it is known.
    fn seen(&self) -> &watch::Sender<Revision>;

    /// Reads everything afresh, and says up to where in `seen`.
    fn load(&self, store: &dyn Store) -> impl Future<Output = Result<(), Status>> + Send;

    /// Takes one change.
    fn take(&self, event: &Event) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Follows until the store is closed: following does not keep it open.
pub(crate) async fn follow<F: Follower>(follower: &F, store: Weak<dyn Store>) {
    loop {
        let from = *follower.seen().borrow();
        let Some(opened) = store.upgrade() else { return };
        let watch = opened.watch(follower.prefix(), from).await;
        drop(opened);
        let mut pause = PAUSE;
        match watch {
            Ok(events) => take_all(follower, events).await,
            Err(StoreError::Closed) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, what = F::WHAT, "cannot follow the store");
                pause = AWAY;
            }
        }
        // The watch fell behind what the store keeps: read afresh.
        tokio::time::sleep(pause).await;
        let Some(opened) = store.upgrade() else { return };
        let read = follower.load(&*opened).await;
        drop(opened);
        if let Err(error) = read {
            tracing::error!(%error, what = F::WHAT, "cannot read again");
            tokio::time::sleep(AWAY).await;
        }
    }
}

async fn take_all<F: Follower>(
    follower: &F,
    mut events: impl futures::Stream<Item = Event> + Unpin,
) {
    while let Some(event) = events.next().await {
        if let Err(error) = follower.take(&event).await {
            // What was not taken in must not count as known: all is read again.
            tracing::error!(%error, what = F::WHAT, "a change cannot be read");
            return;
        }
        // A commit may hold several changes; only progress says that all of it was told.
        if let Event::Progress(revision) = event {
            follower.seen().send_replace(revision);
        }
    }
}
