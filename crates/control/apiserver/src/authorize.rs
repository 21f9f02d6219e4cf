//! Judges requests: keeps the index of roles and pods abreast of the store, and asks it.
//!
//! An answer never waits, with two exceptions that make access predictable: a refusal is judged once more when the index has
//! seen everything that was written before the question, and who writes a role or binding is answered when it is in force.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use berth_access::{Attributes, Identity, Policy, Verdict};
use berth_objects::{Object, Resource, Status};
use berth_store::{Event, Range, Revision, Store};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::follow::{Follower, follow};
use crate::{registry, status};

/// The longest a refusal waits for the index.
const PATIENCE: Duration = Duration::from_secs(1);

/// One kind the index is made of.
struct Source {
    resource: &'static Resource<'static>,
    seen: watch::Sender<Revision>,
    /// Namespaces and names of all there are, to know what is gone after a gap.
    known: Mutex<BTreeSet<(String, String)>>,
}

impl Source {
    fn known(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(object: &Value) -> (String, String) {
    (object.namespace().to_owned(), object.name().to_owned())
}

/// Who may do what, as of now.
pub(crate) struct Access {
    policy: RwLock<Policy>,
    sources: Vec<Source>,
}

const SOURCES: [(&str, &str); 5] = [
    (berth_access::GROUP, "roles"),
    (berth_access::GROUP, "rolebindings"),
    (berth_access::GROUP, "clusterroles"),
    (berth_access::GROUP, "clusterrolebindings"),
    ("", "pods"),
];

impl Access {
    /// Reads what is in the store.
    pub async fn load(store: &dyn Store) -> Result<Self, Status> {
        let mut sources = Vec::new();
        for (group, plural) in SOURCES {
            let resource = berth_rules::find(group, "v1", plural)
                .ok_or_else(|| Status::internal("a kind that access needs is not served"))?;
            let seen = watch::Sender::new(Revision(0));
            sources.push(Source { resource, seen, known: Mutex::default() });
        }
        let access = Self { policy: RwLock::default(), sources };
        for source in &access.sources {
            access.read_all(store, source).await?;
        }
        Ok(access)
    }

    async fn read_all(&self, store: &dyn Store, source: &Source) -> Result<(), Status> {
        let prefix = registry::prefix(source.resource, "").into();
        let page =
            store.range(Range { prefix, ..Range::default() }).await.map_err(status::store)?;
        let objects: Result<Vec<Value>, Status> =
            page.records.iter().map(|record| registry::decode(source.resource, record)).collect();
        let objects = objects?;
        let mut known = source.known();
        let now = objects.iter().map(place).collect();
        let gone: Vec<Value> = known
            .difference(&now)
            .map(|(namespace, name)| {
                json!({"kind": source.resource.kind, "metadata": {"namespace": namespace, "name": name}})
            })
            .collect();
        self.change(|policy| {
            gone.iter().for_each(|object| policy.remove(object));
            objects.iter().for_each(|object| policy.put(object));
        });
        *known = now;
        source.seen.send_replace(page.revision);
        Ok(())
    }

    /// Follows the store until told to stop, or until the store is closed: following does not keep it open.
    pub async fn follow(self: Arc<Self>, store: Weak<dyn Store>, stop: CancellationToken) {
        let parts: Vec<_> =
            self.sources.iter().map(|source| Part { access: &self, source }).collect();
        let all = parts.iter().map(|part| follow(part, store.clone()));
        stop.run_until_cancelled(futures::future::join_all(all)).await;
    }

    fn change(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.policy.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What holds now.
    pub fn policy(&self) -> RwLockReadGuard<'_, Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once the index knows all that was written up to a revision, or after a while.
    pub async fn caught_up(&self, to: Revision) {
        let all = self.sources.iter().map(|source| async move {
            let mut seen = source.seen.subscribe();
            // The sender lives as long as this.
            let _closed = seen.wait_for(|seen| *seen >= to).await;
        });
        let all = futures::future::join_all(all);
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!(revision = %to, "the index of roles lags behind the store");
        }
    }

    /// Judges a request. A refusal is sure: the index has seen everything that was written before.
    pub async fn judge(
        &self,
        store: &dyn Store,
        identity: &Identity,
        wanted: &Attributes<'_>,
    ) -> Verdict {
        let verdict = self.policy().judge(identity, wanted);
        if verdict.is_allowed() || self.is_current(store.current()) {
            return verdict;
        }
        self.caught_up(store.current()).await;
        self.policy().judge(identity, wanted)
    }

    fn is_current(&self, revision: Revision) -> bool {
        self.sources.iter().all(|source| *source.seen.borrow() >= revision)
    }
}

/// The index, as one of the kinds it is made of sees it.
struct Part<'a> {
    access: &'a Access,
    source: &'a Source,
}

impl Follower for Part<'_> {
    const WHAT: &'static str = "roles and pods";

    fn prefix(&self) -> Bytes {
        registry::prefix(self.source.resource, "").into()
    }

    fn seen(&self) -> &watch::Sender<Revision> {
        &self.source.seen
    }

    /// This kind alone: the others go on meanwhile, and what they know is newer.
    async fn load(&self, store: &dyn Store) -> Result<(), Status> {
        self.access.read_all(store, self.source).await
    }

    async fn take(&self, event: &Event) -> Result<(), Status> {
        let resource = self.source.resource;
        match event {
            Event::Put { record, .. } => {
                let object = registry::decode(resource, record)?;
                self.access.change(|policy| policy.put(&object));
                self.source.known().insert(place(&object));
            }
            Event::Delete { previous, .. } => {
                let object = registry::decode(resource, previous)?;
                self.access.change(|policy| policy.remove(&object));
                self.source.known().remove(&place(&object));
            }
            Event::Progress(_) | Event::Compacted(_) => {}
        }
        Ok(())
    }
}
