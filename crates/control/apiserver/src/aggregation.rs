//! Versions of groups that other servers answer for, as `APIService` objects say: who asks is known and judged here, and the request
//! goes on with the asker's name in headers that the other server believes because of this server's certificate.
//!
//! Such a server is reached at the endpoints of its Service, as webhooks are. What it serves is told with our own kinds.

mod attributes;
mod check;
mod identity;
mod keep;
mod local;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use berth_objects::{FieldError, Object, Resource, Status, time};
use berth_store::{Event, Range, Revision, Store};
use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) use attributes::{Wanted, plain_path};
pub use identity::Aggregator;
pub(crate) use identity::{announce, strip};
pub(crate) use keep::{keep, own};
pub(crate) use local::{GROUP, priority};

use crate::call::Call;
use crate::follow::Follower;
use crate::forward::{Handing, forward};
use crate::kinds::Kinds;
use crate::server::Shared;
use crate::transport::HttpClient;
use crate::{Body, Identity, registry, status};

/// Built in, and made for being replaced by something that knows more.
const METRICS: &str = "metrics.k8s.io";

/// The longest another server may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest a request waits until what it wrote is heeded.
const CATCHING_UP: Duration = Duration::from_secs(10);

/// The resource of such objects.
pub(crate) fn services() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find(GROUP, "v1", "apiservices")
        .ok_or_else(|| Status::internal("API services are not served"))
}

/// The other server that answers for a path, if one does, and the parts of the path.
pub(crate) fn of_path(kinds: &Kinds, path: &str) -> Option<(Arc<Remote>, Vec<String>)> {
    let served = kinds.served();
    if served.remotes().is_empty() {
        return None;
    }
    let path = path.trim_start_matches('/');
    let parts: Vec<String> = path.split('/').map(|word| crate::path::decode(word, false)).collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let remote = match words.as_slice() {
        ["apis", group, version, ..] | ["openapi", "v3", "apis", group, version] => {
            served.remote(group, version)?
        }
        _ => return None,
    };
    Some((Arc::clone(remote), parts))
}

/// Refuses to have others answer for what this server keeps.
pub(crate) fn admit(call: &Call, object: &Value) -> Result<(), Status> {
    let (group, version) = (object.text(&["spec", "group"]), object.text(&["spec", "version"]));
    if !object["spec"]["service"].is_object() {
        return Ok(());
    }
    let defined = call.shared.kinds.served().defines(group, version);
    let why = match () {
        () if is_built_in(group, version) => {
            format!("{version} of {group} is built in, and no other server can answer for it")
        }
        () if defined => {
            format!(
                "{version} of {group} is defined here; delete its CustomResourceDefinitions first"
            )
        }
        () => return Ok(()),
    };
    let error = FieldError::forbidden("spec.service", &why);
    Err(Status::invalid(call.kind_subject(object), &[error]))
}

/// Whether a version of a group is this server's own for good.
fn is_built_in(group: &str, version: &str) -> bool {
    let own = || berth_rules::resources().any(|it| (it.group, it.version) == (group, version));
    group != METRICS && own()
}

/// Gives an object the status that follows from what it says alone: what this server answers for itself can always be asked,
/// and of another server nothing is known yet once it is somewhere else.
pub(crate) fn settle(call: &Call, object: &mut Value, old: Option<&Value>) {
    let service =
        |object: &Value| object.at(&["spec", "service"]).cloned().filter(Value::is_object);
    let now = service(object);
    if old.is_some_and(|old| service(old) == now) {
        return;
    }
    match now {
        Some(_) => drop(object.unset(&["status"])),
        None => object.set(
            &["status", "conditions"],
            json!([{"type": "Available", "status": "True",
            "reason": "Local", "message": "Local APIServices are always available",
            "lastTransitionTime": time::seconds(call.shared.now())}]),
        ),
    }
}

