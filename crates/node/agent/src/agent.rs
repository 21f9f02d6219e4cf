//! The agent: one worker per pod, fed by a watch of the pods bound to this node.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_content::ContentStore;
use berth_network::{Addresses, Exhausted};
use berth_runtime::cgroup::Hierarchies;
use berth_shim::Zygote;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::capacity::Capacity;
use crate::devices::Devices;
use crate::directory::{self, PodDirectory, Record};
use crate::event::Events;
use crate::huge_pages;
use crate::image::Images;
use crate::node::Said;
use crate::pod::worker::Worker;
use crate::roster::Roster;
use crate::settings::Settings;
use crate::static_pods::{self, mirror};
use crate::stats::Recent;
use crate::status::chain;
use crate::tally::Tally;
use crate::token::Tokens;
use crate::usage::Meter;
use crate::volume::Sources;

/// What all workers share.
pub struct Shared {
    pub settings: Settings,
    pub client: Client,
    pub images: Images,
    pub zygote: Zygote,
    pub hierarchies: Hierarchies,
    pub events: Events,
    pub tokens: Tokens,
    /// What volumes are made from.
    pub sources: Sources,
    /// What pods use.
    pub meter: Meter,
    /// What there is.
    pub capacity: Capacity,
    /// What device plugins offer, and who has it.
    pub devices: Arc<Devices>,
    /// Who is here.
    pub roster: Roster,
    addresses: Mutex<Addresses>,
    ids: Mutex<BTreeSet<u32>>,
    /// What was told last of the use of disks, held while that is found out.
    pub summary: Arc<tokio::sync::Mutex<Recent>>,
    /// What is counted.
    pub tally: Tally,
    /// What the API shows of static pods.
    pub mirrors: mirror::Mirrors,
    /// UIDs of the pods that are here, by namespace and name.
    pub pods: Mutex<HashMap<(String, String), String>>,
}

