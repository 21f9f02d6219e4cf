//! Creation and replacement: what happens between the body and the store, the same for every kind.

use std::borrow::Cow;

use berth_objects::{FieldError, Object, Status, Subresource, time};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::admission::{self, Asked};
use crate::audit::Created;
use crate::call::Call;
use crate::registry::{ATTEMPTS, Change};
use crate::{
    Body, accounts, aggregation, claims, classes, definitions, delete, flow, guard, limits,
    priority, quota, restrict, runtimes, scale, standards,
};

/// Letters and digits that spell no words and are not mistaken for each other.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

fn generated(prefix: &str) -> String {
    const ROOM: usize = 58;
    let name: String = prefix.chars().take(ROOM).collect();
    name + &suffix()
}

/// Five letters that make a name unique.
pub(crate) fn suffix() -> String {
    let letter = |_| char::from(NAME_LETTERS[rand::random_range(0..NAME_LETTERS.len())]);
    (0..5).map(letter).collect()
}

pub(crate) async fn create(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let object = call.body(request).await?;
    let created = create_object(call, object).await?;
    let name = Created(created.name().to_owned());
    let mut response = call.respond(201, created);
    response.extensions_mut().insert(name);
    Ok(response)
}

/// Creates an object that was already fitted to its schema.
pub(crate) async fn create_object(call: &mut Call, object: Value) -> Result<Value, Status> {
    const ATTEMPTS: usize = 8;
    let prefix = object.text(&["metadata", "generateName"]).to_owned();
    if !object.name().is_empty() || prefix.is_empty() {
        return create_named(call, object).await;
    }
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut named = object.clone();
        named.set(&["metadata", "name"], generated(&prefix));
        match create_named(call, named).await {
            Err(status) if status.reason == "AlreadyExists" => last = Some(status),
            outcome => return outcome,
        }
    }
    Err(last.unwrap_or_else(|| Status::internal("no name was tried")))
}

/// Creates an object whose name is known. What was chosen for it may be somebody else's by the time it is written; then it is
/// chosen again.
async fn create_named(call: &mut Call, object: Value) -> Result<Value, Status> {
    for _ in 0..ATTEMPTS {
        if let Some(created) = create_once(call, object.clone()).await? {
            // What came between counting and writing counts, too.
            return counted(call, created).await;
        }
    }
    Err(call.too_fast())
}

async fn create_once(call: &mut Call, mut object: Value) -> Result<Option<Value>, Status> {
    call.place(&mut object)?;
    let resource = call.resource();
    definitions::admit(call)?;
    if !object.resource_version().is_empty() {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(Status::bad_request(message));
    }
    let namespace = if resource.namespaced() { Some(living_namespace(call).await?) } else { None };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"] {
        object.unset(&["metadata", field]);
    }
    object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string());
    object.set(&["metadata", "creationTimestamp"], time::seconds(call.shared.now()));
    if object.list(&["metadata", "managedFields"]).is_empty() {
        object.unset(&["metadata", "managedFields"]);
    }
    complete(call, &mut object).await?;
    let mut asked = Asked::create(call, Cow::Borrowed(&object));
    if asked.mutate().await? {
        object = asked.object.into_owned();
        refit(call, &mut object)?;
        call.place(&mut object)?;
        complete(call, &mut object).await?;
    }
    berth_rules::prepare_create(resource, &mut object);
    if definitions::concerns(call) {
        definitions::settle(call, &mut object);
    }
    if resource.group == aggregation::GROUP {
        aggregation::settle(call, &mut object, None);
    }
    guard::create(call, &mut object)?;
    restrict::mirror(call, &object).await?;
    if let Some(inert) = berth_rules::inert(resource) {
        call.warn(vec![inert.to_owned()]);
    }
    offer(call, &mut object, None)?;
    let mut errors = berth_rules::validate(resource, &object);
    errors.extend(errors_of_kind(call, &object, None));
    if !errors.is_empty() {
        return Err(Status::invalid(call.kind_subject(&object), &errors));
    }
    if let Some(policies) = standards::policies(call, async { Ok(namespace) }).await? {
        call.warn(standards::admit(call, &policies, &object, None)?);
    }
    limits::check(call, &object).await?;
    admission::checked(call, &mut object);
    flow::checked(call, &mut object).await?;
    Asked::create(call, Cow::Borrowed(&object)).validate().await?;
    call.track(&mut object, None);
    if is_quota(call) {
        quota::tally(&call.shared, &call.namespace, &mut object).await?;
    }
    call.insert(object).await
}