/// What another server said it serves.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Described {
    /// The resources, as the aggregated form of discovery lists them.
    pub resources: Value,
    /// What it calls the edition of its OpenAPI document, if it has one.
    pub edition: Option<String>,
}

/// A version of a group that another server answers for.
pub(crate) struct Remote {
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// `name.namespace.svc`, as its certificate names it.
    host: String,
    /// None, if what the object says of the server cannot be used.
    client: Option<HttpClient>,
    /// Whether it can be asked, as far as is known.
    pub available: Option<bool>,
    pub described: Option<Described>,
    /// The object, without its status, that all this is made from.
    spec: Value,
    uid: String,
}

/// All such versions, by group and version.
pub(crate) type Remotes = BTreeMap<(String, String), Arc<Remote>>;

impl Remote {
    /// From an object that names a Service; none from others.
    fn of(shared: &Shared, object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let service = spec.get("service").filter(|it| it.is_object())?;
        if is_built_in(spec.text(&["group"]), spec.text(&["version"])) {
            return None;
        }
        let host = format!("{}.{}.svc", service.text(&["name"]), service.text(&["namespace"]));
        let client = identity::client(shared, spec, &host);
        if let Err(error) = &client {
            let name = object.name();
            tracing::warn!(name, error = &**error, "an API service cannot be asked");
        }
        Some(Self {
            group: spec.text(&["group"]).to_owned(),
            version: spec.text(&["version"]).to_owned(),
            group_priority: spec.integer(&["groupPriorityMinimum"]).unwrap_or(0),
            version_priority: spec.integer(&["versionPriority"]).unwrap_or(0),
            host,
            client: client.ok(),
            available: None,
            described: None,
            spec: spec.clone(),
            uid: object.uid().to_owned(),
        })
    }

    /// The same with what was found out about it.
    fn known(&self, available: bool, described: Option<Described>) -> Self {
        Self {
            group: self.group.clone(),
            version: self.version.clone(),
            host: self.host.clone(),
            client: self.client.clone(),
            available: Some(available),
            described: described.or_else(|| self.described.clone()),
            spec: self.spec.clone(),
            uid: self.uid.clone(),
            ..*self
        }
    }

    /// Hands a request on, for the path that was judged.
    pub async fn serve(
        &self,
        shared: &Shared,
        identity: &Identity,
        path: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let unavailable = |why: &str| {
            let message = format!("error trying to reach service: {why}");
            Status::new(503, "ServiceUnavailable", message)
        };
        let client = self.client.as_ref().filter(|_| self.available != Some(false));
        let name = format!("{}.{}", self.version, self.group);
        let client = client.ok_or_else(|| {
            unavailable(&format!(
                "{name} is not available; `kubectl describe apiservice {name}` says why"
            ))
        })?;
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let uri = format!("https://{}{path}{query}", self.host).parse();
        *request.uri_mut() = uri.map_err(|_| Status::bad_request("the path is no path"))?;
        request.headers_mut().remove(HOST);
        let handing = Handing {
            client,
            ours: identity::introduction(identity)?,
            // Others could hide requests of their own from the headers above.
            upgrades: Some(&["websocket", "SPDY/3.1"]),
            patience: Some(PATIENCE),
            closing: shared.closing.clone(),
        };
        let answer = forward(handing, request).await;
        let answer = answer.map_err(|error| unavailable(&error.to_string()))?;
        if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
            let message = format!("{name} answered with a redirection, which is not followed");
            return Err(Status::new(502, "BadGateway", message));
        }
        Ok(answer)
    }

    /// Whether another is at the same place, and the same object.
    fn is_still(&self, other: &Self) -> bool {
        self.uid == other.uid && self.spec == other.spec
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, available) = (format!("{}.{}", self.version, self.group), self.available);
        write!(formatter, "Remote({name}, {}, {available:?})", self.host)
    }
}

