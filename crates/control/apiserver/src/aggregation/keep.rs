//! Looks after API services: those of this server are there, those of others say whether they can be asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_objects::{Object, Status, time};
use futures::FutureExt;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::check::{Found, check};
use super::local::{MANAGED, objects};
use super::{Remote, Remotes, services};
use crate::call::Call;
use crate::path::{Query, ResourceTarget};
use crate::server::Shared;
use crate::{Identity, delete, write};

/// How often servers are asked that could be asked last time.
const CALM: Duration = Duration::from_secs(30);
/// And those that could not.
const EAGER: Duration = Duration::from_secs(2);

/// Looks after them until told to stop.
pub(crate) async fn keep(shared: Weak<Shared>, stop: CancellationToken) {
    let Some(opened) = shared.upgrade() else { return };
    let mut objects = opened.api_services.changed.subscribe();
    let mut definitions = opened.kinds.changes();
    drop(opened);
    loop {
        let Some(opened) = shared.upgrade() else { return };
        super::refresh(&opened);
        if let Err(error) = own(&opened).await {
            tracing::warn!(%error, "cannot keep the API services of this server");
        }
        others(&opened).await;
        let calm = opened.kinds.served().remotes().values().all(|it| it.available == Some(true));
        drop(opened);
        let pause = tokio::time::sleep(if calm { CALM } else { EAGER });
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
            changed = objects.changed() => if changed.is_err() { return },
            changed = definitions.changed() => if changed.is_err() { return },
        }
    }
}

/// Makes and removes the objects of what this server answers for itself.
pub(crate) async fn own(shared: &Arc<Shared>) -> Result<(), Status> {
    let wanted = objects(&shared.kinds.served());
    let known: BTreeMap<String, Arc<Value>> =
        shared.api_services.all().into_iter().map(|it| (it.name().to_owned(), it)).collect();
    let missing = wanted.iter().filter(|(name, _)| !known.contains_key(*name));
    let made = missing.map(|(name, object)| {
        let (shared, name, object) = (Arc::clone(shared), name.clone(), object.clone());
        // Boxed, because the compiler cannot follow borrowed futures into the spawned task.
        make(shared, name, object).boxed()
    });
    futures::future::try_join_all(made).await?;
    for (name, object) in &known {
        let ours = object.labels().is_some_and(|labels| labels.contains_key(MANAGED))
            && !object["spec"]["service"].is_object();
        if ours && !wanted.contains_key(name) && !object.deleting() {
            let call = call(shared, name, None)?;
            match delete::delete_object(&call, &delete::Options::default()).await {
                Err(status) if status.reason == "NotFound" => {}
                outcome => drop(outcome?),
            }
        }
    }
    Ok(())
}

async fn make(shared: Arc<Shared>, name: String, mut object: Value) -> Result<(), Status> {
    let mut call = call(&shared, &name, None)?;
    call.fit(&mut object)?;
    match write::create_object(&mut call, object).await {
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Asks the others, all at once.
async fn others(shared: &Arc<Shared>) {
    let remotes = Arc::clone(shared.kinds.served().remotes());
    let asked = remotes.iter().map(|(place, remote)| {
        let (shared, place, remote) = (Arc::clone(shared), place.clone(), Arc::clone(remote));
        // Boxed as above.
        async move {
            let found = check(&shared, &remote).await;
            (place, remote, found)
        }
        .boxed()
    });
    let all = futures::future::join_all(asked).await;
    shared.kinds.aggregate(|known| {
        let mut now: Remotes = known.clone();
        for (place, asked, found) in &all {
            // Whoever is another by now has not been asked.
            let same = known.get(place).is_some_and(|it| Arc::ptr_eq(it, asked));
            let news = asked.available != Some(found.available)
                || (found.described.is_some() && asked.described != found.described);
            if same && news {
                let told = asked.known(found.available, found.described.clone());
                now.insert(place.clone(), Arc::new(told));
            }
        }
        now
    });
    let known: BTreeMap<String, Arc<Value>> =
        shared.api_services.all().into_iter().map(|it| (it.name().to_owned(), it)).collect();
    for (_, remote, found) in &all {
        let name = name(remote);
        if let Err(error) = tell(shared, &name, known.get(&name).map(AsRef::as_ref), found).await {
            tracing::warn!(%error, name, "cannot say whether an API service is available");
        }
    }
}

fn name(remote: &Remote) -> String {
    format!("{}.{}", remote.version, remote.group)
}

fn call(
    shared: &Arc<Shared>,
    name: &str,
    part: Option<berth_objects::Subresource>,
) -> Result<Call, Status> {
    let target = ResourceTarget {
        handle: services()?.into(),
        namespace: String::new(),
        name: name.to_owned(),
        subresource: part,
        watch: false,
    };
    let identity = Identity::new("system:apiserver", &[berth_access::MASTERS]);
    let query = Query::parse(Some("fieldManager=berth"));
    Call::new(Arc::clone(shared), identity, target, query, &HeaderMap::new())
}

/// Writes what was found out, if that is news.
async fn tell(
    shared: &Arc<Shared>,
    name: &str,
    known: Option<&Value>,
    found: &Found,
) -> Result<(), Status> {
    let status = if found.available { "True" } else { "False" };
    let said = |object: &Value| -> Option<Value> {
        let conditions = object.list(&["status", "conditions"]).iter();
        conditions.clone().find(|it| it.text(&["type"]) == "Available").cloned()
    };
    let same = |said: &Value| {
        said.text(&["status"]) == status
            && said.text(&["reason"]) == found.reason
            && said.text(&["message"]) == found.message
    };
    if known.and_then(said).as_ref().is_some_and(same) {
        return Ok(());
    }
    let call = call(shared, name, Some(berth_objects::Subresource::Status))?;
    let now = time::seconds(shared.now());
    let told = write::change(&call, |old| {
        let before = said(old);
        let since = before.as_ref().filter(|it| it.text(&["status"]) == status);
        let since = since.map_or(now.as_str(), |it| it.text(&["lastTransitionTime"])).to_owned();
        let condition = json!({"type": "Available", "status": status, "reason": found.reason,
            "message": found.message, "lastTransitionTime": since});
        let mut new = old.clone();
        if before.as_ref() != Some(&condition) {
            let mut all = old.list(&["status", "conditions"]).to_vec();
            all.retain(|it| it.text(&["type"]) != "Available");
            all.push(condition);
            new.set(&["status", "conditions"], all);
        }
        Ok(new)
    });
    match told.await {
        Err(status) if status.reason == "NotFound" => Ok(()),
        outcome => outcome.map(drop),
    }
}
