//! Changes as objects: decoded once, serialised once, shared by all who watch.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use berth_objects::{Object, Resource, Status};
use berth_store::{Event, Revision};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::server::Shared;
use crate::{convert, registry};

/// The most changes kept decoded. Watchers that are further behind decode for themselves.
const KEPT: usize = 512;

/// One change of one object.
pub(crate) struct ObjectChange {
    pub revision: Revision,
    /// What it is now; for a removal, what it was, at the revision of the removal.
    pub object: Value,
    /// What it was before.
    pub previous: Option<Value>,
    pub removed: bool,
    /// The line of a watch, for each of the three words it can begin with.
    lines: [OnceLock<Bytes>; 3],
    /// The change in the version that all who share it asked for, if a webhook has to make it.
    converted: OnceCell<Arc<ObjectChange>>,
}

/// What a change is to one watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Added,
    Modified,
    Deleted,
}

impl Word {
    pub fn text(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl ObjectChange {
    /// The change as objects of the version that a resource has.
    pub async fn shown(
        self: &Arc<Self>,
        shared: &Shared,
        resource: &Resource<'_>,
    ) -> Result<Arc<Self>, Status> {
        let version = resource.api_version();
        let other = |object: &Value| object.text(&["apiVersion"]) != version;
        if resource.custom.is_none()
            || !(other(&self.object) || self.previous.as_ref().is_some_and(other))
        {
            return Ok(Arc::clone(self));
        }
        let convert = async || -> Result<Arc<Self>, Status> {
            let mut objects: Vec<Value> =
                std::iter::once(&self.object).chain(&self.previous).cloned().collect();
            convert::shown(shared, resource, &mut objects).await?;
            let mut objects = objects.into_iter();
            Ok(Arc::new(Self {
                revision: self.revision,
                object: objects.next().unwrap_or_default(),
                previous: objects.next(),
                removed: self.removed,
                lines: Default::default(),
                converted: OnceCell::new(),
            }))
        };
        Ok(Arc::clone(self.converted.get_or_try_init(convert).await?))
    }

    /// The line of a watch. Serialised once, whoever asks.
    pub fn line(&self, word: Word) -> Bytes {
        let place = &self.lines[match word {
            Word::Added => 0,
            Word::Modified => 1,
            Word::Deleted => 2,
        }];
        place.get_or_init(|| line(word.text(), self.object.to_string().as_bytes())).clone()
    }
}

/// One event as a watch sends it.
pub(crate) fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(kind.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}

/// Group and version distinguish the views of one object.
type Place = (String, Revision, Bytes);

#[derive(Default)]
struct Kept {
    changes: HashMap<Place, Arc<ObjectChange>>,
    order: VecDeque<Place>,
}

/// Recently decoded changes.
#[derive(Default)]
pub(crate) struct Decoded {
    kept: Mutex<Kept>,
}

impl Decoded {
    /// The change of an event, unless it is none.
    pub fn change(
        &self,
        resource: &Resource,
        event: &Event,
    ) -> Result<Option<Arc<ObjectChange>>, Status> {
        let (revision, key) = match event {
            Event::Put { record, .. } => (record.revision, &record.key),
            Event::Delete { revision, previous } => (*revision, &previous.key),
            Event::Progress(_) | Event::Compacted(_) => return Ok(None),
        };
        let place = (resource.api_version(), revision, key.clone());
        if let Some(known) = self.lock().changes.get(&place) {
            return Ok(Some(Arc::clone(known)));
        }
        let change = Arc::new(decode(resource, event, revision)?);
        let mut kept = self.lock();
        if kept.changes.insert(place.clone(), Arc::clone(&change)).is_none() {
            kept.order.push_back(place);
        }
        if kept.order.len() > KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.changes.remove(&oldest);
        }
        Ok(Some(change))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(resource: &Resource, event: &Event, revision: Revision) -> Result<ObjectChange, Status> {
    let (object, previous, removed) = match event {
        Event::Put { record, previous } => {
            let previous = previous.as_ref().map(|record| registry::decode(resource, record));
            (registry::decode(resource, record)?, previous.transpose()?, false)
        }
        Event::Delete { previous, .. } => {
            let previous = registry::decode(resource, previous)?;
            let mut object = previous.clone();
            object.set(&["metadata", "resourceVersion"], revision.to_string());
            (object, Some(previous), true)
        }
        Event::Progress(_) | Event::Compacted(_) => {
            return Err(Status::internal("this event is no change"));
        }
    };
    Ok(ObjectChange {
        revision,
        object,
        previous,
        removed,
        lines: Default::default(),
        converted: OnceCell::new(),
    })
}
