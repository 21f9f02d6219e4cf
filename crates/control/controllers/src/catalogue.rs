//! The metadata of every object there is, of every kind the server knows.
//!
//! Two controllers need all kinds: the garbage collector and the one that empties namespaces. Kinds are discovered once,
//! and again whenever a CustomResourceDefinition or an APIService changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_client::{Change, Mirror};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::DynamicResourceScope;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// An object without its contents.
pub type Meta = PartialObjectMeta<DynamicObject>;

/// A kind that can be listed, watched and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its names.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Kind {
    /// What tells it from other kinds: resource and group.
    pub fn id(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }

    /// The way to its objects.
    pub fn api<K>(&self, client: &Client, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

struct Followed {
    kind: Arc<Kind>,
    mirror: Mirror<Meta>,
    stop: CancellationToken,
}

type Listener = Box<dyn Fn(&Arc<Kind>, &Change<'_, Meta>) + Send + Sync>;

/// All kinds and their mirrors. Clones are the same catalogue.
#[derive(Clone)]
pub struct Catalogue {
    client: Client,
    followed: Arc<Mutex<BTreeMap<String, Followed>>>,
    listeners: Arc<Mutex<Vec<Arc<Listener>>>>,
    stale: Arc<Notify>,
    synced: Arc<watch::Sender<bool>>,
}

/// Kinds whose objects own nothing, come in great numbers and go by themselves.
const IGNORED: [&str; 2] = ["events.", "events.events.k8s.io"];
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// How long the first list of a kind may take before the others go on without it.
const LISTING: Duration = Duration::from_secs(30);
/// How often it is asked what kinds there are.
const AGAIN: Duration = Duration::from_secs(45);
const SERVICES: &str = "apiservices.apiregistration.k8s.io";

impl Catalogue {
    /// A catalogue that knows nothing yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            followed: Arc::default(),
            listeners: Arc::default(),
            stale: Arc::new(Notify::new()),
            synced: Arc::new(watch::Sender::new(false)),
        }
    }

    fn followed(&self) -> MutexGuard<'_, BTreeMap<String, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every change of every object told; to be called before [`Catalogue::run`].
    pub fn listen(&self, listener: impl Fn(&Arc<Kind>, &Change<'_, Meta>) + Send + Sync + 'static) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::new(Box::new(listener)));
    }

    /// Returns once all kinds have been listed.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as this catalogue, so this can only end by being true.
        let _closed = synced.wait_for(|synced| *synced).await;
    }

    /// The kind of that name, in any version of its group.
    pub fn kind(&self, group: &str, kind: &str) -> Option<Arc<Kind>> {
        let followed = self.followed();
        let mut kinds = followed.values().map(|followed| &followed.kind);
        kinds.find(|known| known.resource.group == group && known.resource.kind == kind).cloned()
    }

    /// All objects of a namespace, by kind.
    pub fn in_namespace(&self, namespace: &str) -> Vec<(Arc<Kind>, Arc<Meta>)> {
        let followed = self.followed();
        let namespaced = followed.values().filter(|followed| followed.kind.namespaced);
        let objects = namespaced.flat_map(|followed| {
            let kind = &followed.kind;
            followed.mirror.in_namespace(namespace).into_iter().map(|meta| (Arc::clone(kind), meta))
        });
        objects.collect()
    }

    /// Follows the server until told to stop.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut watches = FuturesUnordered::new();
        let mut pause = Duration::from_millis(50);
        loop {
            let begun = {
                let mut discovering = std::pin::pin!(self.discover(stop));
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        begun = &mut discovering => break begun,
                        Some(()) = watches.next() => {}
                    }
                }
            };
            match begun {
                Ok(begun) => {
                    for (kind, mirror, token) in begun {
                        let api = kind.api::<Meta>(&self.client, "");
                        watches.push(async move { mirror.run(api, &token).await });
                    }
                    pause = Duration::from_millis(50);
                }
                Err(error) => {
                    warn!(%error, "cannot discover what kinds there are");
                    // What is known goes on being followed.
                    let mut sleep = std::pin::pin!(tokio::time::sleep(pause));
                    loop {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = &mut sleep => break,
                            Some(()) = watches.next() => {}
                        }
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                    continue;
                }
            }
            let mirrors: Vec<_> =
                self.followed().values().map(|followed| followed.mirror.clone()).collect();
            let mut synced =
                std::pin::pin!(futures::future::join_all(mirrors.iter().map(|mirror| {
                    // One kind that cannot be listed holds nobody up for ever.
                    tokio::time::timeout(LISTING, mirror.synced())
                })));
            // What other servers serve changes without any object of ours.
            let mut again = std::pin::pin!(tokio::time::sleep(AGAIN));
            let mut waiting = true;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.stale.notified() => break,
                    () = &mut again => break,
                    _ = &mut synced, if waiting => {
                        waiting = false;
                        self.synced.send_replace(true);
                    }
                    Some(()) = watches.next() => {}
                }
            }
        }
    }

    /// Asks what kinds there are; forgets those that are gone and returns those that are new.
    async fn discover(
        &self,
        stop: &CancellationToken,
    ) -> Result<Vec<(Arc<Kind>, Mirror<Meta>, CancellationToken)>, kube::Error> {
        let kinds = kinds(&self.client).await?;
        let mut followed = self.followed();
        followed.retain(|id, known| {
            let stays = kinds.contains_key(id);
            if !stays {
                debug!(kind = %id, "kind is gone");
                known.stop.cancel();
            }
            stays
        });
        let mut begun = Vec::new();
        for (id, kind) in kinds {
            if followed.contains_key(&id) || IGNORED.contains(&id.as_str()) {
                continue;
            }
            let (kind, mirror, stop) = (Arc::new(kind), Mirror::new(), stop.child_token());
            self.connect(&kind, &mirror);
            begun.push((Arc::clone(&kind), mirror.clone(), stop.clone()));
            followed.insert(id, Followed { kind, mirror, stop });
        }
        Ok(begun)
    }

    fn connect(&self, kind: &Arc<Kind>, mirror: &Mirror<Meta>) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            let (listener, kind) = (Arc::clone(listener), Arc::clone(kind));
            mirror.listen(move |change| listener(&kind, change));
        }
        if [DEFINITIONS, SERVICES].contains(&kind.id().as_str()) {
            let stale = Arc::clone(&self.stale);
            mirror.listen(move |_| stale.notify_one());
        }
    }
}

