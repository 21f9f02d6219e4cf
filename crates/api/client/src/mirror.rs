//! A copy of all objects of one kind that follows the server.
//!
//! Surprising: a writer may put the server's answer to its own request into the mirror ([`Mirror::note`]), so that it
//! reads its own writes at once. That takes the place of counting expected events, and it rests on revisions being
//! numbers of one series: an answer older than what the watch has told is known to be history.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Key;

/// What can be mirrored: any kind of the API, typed or as metadata only.
pub trait Mirrored: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Mirrored for K {}

/// One thing that became different.
#[derive(Debug)]
pub enum Change<'a, K> {
    /// An object is there, new or changed.
    Put {
        /// As it was, if it was there.
        old: Option<&'a Arc<K>>,
        /// As it is.
        new: &'a Arc<K>,
    },
    /// An object is no longer there.
    Gone {
        /// As it was.
        old: &'a Arc<K>,
    },
}

impl<K> Change<'_, K> {
    /// The object as it is, or was last.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Put { new, .. } => new,
            Self::Gone { old } => old,
        }
    }

    /// The object as it was and as it is, as far as it was and is.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<K>> {
        let (old, new) = match self {
            Self::Put { old, new } => (*old, Some(*new)),
            Self::Gone { old } => (Some(*old), None),
        };
        old.into_iter().chain(new)
    }
}

type Listener<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Contents<K> {
    objects: BTreeMap<Key, Arc<K>>,
    listeners: Vec<Listener<K>>,
    /// The revision up to which the watch has told everything.
    seen: u64,
}

/// The copy. Clones are the same copy.
pub struct Mirror<K> {
    contents: Arc<RwLock<Contents<K>>>,
    synced: Arc<watch::Sender<bool>>,
}

impl<K> Clone for Mirror<K> {
    fn clone(&self) -> Self {
        Self { contents: Arc::clone(&self.contents), synced: Arc::clone(&self.synced) }
    }
}

impl<K: Mirrored> Default for Mirror<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// How a watch came to its end.
enum End {
    /// The server closed it; carry on from the last revision.
    Closed,
    /// The server no longer knows that revision; list again.
    Expired,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const PAGE: u32 = 500;
const GONE: u16 = 410;

impl<K: Mirrored> Mirror<K> {
    /// An empty mirror that follows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let contents = Contents { objects: BTreeMap::new(), listeners: Vec::new(), seen: 0 };
        Self {
            contents: Arc::new(RwLock::new(contents)),
            synced: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Has every change told, in order. The listener runs with the mirror locked: it must be quick and must not touch the
    /// mirror itself. What is there already is told first.
    pub fn listen(&self, listener: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        for object in contents.objects.values() {
            listener(&Change::Put { old: None, new: object });
        }
        contents.listeners.push(Box::new(listener));
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// All objects of a namespace, by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        let from = Key::new(namespace, "");
        let inside = contents.objects.range(from..);
        inside
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// All objects.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        contents.objects.values().cloned().collect()
    }

    /// Returns once the first list is in.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as this mirror, so this can only end by being true.
        let _closed = synced.wait_for(|synced| *synced).await;
    }

    /// Takes in what the server answered to a write, ahead of the watch.
    pub fn note(&self, object: K) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        let known = contents.objects.contains_key(&Key::of(&object));
        let fresh = revision(&object).is_some_and(|revision| revision > contents.seen);
        // Neither present nor news: it has been deleted since.
        if known || fresh {
            contents.put(object);
        }
    }