/// Fills in what a new object left out, by the schema's defaults and by what the cluster says.
async fn complete(call: &Call, object: &mut Value) -> Result<(), Status> {
    let resource = call.resource();
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            priority::resolve(call, object).await?;
            runtimes::resolve(call, object).await?;
            accounts::admit(call, object).await?;
            // Limits stand for requests that are not there, which the cluster's own must not get before.
            berth_rules::default(resource, object);
            limits::fill(call, object).await?;
        }
        ("", "PersistentVolumeClaim") => classes::fill(call, object).await?,
        _ => {}
    }
    berth_rules::default(resource, object);
    Ok(())
}

/// Fits an object that others have changed to its schema.
fn refit(call: &Call, object: &mut Value) -> Result<(), Status> {
    berth_objects::fit(call.resource(), object)
        .map_err(|error| Status::internal(format!("admission left a broken object: {error}")))?;
    Ok(())
}

/// Addresses and ports for a Service; nothing for anything else.
fn offer(call: &Call, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if !claims::concerns(call.resource()) {
        return Ok(());
    }
    let offered = call.shared.addresses.offer(object, old);
    offered.map_err(|errors| Status::invalid(call.kind_subject(object), &errors))
}

/// The namespace of a call, if it is there.
pub(crate) async fn fetch_namespace(call: &Call) -> Result<Option<Value>, Status> {
    let namespaces = berth_rules::find("", "v1", "namespaces")
        .ok_or_else(|| Status::internal("namespaces are not served"))?;
    let found = call.shared.fetch(namespaces, "", &call.namespace).await?;
    Ok(found.map(|(namespace, _)| namespace))
}

/// New objects need a namespace that is there to stay.
async fn living_namespace(call: &Call) -> Result<Value, Status> {
    let Some(namespace) = fetch_namespace(call).await? else {
        let subject = berth_objects::Subject::new("", "namespaces", &call.namespace);
        return Err(Status::not_found(subject));
    };
    if namespace.deleting() {
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            call.namespace
        );
        let mut status = Status::forbidden(call.subject(), &why);
        status.causes.push(berth_objects::Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {} is being terminated", call.namespace),
            field: "metadata.namespace".into(),
        });
        return Err(status);
    }
    Ok(namespace)
}

pub(crate) async fn update(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let mut object = call.body(request).await?;
    call.place(&mut object)?;
    let stale = object.resource_version().to_owned();
    let updated = change(call, |old| {
        expect_version(call, &stale, old)?;
        Ok(object.clone())
    })
    .await?;
    Ok(call.respond(200, updated))
}

/// Refuses a change that was made to another version of the object.
pub(crate) fn expect_version(call: &Call, wanted: &str, old: &Value) -> Result<(), Status> {
    if !wanted.is_empty() && wanted != "0" && wanted != old.resource_version() {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Status::conflict(call.subject(), why));
    }
    Ok(())
}

