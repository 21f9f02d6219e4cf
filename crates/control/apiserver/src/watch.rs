//! Watches: every change after a revision, as lines of JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use berth_objects::{FieldSelector, LabelSelector, Object, Resource, Status};
use berth_store::{Event, Revision, StoreError};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::call::Call;
use crate::feed::ObjectChange;
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
                    let object = call.form.event(call.resource, object, first, now);
                    ready.push_back(line("ADDED", object.to_string().as_bytes()));
                    first = false;
                }
            }
            if initial == Some(true) && bookmarks {
                ready.push_back(bookmark(call.resource, call.form, found.revision, true));
            }
            found.revision
        }
    };
    let prefix = registry::prefix(call.resource, &call.namespace);
    let events = match call.shared.store.watch(prefix.into(), from).await {
        Ok(events) => Some(events),
        Err(StoreError::Compacted { requested, compacted }) => {
            let message = format!("too old resource version: {requested} ({compacted})");
            ready.push_back(error_line(&Status::expired(message)));
            None
        }
        // A revision from another life of the store: the client has to start again.
        Err(StoreError::Future { requested, current }) => {
            let message = format!("too large resource version: {requested}, current: {current}");
            ready.push_back(error_line(&Status::expired(message)));
            None
        }
        Err(error) => return Err(status::store(error)),
    };
    let timeout = call.query.number("timeoutSeconds")?.map(Duration::from_secs);
    let timeout = timeout.unwrap_or_else(|| LONGEST + LONGEST.mul_f64(rand::random::<f64>()));
    let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        shared: Arc::clone(&call.shared),
        resource: call.resource,
        form: call.form,
        labels: call.labels()?,
        fields,
        events,
        ready,
        first,
        bookmarks,
        seen: from,
        told: from,
        end: Instant::now() + timeout,
        ticks,
    };
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((line, watcher))
    });
    let mut response = Response::new(body::stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(kind.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
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

struct Watcher {
    shared: Arc<Shared>,
    resource: &'static Resource,
    form: Form,
    labels: LabelSelector,
    fields: FieldSelector,
    /// Absent once the watch is over.
    events: Option<BoxStream<'static, Event>>,
    ready: VecDeque<Bytes>,
    first: bool,
    bookmarks: bool,
    /// Everything up to here was looked at.
    seen: Revision,
    /// The client knows that everything up to here was sent.
    told: Revision,
    end: Instant,
    ticks: Interval,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let events = self.events.as_mut()?;
            let event = tokio::select! {
                biased;
                () = self.shared.closing.cancelled() => None,
                event = events.next() => Some(event),
                _ = self.ticks.tick() => {
                    self.bookmark();
                    continue;
                }
                () = tokio::time::sleep_until(self.end) => None,
            };
            match event {
                None => {
                    self.bookmark();
                    self.events = None;
                }
                Some(None) => self.events = None,
                Some(Some(event)) => self.take(&event),
            }
        }
    }

    fn bookmark(&mut self) {
        if self.bookmarks && self.seen > self.told {
            self.told = self.seen;
            self.ready.push_back(bookmark(self.resource, self.form, self.seen, false));
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Progress(revision) => self.seen = *revision,
            Event::Compacted(compacted) => {
                let message = format!("too old resource version: {} ({compacted})", self.seen);
                self.ready.push_back(error_line(&Status::expired(message)));
                self.events = None;
            }
            Event::Put { .. } | Event::Delete { .. } => {
                match self.shared.decoded.change(self.resource, event) {
                    Ok(Some(change)) => self.send(&change),
                    Ok(None) => {}
                    Err(status) => {
                        self.ready.push_back(error_line(&status));
                        self.events = None;
                    }
                }
            }
        }
    }

    fn selects(&self, object: &Value) -> bool {
        self.labels.matches(object.labels()) && self.fields.matches(object)
    }

    /// To somebody who selects, an object that no longer fits is gone and one that now fits is new.
    fn send(&mut self, change: &ObjectChange) {
        self.seen = change.revision;
        let before = change.previous.as_ref().is_some_and(|previous| self.selects(previous));
        let after = !change.removed && self.selects(&change.object);
        let kind = match (before, after) {
            (false, false) => return,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
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
                self.ready.push_back(line(kind, change.json()));
                return;
            }
            _ => change.object.clone(),
        };
        let now = self.shared.now();
        let object = self.form.event(self.resource, object, self.first, now);
        self.first = false;
        self.ready.push_back(line(kind, object.to_string().as_bytes()));
    }
}