/// All `APIService` objects, as of now.
#[derive(Debug)]
pub(crate) struct ApiServices {
    objects: RwLock<BTreeMap<String, Arc<Value>>>,
    seen: watch::Sender<Revision>,
    changed: watch::Sender<u64>,
    /// Whose turn it is to refresh what is made of them.
    turn: Mutex<()>,
}

impl Default for ApiServices {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            seen: watch::Sender::new(Revision(0)),
            changed: watch::Sender::new(0),
            turn: Mutex::default(),
        }
    }
}

impl ApiServices {
    fn all(&self) -> Vec<Arc<Value>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.values().cloned().collect()
    }

    /// Changes what is known, and tells it unless only states have changed.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Value>>)) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let before = objects.clone();
        change(&mut objects);
        let same = |name: &String, it: &Arc<Value>| {
            before.get(name).is_some_and(|old| old["spec"] == it["spec"] && old.uid() == it.uid())
        };
        let all_same =
            before.len() == objects.len() && objects.iter().all(|(name, it)| same(name, it));
        drop(objects);
        if !all_same {
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

impl Follower for ApiServices {
    const WHAT: &'static str = "API services";

    fn prefix(&self) -> Bytes {
        services().map(|resource| registry::prefix(resource, "").into()).unwrap_or_default()
    }

    fn seen(&self) -> &watch::Sender<Revision> {
        &self.seen
    }

    async fn load(&self, store: &dyn Store) -> Result<(), Status> {
        let range = Range { prefix: self.prefix(), ..Range::default() };
        let page = store.range(range).await.map_err(status::store)?;
        let mut all = BTreeMap::new();
        for record in &page.records {
            let object = registry::decode(services()?, record)?;
            all.insert(object.name().to_owned(), Arc::new(object));
        }
        self.change(|objects| *objects = all);
        self.seen.send_replace(page.revision);
        Ok(())
    }

    async fn take(&self, event: &Event) -> Result<(), Status> {
        match event {
            Event::Put { record, .. } => {
                let object = registry::decode(services()?, record)?;
                self.change(|objects| {
                    drop(objects.insert(object.name().to_owned(), Arc::new(object)))
                });
            }
            Event::Delete { previous, .. } => {
                let object = registry::decode(services()?, previous)?;
                self.change(|objects| drop(objects.remove(object.name())));
            }
            Event::Progress(_) | Event::Compacted(_) => {}
        }
        Ok(())
    }
}

/// Returns once all objects that were written up to a revision are heeded, or after a while.
pub(crate) async fn caught_up(shared: &Shared, to: Revision) {
    let mut seen = shared.api_services.seen.subscribe();
    let waiting = seen.wait_for(|seen| *seen >= to);
    if tokio::time::timeout(CATCHING_UP, waiting).await.is_err() {
        tracing::warn!(revision = %to, "the table of API services lags behind the store");
    }
    refresh(shared);
}

/// Brings the table of kinds abreast of the objects: what is known of a server stays known as long as nobody changes where it is.
pub(crate) fn refresh(shared: &Shared) {
    // One after the other, so that none puts back what is older.
    let _turn = shared.api_services.turn.lock().unwrap_or_else(PoisonError::into_inner);
    let known = Arc::clone(shared.kinds.served().remotes());
    let mut built = Remotes::new();
    for object in shared.api_services.all() {
        let text = |field: &str| object.text(&["spec", field]).to_owned();
        let place = (text("group"), text("version"));
        let same =
            known.get(&place).filter(|it| it.spec == object["spec"] && it.uid == object.uid());
        let remote = same.cloned().or_else(|| Remote::of(shared, &object).map(Arc::new));
        built.extend(remote.map(|remote| (place, remote)));
    }
    shared.kinds.aggregate(|now| {
        // What was found out meanwhile stays.
        for (place, remote) in &mut built {
            if let Some(known) = now.get(place).filter(|known| known.is_still(remote)) {
                *remote = Arc::clone(known);
            }
        }
        built
    });
}
