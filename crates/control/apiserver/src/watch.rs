//! Watches: every change after a revision, as lines of JSON.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use berth_objects::{FieldSelector, Handle, LabelSelector, Object, Resource, Status};
use berth_store::{Event, Revision, StoreError};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

use crate::call::Call;
use crate::feed::{ObjectChange, Word, line};
use crate::hub::{Interest, Place};
use crate::output::Form;
use crate::server::Shared;
use crate::{Body, body, list, registry, status};

const BOOKMARKS: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(1800);

pub(crate) async fn watch(call: &Call) -> Result<Response<Body>, Status> {
    let mut fields = call.fields()?;
    if !call.name.is_empty() {
        fields = FieldSelector::parse(&format!("metadata.name={}", call.name))
            .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    let wanted = call.query.number("resourceVersion")?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let initial = match call.query.text("sendInitialEvents") {
        "" => None,
        text => Some(text == "true"),
    };
    if initial.is_some() && call.query.text("resourceVersionMatch") != "NotOlderThan" {
        let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(Status::bad_request(message));
    }
    let mut ready = VecDeque::new();
    let mut first = true;
    let from = match (wanted, initial) {
        (Some(from), None | Some(false)) if from > 0 => Revision(from),
        (_, Some(false)) => call.shared.store.current(),
        (_, None | Some(true)) => {
            let found = list::find(call, 0).await?;
            let now = call.shared.now();
            for object in found.items {
                if fields.matches(&object) {
                    let object = call.form.event(call.resource(), object, first, now);
                    ready.push_back(line("ADDED", object.to_string().as_bytes()));
                    first = false;
                }
            }
            if initial == Some(true) && bookmarks {
                ready.push_back(bookmark(call.resource(), call.form, found.walked.revision, true));
            }
            found.walked.revision
        }
    };
    let prefix: Bytes = registry::prefix(call.resource(), &call.namespace).into();
    let source = match open(call, prefix.clone(), from).await? {
        Ok(source) => source,
        Err(status) => {
            ready.push_back(error_line(&status));
            Source::Over
        }
    };
    let timeout = call.query.number("timeoutSeconds")?.map(Duration::from_secs);
    let timeout = timeout.unwrap_or_else(|| LONGEST + LONGEST.mul_f64(rand::random::<f64>()));
    let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        shared: Arc::clone(&call.shared),
        handle: call.handle.clone(),
        form: call.form,
        labels: call.labels()?,
        interest: Interest::of(call.resource(), &call.namespace, &fields),
        prefix,
        fields,
        source,
        ready,
        first,
        bookmarks,
        namespace: call.namespace.clone(),
        floor: from,
        seen: from,
        told: from,
        end: Box::pin(tokio::time::sleep(timeout)),
        ticks,
        kinds: call.resource().custom.is_some().then(|| call.shared.kinds.changes()),
    };
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((line, watcher))
    });
    let mut response = Response::new(body::stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Begins to follow the store. A client whose revision is of no use is told so within the watch.
async fn open(
    call: &Call,
    prefix: Bytes,
    from: Revision,
) -> Result<Result<Source, Status>, Status> {
    match call.shared.store.watch(prefix, from).await {
        Ok(events) => Ok(Ok(Source::Behind(events))),
        Err(StoreError::Compacted { requested, compacted }) => {
            let message = format!("too old resource version: {requested} ({compacted})");
            Ok(Err(Status::expired(message)))
        }
        // A revision from another life of the store: the client has to start again.
        Err(StoreError::Future { requested, current }) => {
            let message = format!("too large resource version: {requested}, current: {current}");
            Ok(Err(Status::expired(message)))
        }
        Err(error) => Err(status::store(error)),
    }
}

fn error_line(status: &Status) -> Bytes {
    line("ERROR", status.to_value().to_string().as_bytes())
}

fn bookmark(resource: &Resource, form: Form, revision: Revision, end: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = match form {
        Form::Whole => json!({"kind": resource.kind, "apiVersion": resource.api_version(),
            "metadata": metadata}),
        Form::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata}),
        Form::Table(_) => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null,
            "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]}),
    };
    line("BOOKMARK", object.to_string().as_bytes())
}

