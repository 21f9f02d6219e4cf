//! The other servers of the cluster: when one is gone, nobody is sent to it any more.
//!
//! A server's claim of its node ends with it (see `berth_store::SERVERS`), and every server that is left sees that. Each removes
//! what the dead one published behind the Service `kubernetes`; to do it twice does no harm.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;

use berth_store::{Event, Range, Revision, SERVERS, Store, StoreError};
use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long to wait before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// What looks after the other servers.
pub struct Peers {
    slices: Api<EndpointSlice>,
    own: String,
    /// What this server published, in case others took it for dead.
    published: Option<EndpointSlice>,
}

impl Peers {
    /// For the server of this node. The client may remove what others published.
    pub fn new(client: Client, node: &str) -> Self {
        Self { slices: Api::namespaced(client, "default"), own: node.to_owned(), published: None }
    }

    /// Looks after them until told to stop, or until the store is closed.
    pub async fn run(mut self, store: Weak<dyn Store>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let Some(opened) = store.upgrade() else { return };
            let outcome = self.tidy(&*opened).await;
            let events = match outcome {
                Ok(seen) => {
                    opened.watch(SERVERS.into(), seen).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error),
            };
            drop(opened);
            match events {
                Ok(mut events) => {
                    // Whoever comes or goes makes us look again.
                    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
                        if !matches!(event, Event::Progress(_)) {
                            break;
                        }
                    }
                }
                Err(error) => {
                    warn!(error, "cannot look after the other servers");
                    let _stopped = stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
    }

    /// Removes what servers left that are no more, and puts back what is ours. Returns up to where that is known.
    async fn tidy(&mut self, store: &dyn Store) -> Result<Revision, String> {
        let selected = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let published = self.slices.list(&selected).await.map_err(|error| error.to_string())?;
        // Asked afterwards, so that who has just come is not taken for gone.
        let (living, seen) = living(store).await.map_err(|error| error.to_string())?;
        let mut own = None;
        for mut slice in published {
            let name = slice.name_any();
            let Some(node) = name.strip_prefix("kubernetes-") else { continue };
            if node == self.own {
                slice.metadata = ObjectMeta {
                    name: slice.metadata.name,
                    labels: slice.metadata.labels,
                    ..ObjectMeta::default()
                };
                own = Some(slice);
                continue;
            }
            if living.contains(node) {
                continue;
            }
            match self.slices.delete(&name, &DeleteParams::default()).await {
                Ok(_) => info!(server = node, "a server is gone"),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if own.is_some() {
            self.published = own;
        } else if let Some(slice) = &self.published {
            let created = self.slices.create(&PostParams::default(), slice).await;
            created.map_err(|error| error.to_string())?;
        }
        Ok(seen)
    }
}

async fn living(store: &dyn Store) -> Result<(HashSet<String>, Revision), StoreError> {
    let page = store.range(Range { prefix: SERVERS.into(), ..Range::default() }).await?;
    let names = page
        .records
        .iter()
        .map(|record| String::from_utf8_lossy(&record.key).trim_start_matches(SERVERS).to_owned());
    Ok((names.collect(), page.revision))
}