/// Why the agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The image store.
    #[error("cannot open the image store")]
    Images(#[from] berth_content::ContentError),
    /// The registry client.
    #[error("cannot set up the registry client")]
    Registry(#[from] berth_registry::RegistryError),
    /// The shims' parent.
    #[error(transparent)]
    Zygote(#[from] berth_shim::zygote::ZygoteError),
    /// Cgroups.
    #[error(transparent)]
    Cgroup(#[from] berth_runtime::cgroup::CgroupError),
    /// More is reserved than there is.
    #[error(transparent)]
    Limits(#[from] crate::limits::LimitsError),
    /// The node's network.
    #[error(transparent)]
    Network(#[from] berth_network::NetworkError),
    /// The firewall.
    #[error(transparent)]
    Firewall(#[from] berth_firewall::FirewallError),
    /// The data directory.
    #[error("cannot use `{}`", path.display())]
    Data {
        /// The directory.
        path: std::path::PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The node could not be registered.
    #[error("cannot register the node")]
    Register(#[source] kube::Error),
    /// The agent was told to stop before it had begun.
    #[error("told to stop")]
    Stopped,
}

/// First host id for user namespaces, far from those of people and services, and the number of ranges above it.
const FIRST_ID: u32 = 0x4000_0000;
const RANGES: u32 = 0x3ff0;
const IDS: u32 = 65_536;

impl Shared {
    pub fn take_address(&self) -> Result<Ipv4Addr, Exhausted> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn release_address(&self, address: Ipv4Addr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(address);
    }

    pub fn take_ids(&self) -> Result<u32, String> {
        let mut used = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let free =
            (0..RANGES).map(|range| FIRST_ID + range * IDS).find(|first| !used.contains(first));
        let first = free.ok_or_else(|| format!("all {RANGES} ranges of user ids are in use"))?;
        used.insert(first);
        Ok(first)
    }

    pub fn release_ids(&self, first: u32) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&first);
    }

    /// Whether a pod is to stay on this node: by its file, or else as far as the API is concerned.
    pub fn is_here(&self, uid: &str) -> bool {
        if let Some(stays) = self.mirrors.stays(uid) {
            return stays;
        }
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().any(|known| known == uid)
    }

    fn adopt(&self, record: &Record) {
        if let Some(address) = record.address {
            self.addresses.lock().unwrap_or_else(PoisonError::into_inner).adopt(address);
        }
        if let Some(first) = record.user {
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(first);
        }
    }
}

/// Takes over what an earlier agent left: its pods' records, by UID.
fn left_behind(shared: &Shared) -> std::io::Result<HashMap<String, Record>> {
    let data = &shared.settings.data;
    let mut left = HashMap::new();
    for uid in directory::known(data)? {
        let directory = PodDirectory::of(data, &uid);
        match directory.read() {
            Ok(record) => {
                shared.adopt(&record);
                shared.tokens.adopt(&directory);
                left.insert(uid, record);
            }
            Err(error) => {
                // Interrupted before its first record: nothing was started yet.
                warn!(%uid, %error, "a pod's directory has no readable record and is removed");
                directory.remove()?;
            }
        }
    }
    Ok(left)
}

/// How long the first attempt to register the node may take, before what waits for it goes on without.
const FIRST_ATTEMPT: Duration = Duration::from_secs(5);
/// The pause before each further attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Registers the node, as often as it takes while the API does not answer. What comes of the first attempt is told at once.
async fn registered(
    shared: &Shared,
    stop: &CancellationToken,
    tried: impl FnOnce(),
) -> Result<Said, AgentError> {
    let mut tried = Some(tried);
    loop {
        let attempt = crate::node::register(shared, tried.is_some());
        let patience = if tried.is_some() { FIRST_ATTEMPT } else { Duration::MAX };
        let said = tokio::select! {
            () = stop.cancelled() => return Err(AgentError::Stopped),
            said = tokio::time::timeout(patience, attempt) => said,
        };
        if let Some(tried) = tried.take() {
            tried();
        }
        let why = match said {
            Ok(Ok(said)) => return Ok(said),
            Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                return Err(AgentError::Register(kube::Error::Api(status)));
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "the API does not answer in time".to_owned(),
        };
        warn!(error = %why, "the node cannot be registered yet, static pods run");
        // Being told to stop is seen at the next attempt.
        let _stopped = tokio::time::timeout(PAUSE, stop.cancelled()).await;
    }
}

/// A node agent.
pub struct Agent {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    adopted: HashMap<String, Record>,
}

impl Agent {
    /// Sets the node up, finds the pods an earlier agent left, and registers the node.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn start(
        client: Client,
        settings: Settings,
        stop: CancellationToken,
    ) -> Result<Self, AgentError> {
        let data = |source| AgentError::Data { path: settings.data.clone(), source };
        settings.network.setup()?;
        let registries = berth_registry::ClientOptions {
            insecure: settings.insecure_registries.clone(),
            ..berth_registry::ClientOptions::default()
        };
        let images = Images::new(ContentStore::open(&settings.images)?, registries)?;
        let zygote = Zygote::spawn(&settings.program)?;
        let (events, posting) = Events::new(client.clone(), &settings.node, stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(posting);
        let (network, length) = settings.network.pods;
        let hierarchies = if huge_pages::any() {
            Hierarchies::detect_with_huge_pages()?
        } else {
            Hierarchies::detect()?
        };
        let capacity = Capacity::read(&settings)?;
        crate::groups::establish(&hierarchies, &settings, &capacity)?;
        let shared = Arc::new(Shared {
            capacity,
            devices: Arc::new(Devices::open(&settings.data)),
            roster: Roster::default(),
            meter: Meter::new(hierarchies.clone(), &settings.instance),
            hierarchies,
            client,
            images,
            zygote,
            events,
            tokens: Tokens::default(),
            sources: Sources::default(),
            addresses: Mutex::new(Addresses::new(network, length)),
            ids: Mutex::default(),
            pods: Mutex::default(),
            mirrors: mirror::Mirrors::default(),
            tally: Tally::default(),
            summary: Arc::default(),
            settings: settings.clone(),
        });
        let adopted = left_behind(&shared).map_err(data)?;
        shared.devices.retain(|uid| adopted.contains_key(uid));
        let (left, adopted) = adopted.into_iter().partition(|(_, it)| it.manifest.is_some());
        // They need no answer of the API, and are there before it takes this node.
        let keeper = static_pods::Keeper::start(shared.clone(), left).await;
        tasks.spawn(keeper.run(stop.clone()));
        look_after(&mut tasks, &shared, &stop);
        let changes = crate::node::Changes::of(&shared);
        // What the node was short of is read with the first attempt, and counts from the start.
        let pressure = || {
            let (shared, stop) = (shared.clone(), stop.clone());
            tasks.spawn(async move { crate::pressure::run(&shared, stop).await });
        };
        let said = registered(&shared, &stop, pressure).await?;
        tasks.spawn({
            let (shared, stop) = (shared.clone(), stop.clone());
            async move { mirror::run(&shared, stop).await }
        });
        let (lease, rules) = (shared.clone(), shared.clone());
        tasks.spawn({
            let stop = stop.clone();
            async move { crate::node::keep(&lease, said, changes, stop).await }
        });
        let traffic = crate::traffic::Traffic::install(rules).await?;
        tasks.spawn({
            let stop = stop.clone();
            async move { traffic.run(stop).await }
        });
        Ok(Self { shared, stop, tasks, adopted })
    }

    /// The node's HTTP service: logs, exec and attach, on the paths of a kubelet.
    #[must_use]
    pub fn access(&self) -> crate::access::Access {
        crate::access::Access::new(self.shared.clone())
    }

    /// Keeps pods until told to stop. Containers go on running.
    pub async fn run(mut self) {
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let selector = format!("spec.nodeName={}", self.shared.settings.node);
        let config = watcher::Config::default().fields(&selector);
        let mut pods = watcher(api, config).boxed();
        let mut workers =
            Workers { shared: self.shared.clone(), known: HashMap::new(), running: JoinSet::new() };
        let mut listed: HashSet<String> = HashSet::new();
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => break,
                event = pods.try_next() => event,
                Some(_) = workers.running.join_next() => continue,
            };
            match event {
                Ok(Some(Event::Init)) => listed.clear(),
                Ok(Some(Event::InitApply(pod))) => {
                    listed.insert(pod.uid().unwrap_or_default());
                    workers.set(pod, &mut self.adopted).await;
                }
                Ok(Some(Event::InitDone)) => {
                    self.shared.roster.list_is_whole();
                    workers.retain(&listed);
                    workers.remove_orphans(std::mem::take(&mut self.adopted)).await;
                }
                Ok(Some(Event::Apply(pod))) => workers.set(pod, &mut self.adopted).await,
                Ok(Some(Event::Delete(pod))) => workers.drop_pod(&pod.uid().unwrap_or_default()),
                Ok(None) => break,
                // The watcher backs off and starts again by itself.
                Err(error) => warn!(%error, "watch of pods interrupted"),
            }
        }
        workers.running.abort_all();
        self.tasks.shutdown().await;
        info!("node agent stopped, containers go on");
    }
}

/// The tasks that go on beside the pods, and need no registered node: static pods do without one, too.
fn look_after(tasks: &mut JoinSet<()>, shared: &Arc<Shared>, stop: &CancellationToken) {
    tasks.spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move { crate::reclaim::run(&shared, stop).await }
    });
    tasks.spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move { shared.tokens.run(&shared.sources, &stop).await }
    });
    tasks.spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move { crate::usage::run(&shared, stop).await }
    });
    tasks.spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move {
            shared.devices.clone().serve(&shared.settings.device_plugins, stop).await;
        }
    });
}

