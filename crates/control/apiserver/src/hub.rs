//! From one watch of the store to all watchers.
//!
//! The store wakes everybody at each commit, whatever it was about. So one task follows the store and hands each change to
//! those it concerns: by kind, and within a kind by namespace, node or name. A change is decoded and serialised once. A
//! watcher that does not keep up loses its place here and reads the store by itself until it has caught up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use berth_objects::{FieldSelector, Handle, Object, Resource};
use berth_store::{Event, Revision, Store, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::feed::{Decoded, ObjectChange};
use crate::registry;

/// How many changes wait for one watcher before it has to look after itself.
const WAITING: usize = 256;

/// What a watcher cares about; everything else never reaches it. Selectors judge what does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Interest {
    /// All objects of the kind.
    Everything,
    /// Those of a namespace.
    Namespace(String),
    /// Pods of a node, before or after the change.
    Node(String),
    /// One name, in any namespace.
    Name(String),
}

impl Interest {
    /// The narrowest interest that covers a request.
    pub fn of(resource: &Resource, namespace: &str, fields: &FieldSelector) -> Self {
        if let Some(name) = fields.exact("metadata.name") {
            return Self::Name(name.to_owned());
        }
        match fields.exact("spec.nodeName") {
            Some(node) if (resource.group, resource.kind) == ("", "Pod") => {
                Self::Node(node.to_owned())
            }
            _ if namespace.is_empty() => Self::Everything,
            _ => Self::Namespace(namespace.to_owned()),
        }
    }

    /// The interests a change touches.
    fn touched(change: &ObjectChange) -> Vec<Self> {
        let mut all = vec![Self::Everything, Self::Name(change.object.name().to_owned())];
        let namespace = change.object.namespace();
        if !namespace.is_empty() {
            all.push(Self::Namespace(namespace.to_owned()));
        }
        let node = |object: &serde_json::Value| object.text(&["spec", "nodeName"]).to_owned();
        let after = node(&change.object);
        if let Some(before) = change.previous.as_ref().map(node)
            && before != after
        {
            all.push(Self::Node(before));
        }
        all.push(Self::Node(after));
        all
    }
}

type Waiting = mpsc::Sender<Arc<ObjectChange>>;

/// Watchers of one view of a kind.
struct Topic {
    handle: Handle,
    watchers: HashMap<Interest, Vec<Waiting>>,
}

/// Hands changes to watchers.
pub(crate) struct Hub {
    decoded: Decoded,
    /// By the prefix of the kind's keys; two views of the same objects share one.
    topics: Mutex<HashMap<String, Vec<Topic>>>,
    /// Every change up to here was handed on.
    position: AtomicU64,
    /// Some change of this revision was handed on, perhaps not all.
    touched: AtomicU64,
}

/// A watcher's place. Leaving it tells the hub.
pub(crate) struct Place {
    /// Changes after `from`. Closed when the watcher did not keep up.
    pub changes: mpsc::Receiver<Arc<ObjectChange>>,
    /// Changes up to here may have been handed on before.
    pub from: Revision,
    hub: Weak<Hub>,
    handle: Handle,
    interest: Interest,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.changes.close();
        if let Some(hub) = self.hub.upgrade() {
            hub.leave(&self.handle, &self.interest);
        }
    }
}

impl Hub {
    pub fn new(position: Revision) -> Arc<Self> {
        Arc::new(Self {
            decoded: Decoded::default(),
            topics: Mutex::default(),
            position: AtomicU64::new(position.0),
            touched: AtomicU64::new(position.0),
        })
    }

    /// Every change up to this revision was handed on.
    pub fn position(&self) -> Revision {
        Revision(self.position.load(Ordering::Acquire))
    }