/// Versions of groups that other servers answer for and that cannot be asked just now.
pub async fn unreachable(client: &Client) -> Result<Vec<String>, kube::Error> {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = http::Request::get("/apis").header(http::header::ACCEPT, AGGREGATED);
    let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
    let all: serde_json::Value = client.request(request).await?;
    let mut found = Vec::new();
    for group in all["items"].as_array().into_iter().flatten() {
        let versions = group["versions"].as_array().into_iter().flatten();
        for version in versions.filter(|version| version["freshness"] == "Stale") {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            found.push(format!(
                "{}/{}",
                text(&group["metadata"]["name"]),
                text(&version["version"])
            ));
        }
    }
    Ok(found)
}

/// All kinds whose objects can be listed, watched and deleted, by their ids.
pub async fn kinds(client: &Client) -> Result<BTreeMap<String, Kind>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let mut kinds = BTreeMap::new();
    for (resource, capabilities) in
        discovery.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability)
    {
        let needed = [verbs::LIST, verbs::WATCH, verbs::DELETE];
        if needed.iter().all(|verb| capabilities.supports_operation(verb)) {
            let kind = Kind { resource, namespaced: capabilities.scope == Scope::Namespaced };
            kinds.insert(kind.id(), kind);
        }
    }
    Ok(kinds)
}
