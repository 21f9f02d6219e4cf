//! What the server does about definitions of kinds: gives them names and a status, and takes their objects away with them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use berth_custom::{FINALIZER, accept, status};
use berth_objects::{Handle, Object, Status, time};
use berth_store::{Event, Range};
use futures::StreamExt;
use http::HeaderMap;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::kinds::definitions;
use crate::path::{Query, ResourceTarget};
use crate::registry;
use crate::server::Shared;
use crate::{Identity, delete, write};

pub(crate) fn concerns(call: &Call) -> bool {
    call.resource().group == berth_custom::GROUP && call.resource().plural == berth_custom::PLURAL
}

/// Sets the status a definition has by what it says and by what others have.
pub(crate) fn settle(call: &Call, definition: &mut Value) {
    let served = call.shared.kinds.served();
    let group = definition.text(&["spec", "group"]).to_owned();
    let name = definition.name().to_owned();
    let others: Vec<&Value> = served
        .definitions()
        .map(Arc::as_ref)
        .filter(|other| other.name() != name && other.text(&["spec", "group"]) == group)
        .collect();
    let builtin = berth_rules::resources().filter(|resource| resource.group == group);
    let taken: Vec<&str> = builtin
        .flat_map(|it| {
            [it.plural, it.singular, it.kind].into_iter().chain(it.short.iter().copied())
        })
        .collect();
    let accepted = accept(definition, &others, &taken);
    let status = status(definition, &accepted, &time::seconds(call.shared.now()));
    definition.set(&["status"], status);
}

/// Refuses new objects of a kind that is going.
pub(crate) fn admit(call: &Call) -> Result<(), Status> {
    let Some(kind) = berth_custom::Kind::of(call.resource()) else { return Ok(()) };
    if let Some(warning) = &kind.warning {
        call.warn(vec![warning.clone()]);
    }
    if kind.terminating {
        let message = format!(
            "create not allowed while custom resource definition is terminating: {}.{}",
            call.resource().plural,
            call.resource().group
        );
        return Err(Status::new(405, "MethodNotAllowed", message));
    }
    Ok(())
}

/// A call of the server's own.
pub(crate) fn own(
    shared: &Arc<Shared>,
    handle: Handle,
    namespace: &str,
    name: &str,
) -> Result<Call, Status> {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let target = ResourceTarget { handle, namespace, name, subresource: None, watch: false };
    let identity = Identity::new("system:apiserver", &[berth_access::MASTERS]);
    let query = Query::parse(Some("fieldManager=berth"));
    Call::new(Arc::clone(shared), identity, target, query, &HeaderMap::new())
}

/// Looks after definitions until told to stop.
pub(crate) async fn keep(shared: Weak<Shared>, stop: CancellationToken) {
    let Some(opened) = shared.upgrade() else { return };
    let mut changes = opened.kinds.changes();
    drop(opened);
    let going: Arc<Mutex<HashSet<String>>> = Arc::default();
    loop {
        let Some(opened) = shared.upgrade() else { return };
        look(&opened, &going, &stop).await;
        drop(opened);
        let changed = stop.run_until_cancelled(changes.changed()).await;
        if !matches!(changed, Some(Ok(()))) {
            return;
        }
    }
}

async fn look(shared: &Arc<Shared>, going: &Arc<Mutex<HashSet<String>>>, stop: &CancellationToken) {
    for definition in shared.kinds.served().definitions() {
        let held = definition.list(&["metadata", "finalizers"]).iter().any(|it| it == FINALIZER);
        let uid = definition.uid().to_owned();
        if definition.deleting() && held {
            let mut known = going.lock().unwrap_or_else(PoisonError::into_inner);
            if known.insert(uid.clone()) {
                let (shared, definition) = (Arc::downgrade(shared), Arc::clone(definition));
                let (going, stop) = (Arc::clone(going), stop.clone());
                tokio::spawn(async move {
                    let trying = async {
                        let mut pause = Duration::from_secs(1);
                        while let Err(error) = take_away(shared.clone(), &definition).await {
                            let name = definition.name();
                            tracing::warn!(%error, name, "cannot delete the objects of a kind yet");
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(Duration::from_secs(60));
                        }
                    };
                    let _stopped = stop.run_until_cancelled(trying).await;
                    going.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
                });
            }
        } else if let Err(error) = renew(shared, definition).await {
            tracing::warn!(%error, name = definition.name(), "cannot give a definition its status");
        }
    }
}

/// Gives a definition the names that have become free meanwhile.
async fn renew(shared: &Arc<Shared>, definition: &Value) -> Result<(), Status> {
    let call = own(shared, definitions()?.into(), "", definition.name())?;
    let mut wanted = definition.clone();
    settle(&call, &mut wanted);
    if wanted == *definition {
        return Ok(());
    }
    match write::change(&call, |old| Ok(old.clone())).await {
        Err(status) if status.reason == "NotFound" => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Deletes all objects of a definition that is going, waits for those that somebody holds, and lets the definition go.
async fn take_away(shared: Weak<Shared>, definition: &Arc<Value>) -> Result<(), Status> {
    let Some(kind) = berth_custom::stored_kind(definition) else { return Ok(()) };
    let handle = Handle::new(Arc::new(kind));
    let prefix = bytes::Bytes::from(registry::prefix(handle.get(), ""));
    loop {
        let Some(opened) = shared.upgrade() else { return Ok(()) };
        let range = Range { prefix: prefix.clone(), ..Range::default() };
        let page = opened.store.range(range).await.map_err(crate::status::store)?;
        let mut held = false;
        for record in &page.records {
            let object = registry::decode(handle.get(), record)?;
            let call = own(&opened, handle.clone(), object.namespace(), object.name())?;
            match delete::delete_object(&call, &delete::Options::default()).await {
                Ok((_, gone)) => held |= !gone,
                Err(status) if status.reason == "NotFound" => {}
                Err(status) => return Err(status),
            }
        }
        if !held {
            return release(&opened, definition).await;
        }
        let events = opened.store.watch(prefix.clone(), page.revision).await;
        drop(opened);
        let mut events = events.map_err(crate::status::store)?;
        while let Some(event) = events.next().await {
            if matches!(event, Event::Delete { .. } | Event::Compacted(_)) {
                break;
            }
        }
    }
}

async fn release(shared: &Arc<Shared>, definition: &Value) -> Result<(), Status> {
    let call = own(shared, definitions()?.into(), "", definition.name())?;
    let released = write::change(&call, |old| {
        let mut new = old.clone();
        if let Some(finalizers) = new.place(&["metadata", "finalizers"]).as_array_mut() {
            finalizers.retain(|it| it != FINALIZER);
        }
        Ok(new)
    });
    match released.await {
        Err(status) if status.reason == "NotFound" => Ok(()),
        outcome => outcome.map(drop),
    }
}