    pub fn decoded(&self) -> &Decoded {
        &self.decoded
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<String, Vec<Topic>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a watcher.
    pub fn join(self: &Arc<Self>, handle: Handle, interest: Interest) -> Place {
        let (sender, changes) = mpsc::channel(WAITING);
        let mut topics = self.topics();
        // Read under the lock that handing on takes, so nothing falls between.
        let from = self.position().max(Revision(self.touched.load(Ordering::Acquire)));
        let views = topics.entry(registry::prefix(handle.get(), "")).or_default();
        let at = views.iter().position(|topic| topic.handle.is(&handle));
        let at = at.unwrap_or_else(|| {
            views.push(Topic { handle: handle.clone(), watchers: HashMap::new() });
            views.len() - 1
        });
        views[at].watchers.entry(interest.clone()).or_default().push(sender);
        Place { changes, from, hub: Arc::downgrade(self), handle, interest }
    }

    fn leave(&self, handle: &Handle, interest: &Interest) {
        let mut topics = self.topics();
        let prefix = registry::prefix(handle.get(), "");
        let Some(views) = topics.get_mut(&prefix) else { return };
        for topic in views.iter_mut() {
            let Some(watchers) = topic.watchers.get_mut(interest) else { continue };
            watchers.retain(|watcher| !watcher.is_closed());
            if watchers.is_empty() {
                topic.watchers.remove(interest);
            }
        }
        // Kinds come and go, and so do their topics.
        views.retain(|topic| !topic.watchers.is_empty());
        if views.is_empty() {
            topics.remove(&prefix);
        }
    }

    /// Hands one change on. What cannot be decoded ends the watches it concerns, which then find out by themselves.
    fn hand_on(&self, event: &Event) {
        let (revision, key) = match event {
            Event::Put { record, .. } => (record.revision, &record.key),
            Event::Delete { revision, previous } => (*revision, &previous.key),
            Event::Progress(_) | Event::Compacted(_) => return,
        };
        let mut topics = self.topics();
        if let Some(views) = kind_of(key).and_then(|prefix| topics.get_mut(prefix)) {
            for topic in views.iter_mut().filter(|topic| !topic.watchers.is_empty()) {
                match self.decoded.change(topic.handle.get(), event) {
                    Ok(Some(change)) => topic.hand_on(&change),
                    Ok(None) => {}
                    Err(_) => topic.watchers.clear(),
                }
            }
        }
        self.touched.fetch_max(revision.0, Ordering::Release);
    }

    fn advance(&self, revision: Revision) {
        // Joining watchers must not see a position whose changes are still being handed on.
        let _topics = self.topics();
        self.position.fetch_max(revision.0, Ordering::Release);
    }

    /// Sends everybody to the store.
    fn scatter(&self, position: Revision) {
        let mut topics = self.topics();
        topics.clear();
        self.position.fetch_max(position.0, Ordering::Release);
    }

    /// Follows the store until told to stop, or until it is closed. It does not keep the store open.
    pub async fn run(self: Arc<Self>, store: Weak<dyn Store>, stop: CancellationToken) {
        const PAUSE: Duration = Duration::from_millis(50);
        loop {
            let events = match store.upgrade() {
                Some(store) => store.watch(b"/registry/".as_slice().into(), self.position()).await,
                None => return,
            };
            match events {
                Ok(mut events) => self.follow(&mut events, &stop).await,
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot follow the store"
                    );
                }
            }
            if stop.is_cancelled() {
                return;
            }
            // Whoever is sent away finds in the store what was missed, or why there is no more. Whoever joins again must be
            // followed for again: without this task their watches would be silent for ever.
            let Some(current) = store.upgrade().map(|store| store.current()) else { return };
            self.scatter(current);
            let _stopped = stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
    }

    /// Hands on what happens until the store goes on without us.
    async fn follow(&self, events: &mut BoxStream<'static, Event>, stop: &CancellationToken) {
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            match event {
                Event::Progress(revision) => self.advance(revision),
                Event::Compacted(_) => return,
                event => self.hand_on(&event),
            }
        }
    }
}

impl Topic {
    fn hand_on(&mut self, change: &Arc<ObjectChange>) {
        for interest in Interest::touched(change) {
            let Some(watchers) = self.watchers.get_mut(&interest) else { continue };
            watchers.retain(|watcher| watcher.try_send(Arc::clone(change)).is_ok());
            if watchers.is_empty() {
                self.watchers.remove(&interest);
            }
        }
    }
}

/// The part of a key that names the kind: `/registry/apps/deployments/`.
fn kind_of(key: &Bytes) -> Option<&str> {
    let text = std::str::from_utf8(key).ok()?;
    let (end, _) = text.match_indices('/').nth(3)?;
    text.get(..=end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_kind() {
        let kind =
            |key: &'static str| kind_of(&Bytes::from_static(key.as_bytes())).map(String::from);
        assert_eq!(kind("/registry/core/pods/a/b").as_deref(), Some("/registry/core/pods/"));
        assert_eq!(kind("/registry/core/nodes/n").as_deref(), Some("/registry/core/nodes/"));
        assert_eq!(kind("/registry/core"), None);
    }

    #[test]
    fn interests_are_as_narrow_as_they_can_be() {
        let pods = berth_rules::find("", "v1", "pods").unwrap();
        let of = |namespace: &str, fields: &str| {
            Interest::of(pods, namespace, &FieldSelector::parse(fields).unwrap())
        };
        assert_eq!(of("", ""), Interest::Everything);
        assert_eq!(of("a", "status.phase=Running"), Interest::Namespace("a".into()));
        assert_eq!(of("a", "spec.nodeName=n"), Interest::Node("n".into()));
        assert_eq!(of("a", "spec.nodeName!=n"), Interest::Namespace("a".into()));
        assert_eq!(of("a", "metadata.name=p,spec.nodeName=n"), Interest::Name("p".into()));
    }
}