/// Changes the object of a call. `make` says what the object should become; the rest is the same for every way of saying it.
pub(crate) fn change<'call>(
    call: &'call Call,
    mut make: impl FnMut(&Value) -> Result<Value, Status> + Send + 'call,
) -> BoxFuture<'call, Result<Value, Status>> {
    async move {
        for _ in 0..ATTEMPTS {
            let (old, revision) = call.read_current().await?;
            let object = make(&old)?;
            let object = admit(call, object, &old).await?;
            let gone = delete::is_finished(call.resource(), &object);
            let change = if gone { Change::Remove(object) } else { Change::Put(object) };
            let Some(changed) = call.write(&old, revision, change).await? else { continue };
            if is_namespace(call) && !gone {
                call.warn(standards::existing(call, &changed, &old).await?);
            }
            let respecified = !gone && changed["spec"] != old["spec"];
            return if respecified { counted(call, changed).await } else { Ok(changed) };
        }
        Err(call.too_fast())
    }
    .boxed()
}

/// Makes a changed object ready to be written, and asks everybody who may have a say in it.
async fn admit(call: &Call, mut object: Value, old: &Value) -> Result<Value, Status> {
    ready(call, &mut object, old)?;
    let shown_old = shown(call, old);
    let mut asked = Asked::update(call, shown(call, &object), &shown_old);
    if asked.mutate().await? {
        let changed = asked.object.into_owned();
        take(call, &mut object, changed);
        refit(call, &mut object)?;
        ready(call, &mut object, old)?;
    }
    offer(call, &mut object, Some(old))?;
    check(call, &object, old)?;
    guard::update(call, &mut object, old)?;
    if let Some(policies) = standards::policies(call, fetch_namespace(call)).await? {
        call.warn(standards::admit(call, &policies, &object, Some(old))?);
    }
    let claim = call.subresource.is_none()
        && (call.resource().group, call.resource().kind) == ("", "PersistentVolumeClaim")
        && object["spec"]["resources"] != old["spec"]["resources"];
    if claim || call.subresource == Some(Subresource::Resize) {
        limits::check(call, &object).await?;
    }
    if claim {
        classes::may_grow(call, &object, old).await?;
    }
    admission::checked(call, &mut object);
    flow::checked(call, &mut object).await?;
    Asked::update(call, shown(call, &object), &shown_old).validate().await?;
    if is_quota(call) && object["spec"] != old["spec"] {
        quota::tally(&call.shared, &call.namespace, &mut object).await?;
    }
    call.track(&mut object, Some(old));
    Ok(object)
}

/// The object as the path of the request shows it.
fn shown<'object>(call: &Call, object: &'object Value) -> Cow<'object, Value> {
    match call.via {
        Some(Subresource::Scale) => Cow::Owned(scale::of(call.resource(), object)),
        _ => Cow::Borrowed(object),
    }
}

/// Takes over what others made of the object as the path shows it.
fn take(call: &Call, object: &mut Value, shown: Value) {
    match call.via {
        Some(Subresource::Scale) => {
            let replicas = shown.integer(&["spec", "replicas"]).unwrap_or(0);
            scale::put(call.resource(), object, replicas);
        }
        _ => *object = shown,
    }
}

/// Metadata that only the server writes, defaults, and the part of the object this path may write.
fn ready(call: &Call, object: &mut Value, old: &Value) -> Result<(), Status> {
    let uid = object.uid();
    if !uid.is_empty() && uid != old.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.uid()
        );
        return Err(Status::conflict(call.subject(), &why));
    }
    if !object.get("metadata").is_some_and(Value::is_object) {
        object.set(&["metadata"], json!({}));
    }
    const FIXED: [&str; 9] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ];
    for field in FIXED {
        match old.at(&["metadata", field]) {
            Some(value) => object.set(&["metadata", field], value.clone()),
            None => drop(object.unset(&["metadata", field])),
        }
    }
    if (call.resource().group, call.resource().kind) == ("", "Pod") {
        priority::keep(object, old);
    }
    berth_rules::default(call.resource(), object);
    match call.subresource {
        None => {
            berth_rules::prepare_update(call.resource(), object, old);
            if definitions::concerns(call) {
                definitions::settle(call, object);
            }
            if call.resource().group == aggregation::GROUP {
                aggregation::settle(call, object, Some(old));
            }
        }
        Some(Subresource::Status) => berth_rules::prepare_status(call.resource(), object, old),
        Some(Subresource::Finalize) => only(object, old, &[&["spec", "finalizers"]]),
        Some(Subresource::EphemeralContainers) => {
            only(object, old, &[&["spec", "ephemeralContainers"]]);
        }
        Some(Subresource::Resize) => resize(object, old),
        Some(Subresource::Approval) => only(object, old, &[&["status", "conditions"]]),
        Some(_) => {}
    }
    Ok(())
}

