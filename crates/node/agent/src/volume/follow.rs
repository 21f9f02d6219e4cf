//! Which ConfigMaps and Secrets the pods of this node have in volumes, each watched by its name, and which pod is woken when one
//! changes.
//!
//! A node may not list such objects, so there is one watch for each, however many pods use it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

/// What a volume is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

/// An object that pods use.
#[derive(Debug)]
struct Watched {
    task: JoinHandle<()>,
    /// What the watch saw last, if it saw anything: the version, or that there is none.
    latest: Option<Option<String>>,
    /// The pods, by UID, with the version each has read.
    users: HashMap<String, Option<String>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<Reference, Watched>,
    wakes: HashMap<String, Arc<Notify>>,
}

/// All of them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Mutex<State>>);

/// Whether a version is newer than one that was read. Versions are numbers wherever anybody has looked; where they are not, any
/// other one counts.
fn is_newer(seen: Option<&String>, read: Option<&String>) -> bool {
    let number = |version: Option<&String>| version.and_then(|it| it.parse::<u64>().ok());
    match (number(seen), number(read)) {
        (Some(seen), Some(read)) => seen > read,
        _ => seen != read,
    }
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What wakes a pod.
    pub fn wake_of(&self, uid: &str) -> Arc<Notify> {
        self.lock().wakes.entry(uid.to_owned()).or_default().clone()
    }

    /// Wakes a pod, if it is here.
    pub fn wake(&self, uid: &str) {
        if let Some(wake) = self.lock().wakes.get(uid) {
            wake.notify_one();
        }
    }

    /// Says what a pod's volumes were made from, and watches that and nothing else from now on.
    pub fn follow(&self, client: &Client, uid: &str, read: BTreeMap<Reference, Option<String>>) {
        self.lock().watched.retain(|reference, it| {
            if !read.contains_key(reference) {
                it.users.remove(uid);
            }
            !it.users.is_empty()
        });
        self.follow_also(client, uid, read);
    }

    /// Says what some of a pod's volumes were made from, and watches that besides.
    pub fn follow_also(
        &self,
        client: &Client,
        uid: &str,
        read: BTreeMap<Reference, Option<String>>,
    ) {
        let mut state = self.lock();
        let State { watched, wakes } = &mut *state;
        for (reference, version) in read {
            let it = watched.entry(reference).or_insert_with_key(|reference| Watched {
                task: tokio::spawn(self.clone().watch(client.clone(), reference.clone())),
                latest: None,
                users: HashMap::new(),
            });
            // It may have changed between the reading and now.
            let missed = it
                .latest
                .as_ref()
                .is_some_and(|latest| is_newer(latest.as_ref(), version.as_ref()));
            if missed && let Some(wake) = wakes.get(uid) {
                wake.notify_one();
            }
            it.users.insert(uid.to_owned(), version);
        }
    }

    /// A pod is gone.
    pub fn forget(&self, uid: &str) {
        let mut state = self.lock();
        state.wakes.remove(uid);
        state.watched.retain(|_, it| {
            it.users.remove(uid);
            !it.users.is_empty()
        });
    }

    async fn watch(self, client: Client, reference: Reference) {
        let namespace = &reference.namespace;
        match reference.kind {
            Kind::ConfigMap => {
                self.watch_one::<ConfigMap>(Api::namespaced(client, namespace), &reference).await;
            }
            Kind::Secret => {
                self.watch_one::<Secret>(Api::namespaced(client, namespace), &reference).await
            }
        }
    }

    async fn watch_one<K>(&self, api: Api<K>, reference: &Reference)
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let named = watcher::Config::default().fields(&format!("metadata.name={}", reference.name));
        let mut events = watcher(api, named).default_backoff().boxed();
        let mut found = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => found = false,
                Ok(Event::InitApply(object)) => {
                    found = true;
                    self.seen(reference, object.resource_version());
                }
                Ok(Event::Apply(object)) => self.seen(reference, object.resource_version()),
                Ok(Event::InitDone) if found => {}
                Ok(Event::InitDone | Event::Delete(_)) => self.seen(reference, None),
                Err(error) => {
                    let error = crate::status::chain(&error);
                    warn!(
                        name = reference.name,
                        namespace = reference.namespace,
                        error,
                        "cannot watch what a volume is made from"
                    );
                }
            }
        }
    }

    fn seen(&self, reference: &Reference, version: Option<String>) {
        let mut state = self.lock();
        let State { watched, wakes } = &mut *state;
        let Some(it) = watched.get_mut(reference) else { return };
        for (uid, read) in &it.users {
            if is_newer(version.as_ref(), read.as_ref())
                && let Some(wake) = wakes.get(uid)
            {
                wake.notify_one();
            }
        }
        it.latest = Some(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_is_what_comes_later() {
        let version = |text: &str| Some(text.to_owned());
        for (seen, read, newer) in [
            (version("10"), version("9"), true),
            (version("9"), version("10"), false),
            (version("9"), version("9"), false),
            (version("9"), None, true),
            (None, version("9"), true),
            (None, None, false),
            (version("b"), version("a"), true),
        ] {
            assert_eq!(is_newer(seen.as_ref(), read.as_ref()), newer, "{seen:?} {read:?}");
        }
    }
}