/// Where changes come from.
enum Source {
    /// The store itself, until everything that is known was seen.
    Behind(BoxStream<'static, Event>),
    /// The store up to where the hub took over, then the hub.
    Joining(BoxStream<'static, Event>, Place),
    /// The hub.
    Live(Place),
    /// Nothing comes any more.
    Over,
}

/// What came.
enum News {
    Event(Event),
    Change(Arc<ObjectChange>),
    /// The hub let go of this watcher.
    Lost,
    Ended,
}

impl Source {
    async fn next(&mut self) -> News {
        match self {
            Self::Behind(events) | Self::Joining(events, _) => {
                events.next().await.map_or(News::Ended, News::Event)
            }
            Self::Live(place) => place.changes.recv().await.map_or(News::Lost, News::Change),
            Self::Over => News::Ended,
        }
    }
}

struct Watcher {
    shared: Arc<Shared>,
    handle: Handle,
    form: Form,
    labels: LabelSelector,
    fields: FieldSelector,
    interest: Interest,
    prefix: Bytes,
    source: Source,
    ready: VecDeque<Bytes>,
    first: bool,
    bookmarks: bool,
    namespace: String,
    /// The hub repeats what is not later than this.
    floor: Revision,
    /// Everything up to here was looked at.
    seen: Revision,
    /// The client knows that everything up to here was sent.
    told: Revision,
    end: Pin<Box<Sleep>>,
    ticks: Interval,
    /// Tells of changes of definitions, where the kind comes from one.
    kinds: Option<tokio::sync::watch::Receiver<u64>>,
}

/// Waits for a change of definitions.
async fn changed(kinds: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    if let Some(receiver) = kinds
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if matches!(self.source, Source::Over) {
                return None;
            }
            if self.drain().await {
                continue;
            }
            let news = tokio::select! {
                biased;
                () = self.shared.closing.cancelled() => {
                    self.bookmark().await;
                    self.source = Source::Over;
                    continue;
                }
                news = self.source.next() => news,
                _ = self.ticks.tick() => {
                    self.bookmark().await;
                    continue;
                }
                () = changed(&mut self.kinds) => {
                    if self.is_replaced() {
                        self.bookmark().await;
                        self.source = Source::Over;
                    }
                    continue;
                }
                () = self.end.as_mut() => {
                    self.bookmark().await;
                    self.source = Source::Over;
                    continue;
                }
            };
            match news {
                News::Event(event) => self.take(&event).await,
                News::Change(change) => self.send_newer(&change).await,
                News::Lost => self.fall_back().await,
                News::Ended => self.source = Source::Over,
            }
        }
    }

    /// Takes what the hub has for us already, without a look at clocks: of a thousand watchers each change wakes all. Many changes
    /// become one piece for the connection. Says whether there is something to be sent now.
    async fn drain(&mut self) -> bool {
        /// After so many bytes the client has enough to do.
        const PIECE: usize = 64 << 10;
        let mut size = 0;
        while size < PIECE && !self.shared.closing.is_cancelled() {
            let Source::Live(place) = &mut self.source else { break };
            let Ok(change) = place.changes.try_recv() else { break };
            let before = self.ready.len();
            self.send_newer(&change).await;
            size += self.ready.iter().skip(before).map(Bytes::len).sum::<usize>();
        }
        if self.ready.len() > 1 {
            let mut piece = BytesMut::with_capacity(size);
            self.ready.drain(..).for_each(|line| piece.put_slice(&line));
            self.ready.push_back(piece.freeze());
        }
        !self.ready.is_empty()
    }