/// What of a pod no resize may change: all but CPU and memory of containers that run with it.
fn unsized_part(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for field in ["containers", "initContainers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if field == "initContainers" && container.text(&["restartPolicy"]) != "Always" {
                continue;
            }
            for which in ["requests", "limits"] {
                for name in ["cpu", "memory"] {
                    container.unset(&["resources", which, name]);
                }
                if container.map(&["resources", which]).is_some_and(serde_json::Map::is_empty) {
                    container.unset(&["resources", which]);
                }
            }
            if container.map(&["resources"]).is_some_and(serde_json::Map::is_empty) {
                container.unset(&["resources"]);
            }
        }
    }
    spec
}

/// Takes only these fields from the new object.
fn only(object: &mut Value, old: &Value, paths: &[&[&str]]) {
    let new = std::mem::replace(object, old.clone());
    for path in paths {
        match new.at(path) {
            Some(value) => object.set(path, value.clone()),
            None => drop(object.unset(path)),
        }
    }
}

fn resize(object: &mut Value, old: &Value) {
    let new = std::mem::replace(object, old.clone());
    for field in ["containers", "initContainers"] {
        let containers =
            object.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let all = new.list(&["spec", field]);
            let found = all.iter().find(|other| other.text(&["name"]) == container.text(&["name"]));
            if let Some(resources) = found.and_then(|found| found.get("resources")) {
                container.set(&["resources"], resources.clone());
            }
        }
    }
}

fn is_namespace(call: &Call) -> bool {
    (call.resource().group, call.resource().kind) == ("", "Namespace")
}

fn is_quota(call: &Call) -> bool {
    (call.resource().group, call.resource().kind) == ("", "ResourceQuota")
}

/// A quota with what is taken of it, when it is a quota.
async fn counted(call: &Call, object: Value) -> Result<Value, Status> {
    if call.dry_run || !is_quota(call) {
        return Ok(object);
    }
    Ok(quota::count(&call.shared, &call.namespace, object.name()).await?.0)
}

/// What only the server can find wrong with objects of some kinds.
fn errors_of_kind(call: &Call, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match call.resource().group {
        "" if is_namespace(call) => standards::check_labels(object, old),
        "admissionregistration.k8s.io" => admission::check(object),
        _ => Vec::new(),
    }
}

fn check(call: &Call, object: &Value, old: &Value) -> Result<(), Status> {
    let errors = match call.subresource {
        None => {
            let mut errors = berth_rules::validate_update(call.resource(), object, old);
            errors.extend(errors_of_kind(call, object, Some(old)));
            errors
        }
        Some(Subresource::EphemeralContainers) => {
            berth_rules::validate_ephemeral(call.resource(), object, old)
        }
        Some(Subresource::Resize) => {
            let mut errors = berth_rules::validate_resize(call.resource(), object, old);
            if unsized_part(object) != unsized_part(old) {
                let why = "only cpu and memory resources are mutable";
                errors.push(FieldError::forbidden("spec", why));
            }
            errors
        }
        Some(part @ Subresource::Status) => {
            berth_rules::validate_part(call.resource(), object, old, part)
        }
        Some(_) => Vec::new(),
    };
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(call.kind_subject(object), &errors))
}
