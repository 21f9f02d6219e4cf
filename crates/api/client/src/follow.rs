//! Waiting for objects to become what is wanted, by watching and never by asking again and again.
//!
//! For programs that look at a few objects for a while and end; what lives on keeps a [`Mirror`](crate::Mirror).

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event};

use crate::{Fault, Key, Mirrored};

/// Failures in a row that are taken for the server's end.
const PATIENCE: u32 = 5;

/// The objects that a selection gives, as they are now.
pub struct Follow<K> {
    objects: BTreeMap<Key, K>,
    listed: BTreeMap<Key, K>,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    failures: u32,
}

impl<K: Mirrored> Follow<K>
where
    K::DynamicType: Default + Clone,
{
    /// Begins to follow what `selection` gives. Nothing is known before [`Follow::changed`] returned.
    #[must_use]
    pub fn new(api: Api<K>, selection: watcher::Config) -> Self {
        use kube::runtime::WatchStreamExt;
        Self {
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
            events: watcher::watcher(api, selection).default_backoff().boxed(),
            failures: 0,
        }
    }

    /// Waits for the next change; the first complete list is one. May be dropped at any time without losing anything.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached for several attempts.
    pub async fn changed(&mut self) -> Result<(), Fault> {
        while let Some(event) = self.events.next().await {
            match event {
                Ok(event) => {
                    self.failures = 0;
                    if self.take(event) {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.failures += 1;
                    let fault = fault(error);
                    if self.failures >= PATIENCE
                        || matches!(fault, Fault::Refused { code: 401 | 403, .. })
                    {
                        return Err(fault);
                    }
                    tracing::debug!(error = %fault, "lost the watch");
                }
            }
        }
        // A watcher has no end of its own.
        std::future::pending().await
    }

    /// Takes an event in; true if the objects are different now.
    fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listed.clear();
                false
            }
            Event::InitApply(object) => {
                self.listed.insert(Key::of(&object), object);
                false
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listed);
                true
            }
            Event::Apply(object) => {
                self.objects.insert(Key::of(&object), object);
                true
            }
            Event::Delete(object) => self.objects.remove(&Key::of(&object)).is_some(),
        }
    }

    /// All of them, by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

fn fault(error: watcher::Error) -> Fault {
    use watcher::Error;
    match error {
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => error.into(),
        Error::WatchError(status) => Fault::from(*status),
        Error::NoResourceVersion => Fault::Refused {
            code: 500,
            reason: "InternalError".to_owned(),
            message: "the server sent a list without a revision".to_owned(),
        },
    }
}

/// One object from a revision on. It costs one request, where [`Follow`] costs two.
pub struct One<K> {
    api: Api<K>,
    name: String,
    uid: Option<String>,
    revision: String,
    events: Option<BoxStream<'static, Result<WatchEvent<K>, kube::Error>>>,
    failures: u32,
}

impl<K: Mirrored> One<K> {
    /// Follows what happens to this object after the state at hand.
    #[must_use]
    pub fn after(api: Api<K>, object: &K) -> Self {
        let meta = object.meta();
        Self {
            api,
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone(),
            revision: meta.resource_version.clone().unwrap_or_default(),
            events: None,
            failures: 0,
        }
    }

    /// The object after its next change; none when it is gone, or another one has its name. May be dropped at any time
    /// without losing anything.
    ///
    /// # Errors
    /// When the server refuses, or cannot be reached for several attempts.
    pub async fn next(&mut self) -> Result<Option<K>, Fault> {
        loop {
            match self.event().await {
                Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    return Ok(self.saw(object));
                }
                Ok(Some(WatchEvent::Deleted(_))) => return Ok(None),
                Ok(Some(WatchEvent::Bookmark(bookmark))) => {
                    self.revision = bookmark.metadata.resource_version;
                }
                Ok(Some(WatchEvent::Error(status))) => self.recover(Fault::from(*status))?,
                // The server ends watches now and then.
                Ok(None) => self.events = None,
                Err(error) => {
                    self.recover(error.into())?;
                    if self.events.is_none() {
                        match self.api.get(&self.name).await.map_err(Fault::from) {
                            Ok(object) => return Ok(self.saw(object)),
                            Err(fault) if fault.is_not_found() => return Ok(None),
                            Err(fault) => self.recover(fault)?,
                        }
                    }
                }
            }
        }
    }

    async fn event(&mut self) -> Result<Option<WatchEvent<K>>, kube::Error> {
        if self.events.is_none() {
            let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
            self.events = Some(self.api.watch(&only, &self.revision).await?.boxed());
        }
        match self.events.as_mut() {
            Some(events) => events.next().await.transpose(),
            None => Ok(None),
        }
    }

    fn saw(&mut self, object: K) -> Option<K> {
        self.failures = 0;
        if object.meta().uid != self.uid {
            return None;
        }
        if let Some(revision) = &object.meta().resource_version {
            self.revision.clone_from(revision);
        }
        Some(object)
    }

    fn recover(&mut self, fault: Fault) -> Result<(), Fault> {
        self.events = None;
        self.failures += 1;
        if fault.is_expired() {
            // From the beginning: the present state comes first.
            self.revision = "0".to_owned();
        }
        if self.failures >= PATIENCE { Err(fault) } else { Ok(()) }
    }
}
