//! Answers names inside a node: Services and pods from an index that watches feed, everything else from the host's own
//! resolvers.
//!
//! Surprising: a name that a pod's resolver has completed with the pod's search list and that is not there is looked up
//! further here, in one go, and the final answer is given to the first question. An external name then costs a pod two
//! questions rather than eight or ten.

mod cache;
mod feed;
mod index;
mod message;
mod resolve;
mod server;
mod settings;
mod upstream;
mod zone;

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;

pub use index::Index;
pub use server::{Bound, DnsError};
pub use settings::{Resolvers, Settings};

/// Answers names until told to stop, from an index that follows the API server. When that goes away, what was known last
/// stays the answer.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn run(
    client: Client,
    settings: Settings,
    stop: CancellationToken,
) -> Result<(), DnsError> {
    let index = Arc::new(Index::unready());
    let bound = Bound::bind(settings, Arc::clone(&index)).await?;
    let stop = stop.child_token();
    let feed = feed::run(client, &index, &stop);
    let serve = async {
        bound.serve(&stop).await;
        stop.cancel();
    };
    futures::join!(serve, feed);
    Ok(())
}