struct Workers {
    shared: Arc<Shared>,
    known: HashMap<String, watch::Sender<Option<Arc<Pod>>>>,
    running: JoinSet<()>,
}

impl Workers {
    async fn set(&mut self, pod: Pod, adopted: &mut HashMap<String, Record>) {
        let uid = pod.uid().unwrap_or_default();
        // One that runs here is none, whatever it says of itself.
        let runs = self.known.contains_key(&uid) || adopted.contains_key(&uid);
        if !runs && mirror::is_mirror(&pod) {
            self.shared.mirrors.put(pod);
            return;
        }
        let pod = Arc::new(pod);
        if let Some(sender) = self.known.get(&uid)
            && sender.send(Some(pod.clone())).is_ok()
        {
            return;
        }
        let record = adopted.remove(&uid);
        // A finished deletion is seen once more before the object goes.
        if record.is_none() && self.known.contains_key(&uid) {
            return;
        }
        self.spawn(uid, pod, record, true).await;
    }

    async fn spawn(&mut self, uid: String, pod: Arc<Pod>, record: Option<Record>, wanted: bool) {
        let key = (pod.namespace().unwrap_or_default(), pod.name_any());
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(key, uid.clone());
        let (sender, receiver) = watch::channel(wanted.then(|| pod.clone()));
        self.known.insert(uid, sender);
        let worker = Worker::new(self.shared.clone(), receiver, pod, record).await;
        self.running.spawn(worker.run());
    }

    fn drop_pod(&mut self, uid: &str) {
        self.shared.mirrors.remove(uid);
        if let Some(sender) = self.known.remove(uid) {
            // A worker that has finished needs no word.
            let _finished = sender.send(None);
        }
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, known| known != uid);
    }

    /// After a new list: pods that are not on it are gone.
    fn retain(&mut self, listed: &HashSet<String>) {
        let gone: Vec<String> =
            self.known.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.drop_pod(&uid);
        }
        self.shared.mirrors.retain(listed);
    }

    /// Pods that were deleted while no agent ran.
    async fn remove_orphans(&mut self, adopted: HashMap<String, Record>) {
        for (uid, record) in adopted {
            info!(pod = %record.name, namespace = %record.namespace, "pod was deleted meanwhile, removing what is left");
            let mut pod = Pod::default();
            pod.metadata.name = Some(record.name.clone());
            pod.metadata.namespace = Some(record.namespace.clone());
            pod.metadata.uid = Some(uid.clone());
            self.spawn(uid.clone(), Arc::new(pod), Some(record), false).await;
            self.known.remove(&uid);
        }
    }
}
