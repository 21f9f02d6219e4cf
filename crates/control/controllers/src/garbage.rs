//! The garbage collector: objects whose owners are gone go, too.
//!
//! It knows the metadata of every object. Whether an owner is really gone is asked of the server itself before anything is
//! deleted for it: a mirror that lags must not cost an object.

pub mod apply;
pub mod graph;
pub mod plan;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_client::{Change, Key, Queue};
use kube::ResourceExt;

use crate::catalogue::{Catalogue, Kind, Meta};
use crate::context::{Context, is_absent};
use graph::{Graph, OwnerState, Thing};

struct Collector {
    context: Context,
    catalogue: Catalogue,
    graph: Arc<Mutex<Graph>>,
}

/// Collects until told to stop.
pub(crate) async fn run(context: Context, catalogue: Catalogue) {
    let queue = Queue::new();
    let graph = Arc::new(Mutex::new(Graph::default()));
    let (to, shared) = (queue.clone(), Arc::clone(&graph));
    catalogue.listen(move |kind, change| {
        let mut graph = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = match change {
            Change::Put { old, new } => {
                // Written anew under the same name: the former one is gone.
                let former = old.filter(|old| old.uid() != new.uid());
                let mut woken = former.map(|old| graph.remove(&old.uid().unwrap_or_default()));
                woken.get_or_insert_default().extend(graph.put(thing(kind, new)));
                woken.unwrap_or_default()
            }
            Change::Gone { old } => graph.remove(&old.uid().unwrap_or_default()),
        };
        for uid in woken {
            to.push(uid);
        }
    });
    catalogue.synced().await;
    let stop = context.stop.clone();
    let collector = Collector { context, catalogue, graph };
    queue.serve(16, &stop, |uid| collector.reconcile(uid)).await;
}

fn thing(kind: &Arc<Kind>, meta: &Meta) -> Thing {
    Thing {
        kind: Arc::clone(kind),
        key: Key::of(meta),
        uid: meta.uid().unwrap_or_default(),
        revision: meta.resource_version().unwrap_or_default(),
        owners: meta.owner_references().to_vec(),
        finalizers: meta.finalizers().to_vec(),
        going: meta.metadata.deletion_timestamp.is_some(),
    }
}

impl Collector {
    async fn reconcile(&self, uid: String) -> Result<Option<Duration>, kube::Error> {
        let Some((thing, dependents, mut owners)) = self.look(&uid) else { return Ok(None) };
        for (owner, state) in thing.owners.iter().zip(&mut owners) {
            if *state == OwnerState::Unknown {
                *state = self.ask(&thing, owner).await?;
            }
        }
        for step in plan::plan(&thing, &owners, &dependents) {
            apply::apply(&self.context, step).await?;
        }
        Ok(None)
    }

    fn look(&self, uid: &str) -> Option<(Thing, Vec<Thing>, Vec<OwnerState>)> {
        let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        let thing = graph.get(uid)?.clone();
        let dependents = graph.dependents(uid).cloned().collect();
        let owners = thing.owners.iter().map(|owner| graph.owner_state(&thing, owner)).collect();
        Some((thing, dependents, owners))
    }

    /// Asks the server whether an owner is there.
    async fn ask(
        &self,
        thing: &Thing,
        owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
    ) -> Result<OwnerState, kube::Error> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(kind) = self.catalogue.kind(group, &owner.kind) else {
            return Ok(OwnerState::Unknown);
        };
        if kind.namespaced && thing.key.namespace.is_empty() {
            // An owner in some namespace that nobody has named: never collected.
            return Ok(OwnerState::Unknown);
        }
        let api: kube::Api<Meta> = kind.api(&self.context.client, &thing.key.namespace);
        Ok(match api.get_metadata(&owner.name).await {
            Ok(found) if found.metadata.uid.as_ref() == Some(&owner.uid) => OwnerState::Present,
            Ok(_) => OwnerState::Absent,
            Err(error) if is_absent(&error) => OwnerState::Absent,
            Err(error) => return Err(error),
        })
    }
}
