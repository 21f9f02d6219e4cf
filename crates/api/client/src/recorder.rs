//! Events: what people read in `describe`.
//!
//! Recording never waits: an Event goes into a bounded queue and one task writes them. The same Event again raises a count
//! instead of making another object. When the queue is full Events are lost and counted; the log says so.

use std::collections::HashMap;
use std::collections::VecDeque;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Whether somebody should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Something went as it should.
    Normal,
    /// Something may need attention.
    Warning,
}

impl Level {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Note {
    namespace: String,
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    level: Level,
    reason: &'static str,
    message: String,
}

/// Takes Events. Clones feed the same task.
#[derive(Debug, Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

/// How many Events wait at most, and how many are remembered to be counted.
const ROOM: usize = 1024;

impl Recorder {
    /// A recorder, and the work of writing its Events down, which the caller runs.
    pub fn new(
        client: Client,
        component: &'static str,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (notes, received) = mpsc::channel(ROOM);
        (Self { notes }, write(client, component, received, stop))
    }

    /// Records that something happened to an object.
    pub fn record<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        level: Level,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let meta = object.meta();
        let note = Note {
            namespace: meta.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            level,
            reason,
            message: message.into(),
        };
        if let Err(error) = self.notes.try_send(note) {
            warn!(%error, reason, "an event was lost");
        }
    }
}

async fn write(
    client: Client,
    component: &'static str,
    mut notes: mpsc::Receiver<Note>,
    stop: CancellationToken,
) {
    let mut known: HashMap<Note, (String, i32)> = HashMap::new();
    let mut order = VecDeque::new();
    let mut serial = 0_u64;
    loop {
        let note = tokio::select! {
            () = stop.cancelled() => return,
            note = notes.recv() => match note {
                Some(note) => note,
                None => return,
            },
        };
        let api: Api<Event> = Api::namespaced(client.clone(), &note.namespace);
        let now = Timestamp::now();
        if let Some((name, count)) = known.get_mut(&note) {
            *count += 1;
            let patch = json!({ "count": *count, "lastTimestamp": Time(now) });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => continue,
                // Expired meanwhile, or refused: a new one is made below.
                Err(error) => debug!(%error, event = %name, "cannot count an event"),
            }
        }
        serial += 1;
        let name = format!("{}.{:x}{serial:04x}", note.name, now.as_microsecond());
        let event = event(&note, &name, component, now);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if known.insert(note.clone(), (name, 1)).is_none() {
                    order.push_back(note);
                }
                if order.len() > ROOM
                    && let Some(oldest) = order.pop_front()
                {
                    known.remove(&oldest);
                }
            }
            // Such as in a namespace that is being deleted.
            Err(error) => debug!(%error, reason = note.reason, "cannot record an event"),
        }
    }
}

fn event(note: &Note, name: &str, component: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(note.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(note.api_version.clone()),
            kind: Some(note.kind.clone()),
            namespace: Some(note.namespace.clone()),
            name: Some(note.name.clone()),
            uid: Some(note.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(note.level.text().to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(component.to_owned()),
        ..Event::default()
    }
}
