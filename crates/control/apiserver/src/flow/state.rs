//! What a FlowSchema says of itself: whether the priority level it names is there.
//!
//! It is said with each write of the schema. When levels come and go, and whenever two writes may have crossed, one task looks
//! again; it writes only what is not so.

use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_objects::{Object, Resource, Status, Subresource, time};
use berth_store::{Event, Revision, Store};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::GROUP;
use crate::call::Call;
use crate::follow::{Follower, follow};
use crate::registry::Change;
use crate::server::Shared;
use crate::{definitions, pods};

const DANGLING: &str = "Dangling";
/// Pause before a look that failed is repeated.
const PAUSE: Duration = Duration::from_secs(1);

/// Wakes who looks after schemas.
pub(crate) struct Changes {
    seen: watch::Sender<Revision>,
    woken: Notify,
}

impl Changes {
    pub fn new() -> Self {
        Self { seen: watch::Sender::new(Revision(0)), woken: Notify::new() }
    }
}

impl Follower for Changes {
    const WHAT: &'static str = "flow schemas";

    /// Schemas and levels.
    fn prefix(&self) -> Bytes {
        format!("/registry/{GROUP}/").into()
    }

    fn seen(&self) -> &watch::Sender<Revision> {
        &self.seen
    }

    async fn load(&self, store: &dyn Store) -> Result<(), Status> {
        self.seen.send_replace(store.current());
        self.woken.notify_one();
        Ok(())
    }

    async fn take(&self, event: &Event) -> Result<(), Status> {
        if matches!(event, Event::Put { .. } | Event::Delete { .. }) {
            self.woken.notify_one();
        }
        Ok(())
    }
}

/// Brings all schemas up to date, and looks after them until told to stop.
pub(crate) async fn begin(shared: &Arc<Shared>) {
    let changes = Arc::clone(&shared.flow.changes);
    changes.seen.send_replace(shared.store.current());
    if let Err(error) = settle(shared).await {
        // A server has to start on a full disk, too.
        tracing::warn!(%error, "cannot give flow schemas their status yet");
        changes.woken.notify_one();
    }
    tokio::spawn(keep(Arc::downgrade(shared), shared.closing.clone()));
}

async fn keep(shared: Weak<Shared>, stop: CancellationToken) {
    let Some(opened) = shared.upgrade() else { return };
    let (changes, store) = (Arc::clone(&opened.flow.changes), Arc::downgrade(&opened.store));
    drop(opened);
    let looking = async {
        loop {
            changes.woken.notified().await;
            let Some(opened) = shared.upgrade() else { return };
            if let Err(error) = settle(&opened).await {
                tracing::warn!(%error, "cannot give flow schemas their status");
                drop(opened);
                tokio::time::sleep(PAUSE).await;
                changes.woken.notify_one();
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(&*changes, store) => {}
        () = looking => {}
    }
}

fn schemas() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find(GROUP, "v1", "flowschemas")
        .ok_or_else(|| Status::internal("flow schemas are not served"))
}

async fn settle(shared: &Arc<Shared>) -> Result<(), Status> {
    let levels = shared.flow.level_names(shared).await?;
    for schema in shared.list(schemas()?, "").await? {
        if told(&schema, &levels, shared) == schema {
            continue;
        }
        let own = definitions::own(shared, schemas()?.into(), "", schema.name())?;
        let own = Call { subresource: Some(Subresource::Status), ..own };
        let written = own.modify(|old| {
            let mut new = told(&old, &levels, shared);
            own.track(&mut new, Some(&old));
            Ok(Change::Put(new))
        });
        match written.await {
            Err(status) if status.reason != "NotFound" => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// Says of a schema that is about to be written whether its level is there.
pub(crate) async fn checked(call: &Call, object: &mut Value) -> Result<(), Status> {
    let schema = (call.resource().group, call.resource().kind) == (GROUP, "FlowSchema");
    if schema && call.subresource.is_none() {
        let levels = call.shared.flow.level_names(&call.shared).await?;
        *object = told(object, &levels, &call.shared);
    }
    Ok(())
}

/// A schema with the status that is true.
fn told(schema: &Value, levels: &[String], shared: &Shared) -> Value {
    let level = schema.text(&["spec", "priorityLevelConfiguration", "name"]);
    let found = levels.iter().any(|name| name == level);
    let (status, reason, rest) = match found {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let conditions = schema.list(&["status", "conditions"]).iter();
    let known = conditions.clone().find(|it| it.text(&["type"]) == DANGLING);
    let since = known.filter(|known| known.text(&["status"]) == status);
    let since = since.map(|known| known.text(&["lastTransitionTime"])).filter(|it| !it.is_empty());
    let wanted = json!({
        "type": DANGLING, "status": status, "reason": reason,
        "lastTransitionTime": since.map_or_else(|| time::seconds(shared.now()), str::to_owned),
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" {rest}"),
    });
    let mut told = schema.clone();
    if known != Some(&wanted) {
        pods::condition(&mut told, wanted);
    }
    told
}