    /// Changes the copy of one object until the server tells more about it; for writes whose answer is not the object.
    /// Does nothing when the object is another one by now.
    pub fn amend(&self, key: &Key, uid: &str, change: impl FnOnce(&mut K)) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = contents.objects.get_mut(key)
            && object.meta().uid.as_deref() == Some(uid)
        {
            change(Arc::make_mut(object));
        }
    }

    /// Follows the server until told to stop, over all interruptions. What was seen last stays readable meanwhile.
    pub async fn run(&self, api: Api<K>, stop: &CancellationToken) {
        let mut from = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let begin = Instant::now();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.follow(&api, &mut from, &mut pause) => outcome,
            };
            match outcome {
                // Servers end watches now and then; one that does so at once is going down.
                Ok(End::Closed) if begin.elapsed() > LONGEST_PAUSE => continue,
                Ok(End::Closed) => debug!(url = api.resource_url(), "the watch ended early"),
                Ok(End::Expired) => {
                    debug!(from, "watch expired, listing again");
                    from = None;
                }
                Err(error) => warn!(%error, url = api.resource_url(), "lost the watch"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    async fn follow(
        &self,
        api: &Api<K>,
        from: &mut Option<String>,
        pause: &mut Duration,
    ) -> Result<End, kube::Error> {
        if from.is_none() {
            *from = Some(self.list(api).await?);
            *pause = FIRST_PAUSE;
        }
        let since = from.clone().unwrap_or_default();
        let events = match api.watch(&WatchParams::default(), &since).await {
            Err(kube::Error::Api(status)) if status.code == GONE => return Ok(End::Expired),
            other => other?,
        };
        let mut events = std::pin::pin!(events.ready_chunks(256));
        while let Some(chunk) = events.next().await {
            let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
            for event in chunk {
                *pause = FIRST_PAUSE;
                match event? {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        from.clone_from(&object.meta().resource_version);
                        contents.saw(revision(&object));
                        contents.put(object);
                    }
                    WatchEvent::Deleted(object) => {
                        from.clone_from(&object.meta().resource_version);
                        contents.saw(revision(&object));
                        contents.remove(&object);
                    }
                    WatchEvent::Bookmark(bookmark) => {
                        contents.saw(bookmark.metadata.resource_version.parse().ok());
                        *from = Some(bookmark.metadata.resource_version);
                    }
                    WatchEvent::Error(status) if status.code == GONE => return Ok(End::Expired),
                    WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                }
            }
        }
        Ok(End::Closed)
    }

    /// Reads everything, and tells what is different. Returns the revision of the list.
    async fn list(&self, api: &Api<K>) -> Result<String, kube::Error> {
        let mut params = ListParams::default().limit(PAGE);
        let mut objects = Vec::new();
        let mut at = None;
        loop {
            let page = api.list(&params).await?;
            at = at.or(page.metadata.resource_version);
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        let at = at.unwrap_or_default();
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        contents.replace(objects, at.parse().ok());
        drop(contents);
        self.synced.send_replace(true);
        Ok(at)
    }
}

impl<K: Mirrored> Contents<K> {
    fn tell(&self, change: &Change<'_, K>) {
        for listener in &self.listeners {
            listener(change);
        }
    }

    fn saw(&mut self, revision: Option<u64>) {
        self.seen = self.seen.max(revision.unwrap_or(0));
    }

    fn put(&mut self, object: K) {
        let key = Key::of(&object);
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old
            && let (Some(had), Some(has)) = (revision(old.as_ref()), revision(&object))
            && had >= has
        {
            return;
        }
        let new = Arc::new(object);
        self.objects.insert(key, Arc::clone(&new));
        self.tell(&Change::Put { old: old.as_ref(), new: &new });
    }

    fn remove(&mut self, object: &K) {
        let key = Key::of(object);
        let newer = self.objects.get(&key).is_some_and(|has| {
            has.meta().uid != object.meta().uid && revision(has.as_ref()) > revision(object)
        });
        if newer {
            return;
        }
        if let Some(old) = self.objects.remove(&key) {
            self.tell(&Change::Gone { old: &old });
        }
    }

    fn replace(&mut self, objects: Vec<K>, at: Option<u64>) {
        // Lists are never older than watches, unless the server began anew: then what we know is of another series.
        if at.is_some_and(|at| at < self.seen) {
            for old in std::mem::take(&mut self.objects).into_values() {
                self.tell(&Change::Gone { old: &old });
            }
            self.seen = 0;
        }
        let mut stale: BTreeMap<Key, Arc<K>> = self.objects.clone();
        for object in objects {
            stale.remove(&Key::of(&object));
            self.put(object);
        }
        for (key, old) in stale {
            // Written by ourselves after the list was made.
            if revision(old.as_ref()).zip(at).is_some_and(|(revision, at)| revision > at) {
                continue;
            }
            self.objects.remove(&key);
            self.tell(&Change::Gone { old: &old });
        }
        self.saw(at);
    }
}

fn revision<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;
    use std::sync::Mutex;

    use super::*;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some("shop".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            resource_version: Some(revision.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn watched() -> (Mirror<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let mirror: Mirror<ConfigMap> = Mirror::new();
        let log = Arc::clone(&told);
        mirror.listen(move |change| {
            let sign = match change {
                Change::Put { old: None, .. } => "+",
                Change::Put { old: Some(_), .. } => "~",
                Change::Gone { .. } => "-",
            };
            log.lock().unwrap().push(format!("{sign}{}", Key::of(change.object().as_ref()).name));
        });
        (mirror, told)
    }

    fn with<R>(mirror: &Mirror<ConfigMap>, act: impl FnOnce(&mut Contents<ConfigMap>) -> R) -> R {
        act(&mut mirror.contents.write().unwrap())
    }

    #[test]
    fn an_own_write_is_told_once() {
        let (mirror, told) = watched();
        mirror.note(object("a", "1", 5));
        with(&mirror, |contents| {
            contents.saw(Some(5));
            contents.put(object("a", "1", 5));
        });
        assert_eq!(*told.lock().unwrap(), ["+a"]);
    }

    #[test]
    fn a_late_answer_does_not_revive_what_was_deleted() {
        let (mirror, told) = watched();
        with(&mirror, |contents| {
            contents.put(object("a", "1", 5));
            contents.saw(Some(7));
            contents.remove(&object("a", "1", 7));
        });
        mirror.note(object("a", "1", 5));
        assert!(mirror.get(&Key::new("shop", "a")).is_none());
        assert_eq!(*told.lock().unwrap(), ["+a", "-a"]);
    }

    #[test]
    fn a_list_removes_what_it_does_not_hold_but_not_what_is_newer() {
        let (mirror, told) = watched();
        with(&mirror, |contents| contents.replace(vec![object("a", "1", 5)], Some(6)));
        mirror.note(object("b", "2", 9));
        with(&mirror, |contents| contents.replace(vec![object("c", "3", 7)], Some(8)));
        let names: Vec<_> =
            mirror.all().iter().map(|object| Key::of(object.as_ref()).name).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(*told.lock().unwrap(), ["+a", "+b", "+c", "-a"]);
    }

    #[test]
    fn a_server_that_began_anew_is_believed() {
        let (mirror, told) = watched();
        with(&mirror, |contents| contents.replace(vec![object("a", "1", 50)], Some(60)));
        with(&mirror, |contents| contents.replace(vec![object("a", "2", 3)], Some(4)));
        let found = mirror.get(&Key::new("shop", "a")).unwrap();
        assert_eq!(found.metadata.uid.as_deref(), Some("2"));
        assert_eq!(*told.lock().unwrap(), ["+a", "-a", "+a"]);
    }

    #[test]
    fn a_late_deletion_spares_the_successor() {
        let (mirror, _told) = watched();
        mirror.note(object("a", "2", 9));
        with(&mirror, |contents| contents.remove(&object("a", "1", 8)));
        assert!(mirror.get(&Key::new("shop", "a")).is_some());
    }

    #[test]
    fn an_amendment_lasts_until_the_next_revision() {
        let (mirror, _told) = watched();
        mirror.note(object("a", "1", 5));
        let key = Key::new("shop", "a");
        mirror.amend(&key, "1", |object| object.immutable = Some(true));
        mirror.amend(&key, "2", |object| object.immutable = Some(false));
        assert_eq!(mirror.get(&key).unwrap().immutable, Some(true));
        mirror.note(object("a", "1", 6));
        assert_eq!(mirror.get(&key).unwrap().immutable, None);
    }
}