    /// Says how far the client has come, if it does not know.
    async fn bookmark(&mut self) {
        // Whatever was handed on up to this position is in the queue by now.
        let position = self.shared.hub.position();
        while let Source::Live(place) = &mut self.source {
            match place.changes.try_recv() {
                Ok(change) => self.send_newer(&change).await,
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.seen = self.seen.max(position);
                    break;
                }
                // The next look at the source finds out.
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
        if self.bookmarks && self.seen > self.told {
            self.told = self.seen;
            self.ready.push_back(bookmark(self.handle.get(), self.form, self.seen, false));
        }
    }

    async fn take(&mut self, event: &Event) {
        match event {
            Event::Progress(revision) => self.caught_up(*revision),
            Event::Compacted(compacted) => {
                let message = format!("too old resource version: {} ({compacted})", self.seen);
                self.fail(&Status::expired(message));
            }
            Event::Put { .. } | Event::Delete { .. } => {
                match self.shared.hub.decoded().change(self.handle.get(), event) {
                    Ok(Some(change)) => self.pass(&change).await,
                    Ok(None) => {}
                    Err(status) => self.fail(&status),
                }
            }
        }
    }

    fn fail(&mut self, status: &Status) {
        self.ready.push_back(error_line(status));
        self.source = Source::Over;
    }

    /// Everything up to a revision was seen: time to go over to the hub, or to finish going over.
    fn caught_up(&mut self, revision: Revision) {
        self.seen = self.seen.max(revision);
        self.source = match std::mem::replace(&mut self.source, Source::Over) {
            Source::Behind(events) => {
                let place = self.shared.hub.join(self.handle.clone(), self.interest.clone());
                if place.from <= self.seen {
                    Source::Live(place)
                } else {
                    Source::Joining(events, place)
                }
            }
            Source::Joining(_, place) if place.from <= self.seen => Source::Live(place),
            other => other,
        };
        self.floor = self.seen;
    }

    /// Goes back to the store, from what was seen last.
    async fn fall_back(&mut self) {
        self.source = match self.shared.store.watch(self.prefix.clone(), self.seen).await {
            Ok(events) => Source::Behind(events),
            Err(StoreError::Compacted { requested, compacted }) => {
                let message = format!("too old resource version: {requested} ({compacted})");
                return self.fail(&Status::expired(message));
            }
            Err(_) => Source::Over,
        };
    }

    /// Sends what the hub hands on and the store has not said already.
    async fn send_newer(&mut self, change: &Arc<ObjectChange>) {
        let here = self.namespace.is_empty() || change.object.namespace() == self.namespace;
        if here && change.revision > self.floor {
            self.pass(change).await;
        }
    }

    /// Sends a change, in the version this client asked for.
    async fn pass(&mut self, change: &Arc<ObjectChange>) {
        match change.shown(&self.shared, self.handle.get()).await {
            Ok(change) => self.send(&change),
            Err(status) => self.fail(&status),
        }
    }

    /// Whether the kind is gone or was defined anew: the client comes back and sees the objects as they are now.
    fn is_replaced(&self) -> bool {
        let own = self.handle.get();
        let now = self.shared.kinds.find(own.group, own.version, own.plural);
        now.is_none_or(|now| !now.is(&self.handle))
    }

    fn selects(&self, object: &Value) -> bool {
        self.labels.matches(object.labels()) && self.fields.matches(object)
    }

    /// To somebody who selects, an object that no longer fits is gone and one that now fits is new.
    fn send(&mut self, change: &ObjectChange) {
        self.seen = change.revision;
        let before = change.previous.as_ref().is_some_and(|previous| self.selects(previous));
        let after = !change.removed && self.selects(&change.object);
        let word = match (before, after) {
            (false, false) => return,
            (false, true) => Word::Added,
            (true, true) => Word::Modified,
            (true, false) => Word::Deleted,
        };
        self.told = change.revision;
        let whole = self.form == Form::Whole;
        let object = match &change.previous {
            // What the client sees last is what it knew.
            Some(previous) if before && !after && !change.removed => {
                let mut last = previous.clone();
                last.set(&["metadata", "resourceVersion"], change.revision.to_string());
                last
            }
            _ if whole => {
                self.ready.push_back(change.line(word));
                return;
            }
            _ => change.object.clone(),
        };
        let now = self.shared.now();
        let object = self.form.event(self.handle.get(), object, self.first, now);
        self.first = false;
        self.ready.push_back(line(word.text(), object.to_string().as_bytes()));
    }
}
