//! Resource quotas: every write counts what it takes and gives back, in the same transaction as the object itself.
//!
//! So the account is exact at every moment, and two creations at once cannot both have the last of something. Whatever
//! else may have written to the store, a recount puts right.

use std::sync::Weak;
use std::time::Duration;

use berth_objects::{Object, Quantity, Resource, Status, Subject};
use berth_rules::usage::{self, Amounts};
use berth_store::{Expect, Operation, Range, Revision, StoreError};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::registry::{self, ATTEMPTS};
use crate::server::Shared;
use crate::status;

/// How often everything is counted anew.
const RECOUNT: Duration = Duration::from_secs(300);

fn resource() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find("", "v1", "resourcequotas")
        .ok_or_else(|| Status::internal("quotas are not served"))
}

/// The quotas of a namespace, with their revisions.
async fn quotas(shared: &Shared, namespace: &str) -> Result<Vec<(Value, Revision)>, Status> {
    let resource = resource()?;
    let prefix = registry::prefix(resource, namespace).into();
    let page = shared.store.range(Range { prefix, ..Range::default() });
    let records = page.await.map_err(status::store)?.records;
    records
        .iter()
        .map(|record| Ok((registry::decode(resource, record)?, record.revision)))
        .collect()
}

/// What has to be written to quotas when an object changes; an error if one of them has no room for it.
pub(crate) async fn account(
    call: &Call,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Vec<Operation>, Status> {
    if !call.resource().namespaced() {
        return Ok(Vec::new());
    }
    let shared = &call.shared;
    let mut operations = Vec::new();
    let mut refusals = Vec::new();
    for (mut quota, revision) in quotas(shared, &call.namespace).await? {
        let own = (call.resource().group, call.resource().kind) == ("", "ResourceQuota");
        if own && quota.name() == new.or(old).map_or("", Object::name) {
            continue;
        }
        let limits = usage::limits(&quota);
        let of =
            |object: Option<&Value>| object.map(|it| share(&quota, &limits, call.resource(), it));
        let (before, after) = (of(old).unwrap_or_default(), of(new).unwrap_or_default());
        if let (None, Some(pod)) = (old, new)
            && call.resource().kind == "Pod"
            && usage::in_scope(&quota, call.resource(), pod)
            && let Some(unsaid) = usage::unsaid(pod, &limits)
        {
            refusals.push(format!("failed quota: {}: must specify {unsaid}", quota.name()));
            continue;
        }
        if before == after {
            continue;
        }
        let mut taken = usage::taken(&quota);
        let mut revision = revision;
        if limits.keys().any(|name| !taken.contains_key(name)) {
            // Nobody has counted yet.
            if call.dry_run {
                taken = tally(shared, &call.namespace, &mut quota).await?;
            } else {
                (quota, revision) = count(shared, &call.namespace, quota.name()).await?;
                taken = usage::taken(&quota);
            }
        }
        match settle(&limits, &before, &after, &mut taken) {
            Ok(()) => operations.push(noted(quota, &taken, revision)?),
            Err(over) => refusals.push(format!("exceeded quota: {}, {over}", quota.name())),
        }
    }
    if refusals.is_empty() {
        return Ok(operations);
    }
    let name = new.or(old).map_or("", Object::name).to_owned();
    let subject = Subject { name, ..call.subject() };
    Err(Status::forbidden(subject, &refusals.join(", ")))
}

/// What an object takes of what a quota limits.
fn share(quota: &Value, limits: &Amounts, resource: &Resource<'_>, object: &Value) -> Amounts {
    if !usage::in_scope(quota, resource, object) {
        return Amounts::new();
    }
    let mut used = usage::usage(resource, object);
    used.retain(|name, _| limits.contains_key(name));
    used
}

/// Moves the account from one share to another. What grows must fit; what shrinks always may.
fn settle(
    limits: &Amounts,
    before: &Amounts,
    after: &Amounts,
    taken: &mut Amounts,
) -> Result<(), String> {
    let (mut asked, mut used, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    let zero = Quantity::ZERO;
    for (name, limit) in limits {
        let of = |all: &Amounts| all.get(name).copied().unwrap_or(zero);
        let more = of(after).minus(of(before));
        let was = of(taken);
        let now = was.plus(more).max(zero);
        if more > zero && now > *limit {
            asked.push(format!("{name}={more}"));
            used.push(format!("{name}={was}"));
            limited.push(format!("{name}={limit}"));
        }
        taken.insert(name.clone(), now);
    }
    if asked.is_empty() {
        return Ok(());
    }
    let (asked, used) = (asked.join(","), used.join(","));
    Err(format!("requested: {asked}, used: {used}, limited: {}", limited.join(",")))
}

fn written(amounts: &Amounts) -> Value {
    let all = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
    Value::Object(all.collect::<Map<_, _>>())
}

fn noted(mut quota: Value, taken: &Amounts, revision: Revision) -> Result<Operation, Status> {
    let resource = resource()?;
    quota.set(&["status", "used"], written(taken));
    let key = registry::key(resource, quota.namespace(), quota.name());
    let value = registry::encode(resource, &quota)?;
    Ok(Operation::Put { key, value, expect: Expect::Revision(revision) })
}

/// Counts what of a quota is taken, writes it down, and returns the quota as it is then.
///
/// Every creation writes to the quota; so if the quota is still the same at the end, nothing was created meanwhile.
pub(crate) async fn count(
    shared: &Shared,
    namespace: &str,
    name: &str,
) -> Result<(Value, Revision), Status> {
    let own = resource()?;
    for _ in 0..ATTEMPTS {
        let found = shared.fetch(own, namespace, name).await?;
        let not_found = || Status::not_found(Subject::new("", "resourcequotas", name));
        let (mut quota, revision) = found.ok_or_else(not_found)?;
        let before = quota.get("status").cloned();
        let taken = tally(shared, namespace, &mut quota).await?;
        if quota.get("status") == before.as_ref() {
            return Ok((quota, revision));
        }
        match shared.store.commit(vec![noted(quota.clone(), &taken, revision)?]).await {
            Ok(revision) => {
                quota.set(&["metadata", "resourceVersion"], revision.to_string());
                return Ok((quota, revision));
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(status::store(error)),
        }
    }
    let why = "the quota changes faster than it can be counted";
    Err(Status::conflict(Subject::new("", "resourcequotas", name), why))
}

/// Counts what of a quota is taken, and says so in its status.
pub(crate) async fn tally(
    shared: &Shared,
    namespace: &str,
    quota: &mut Value,
) -> Result<Amounts, Status> {
    let limits = usage::limits(quota);
    let mut taken: Amounts = limits.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    let mut counted = Vec::new();
    for handle in shared.kinds.served().handles() {
        let resource = handle.get();
        let limited = || limits.keys().any(|limit| usage::may_use(resource, limit));
        if !resource.namespaced() || !resource.is_kept() || !limited() {
            continue;
        }
        // Several versions show the same objects.
        let prefix = registry::prefix(resource, namespace);
        if counted.contains(&prefix) {
            continue;
        }
        counted.push(prefix);
        for object in shared.list(resource, namespace).await? {
            for (name, amount) in share(quota, &limits, resource, &object) {
                let sum = taken.entry(name).or_insert(Quantity::ZERO);
                *sum = sum.plus(amount);
            }
        }
    }
    let hard = quota["spec"]["hard"].clone();
    quota.set(&["status"], serde_json::json!({"hard": hard, "used": written(&taken)}));
    Ok(taken)
}

/// Counts all quotas now and then, until told to stop.
pub(crate) async fn keep(shared: Weak<Shared>, stop: CancellationToken) {
    let mut turn = tokio::time::interval(RECOUNT);
    while stop.run_until_cancelled(turn.tick()).await.is_some() {
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = count_all(&shared).await {
            tracing::warn!(%error, "cannot count what quotas have");
        }
    }
}

async fn count_all(shared: &Shared) -> Result<(), Status> {
    for (quota, _) in quotas(shared, "").await? {
        match count(shared, quota.namespace(), quota.name()).await {
            Err(status) if status.reason != "NotFound" => return Err(status),
            _ => {}
        }
    }
    Ok(())
}
