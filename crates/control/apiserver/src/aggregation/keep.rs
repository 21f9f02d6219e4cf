//! Looks after API services: those of this server are there, those of others say whether they can be asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_objects::{Object, Status, time};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::check::{FAILED, Found, check};
use super::local::{DEFINED, MANAGED, objects};
use super::{Remote, Remotes, services};
use crate::call::Call;
use crate::server::Shared;
use crate::{definitions, delete, write};

/// How often a server is asked that could be asked last time.
const CALM: Duration = Duration::from_secs(30);
/// And one that could not.
const EAGER: Duration = Duration::from_secs(2);
/// So many questions in a row have to fail before a server that answered is said not to.
const DOUBTS: u32 = 2;

/// Looks after them until told to stop.
pub(crate) async fn keep(shared: Weak<Shared>, stop: CancellationToken) {
    let Some(opened) = shared.upgrade() else { return };
    let mut objects = opened.api_services.changed.subscribe();
    let mut definitions = opened.kinds.changes();
    drop(opened);
    // One task for each server, so that none waits for another. They end by themselves.
    let mut asked: Vec<Weak<Asking>> = Vec::new();
    loop {
        let Some(opened) = shared.upgrade() else { return };
        super::refresh(&opened);
        let remotes = Arc::clone(opened.kinds.served().remotes());
        asked.retain(|it| it.strong_count() > 0);
        for (place, remote) in remotes.iter() {
            let known = asked.iter().filter_map(Weak::upgrade).any(|it| it.remote.is_still(remote));
            if !known {
                let asking = Arc::new(Asking { place: place.clone(), remote: Arc::clone(remote) });
                asked.push(Arc::downgrade(&asking));
                let task = ask(shared.clone(), asking);
                tokio::spawn(stop.clone().run_until_cancelled_owned(task));
            }
        }
        let kept = own(&opened).await;
        drop(opened);
        if let Err(error) = &kept {
            tracing::warn!(%error, "cannot keep the API services of this server");
        }
        // Another server may have ended meanwhile that would have done it.
        let again = tokio::time::sleep(if kept.is_ok() { CALM } else { EAGER });
        tokio::select! {
            () = stop.cancelled() => return,
            () = again => {}
            changed = objects.changed() => if changed.is_err() { return },
            changed = definitions.changed() => if changed.is_err() { return },
        }
    }
}

/// A server that is asked again and again.
struct Asking {
    place: (String, String),
    remote: Arc<Remote>,
}

/// Asks a server until it is another, or nobody's.
async fn ask(shared: Weak<Shared>, asking: Arc<Asking>) {
    let mut doubts = 0;
    loop {
        let Some(opened) = shared.upgrade() else { return };
        let served = opened.kinds.served();
        let current = served.remotes().get(&asking.place).filter(|it| it.is_still(&asking.remote));
        let Some(current) = current.cloned() else { return };
        drop(served);
        let found = check(&opened, &current).await;
        let passing =
            found.reason == FAILED && current.available == Some(true) && doubts + 1 < DOUBTS;
        doubts = if found.available { 0 } else { doubts + 1 };
        if !passing {
            note(&opened, &asking, &found);
            if let Err(error) = tell(&opened, &asking.remote, &found).await {
                let name = name(&asking.remote);
                tracing::warn!(%error, name, "cannot say whether an API service is available");
            }
        }
        drop(opened);
        tokio::time::sleep(if found.available { CALM } else { EAGER }).await;
    }
}

/// Keeps what was found out for requests and discovery.
fn note(shared: &Shared, asking: &Asking, found: &Found) {
    shared.kinds.aggregate(|known| {
        let mut now: Remotes = known.clone();
        // Whoever is another by now has not been asked.
        if let Some(it) = now.get_mut(&asking.place).filter(|it| it.is_still(&asking.remote))
            && (it.available != Some(found.available)
                || (found.described.is_some() && it.described != found.described))
        {
            *it = Arc::new(it.known(found.available, found.described.clone()));
        }
        now
    });
}

/// Whether this is the one of several servers that writes what all find out: they need not agree, and would go on for ever.
async fn writes(shared: &Shared) -> Result<bool, Status> {
    let Some(peer) = &shared.options.peer else { return Ok(true) };
    let servers = crate::peers::servers(shared).await?;
    Ok(servers.iter().all(|other| *other >= peer.node))
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
    // What is built in may be another server's of a newer version, and stays.
    let gone: Vec<_> = known
        .iter()
        .filter(|(name, object)| {
            let how = object.labels().and_then(|labels| labels.get(MANAGED));
            let local = !object["spec"]["service"].is_object();
            let ours = how.is_some_and(|how| how == DEFINED) && local;
            ours && !wanted.contains_key(*name) && !object.deleting()
        })
        .collect();
    if gone.is_empty() || !writes(shared).await? {
        return Ok(());
    }
    for (name, object) in gone {
        // The definition may have come after what is known of the kinds.
        shared.kinds.caught_up(shared.store.current()).await;
        let (group, version) = (object.text(&["spec", "group"]), object.text(&["spec", "version"]));
        if !shared.kinds.served().defines(group, version) {
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

fn name(remote: &Remote) -> String {
    format!("{}.{}", remote.version, remote.group)
}

fn call(
    shared: &Arc<Shared>,
    name: &str,
    part: Option<berth_objects::Subresource>,
) -> Result<Call, Status> {
    let call = definitions::own(shared, services()?.into(), "", name)?;
    Ok(Call { own: true, subresource: part, ..call })
}

/// Writes what was found out, if that is news and nothing has changed meanwhile.
async fn tell(shared: &Arc<Shared>, remote: &Remote, found: &Found) -> Result<(), Status> {
    if !writes(shared).await? {
        return Ok(());
    }
    let status = if found.available { "True" } else { "False" };
    let now = time::seconds(shared.now());
    let call = call(shared, &name(remote), Some(berth_objects::Subresource::Status))?;
    let told = write::change(&call, |old| {
        let mut new = old.clone();
        if old.uid() != remote.uid || old["spec"] != remote.spec {
            return Ok(new);
        }
        let mut all = old.list(&["status", "conditions"]).to_vec();
        let before = all.iter().find(|it| it.text(&["type"]) == "Available");
        let since = before.filter(|it| it.text(&["status"]) == status);
        let since = since.map_or(now.as_str(), |it| it.text(&["lastTransitionTime"])).to_owned();
        let condition = json!({"type": "Available", "status": status, "reason": found.reason,
            "message": found.message, "lastTransitionTime": since});
        if before != Some(&condition) {
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
