//! Static pods: those that this node runs from files of its own, whether an API answers or not.
//!
//! Whether a pod is static is known from its file and its record alone. What an object of the API says of itself counts for
//! nothing here, since anybody might have written it
//! ([decision 57](../../../../docs/decisions/0057-static-pods-are-known-by-their-files.md)).

mod folder;
pub mod mirror;
mod parse;
mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::folder::Folder;
use self::folder::{Bell, Files};
use self::mirror::Shown;
use self::plan::{Here, plan};
use crate::agent::Shared;
use crate::directory::{Manifest, PodDirectory, Record};
use crate::event::Severity;
use crate::pod::worker::Worker;
use crate::settings::GRACE;
use crate::status::DISRUPTED;

/// Annotations of static pods, in a kubelet's words.
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";
/// How often it is said again that a file cannot be used: events do not last.
const AGAIN: Duration = Duration::from_secs(600);
/// The reason of events about such files.
const INVALID: &str = "InvalidStaticPod";

/// Keeps the static pods of this node.
pub struct Keeper {
    shared: Arc<Shared>,
    folder: Option<Folder>,
    bell: Option<Bell>,
    here: BTreeMap<String, Here>,
    /// What was left by an earlier agent, until it is taken up.
    records: HashMap<String, Record>,
    workers: HashMap<String, watch::Sender<Option<Arc<Pod>>>>,
    running: JoinSet<()>,
    tasks: HashMap<Id, String>,
    /// What was said of files and of the folder, and when.
    said: BTreeMap<std::path::PathBuf, (String, Instant)>,
}

impl Keeper {
    /// Starts what the files say, and takes over what an earlier agent left.
    pub async fn start(shared: Arc<Shared>, mut records: HashMap<String, Record>) -> Self {
        records.values_mut().for_each(forgive);
        let folder = shared.settings.static_pods.clone();
        let bell = folder.as_ref().and_then(|folder| {
            if let Err(error) = folder.make() {
                warn!(folder = %folder.path.display(), %error, "the folder of static pods cannot be made");
            }
            Bell::new()
                .inspect_err(|error| warn!(%error, "the folder of static pods is not watched, only looked at"))
                .ok()
        });
        let here = records.iter().filter_map(|(uid, record)| {
            let Manifest { file, pod } = record.manifest.as_deref()?;
            let ending = pod.metadata.deletion_timestamp.is_some();
            Some((uid.clone(), Here { file: file.clone(), pod: Arc::new(pod.clone()), ending }))
        });
        let mut keeper = Self {
            folder,
            bell,
            here: here.collect(),
            records,
            workers: HashMap::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            said: BTreeMap::new(),
            shared,
        };
        keeper.turn().await;
        keeper
    }

    /// Follows the files until told to stop. Containers go on running.
    pub async fn run(mut self, stop: CancellationToken) {
        let every = self.folder.as_ref().map_or(AGAIN, |folder| folder.every);
        let mut rhythm = tokio::time::interval(every);
        rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        rhythm.tick().await;
        loop {
            let bell = async {
                match &self.bell {
                    Some(bell) => bell.rings().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rhythm.tick() => self.turn().await,
                rung = bell => {
                    if let Err(error) = rung {
                        warn!(%error, "the folder of static pods is not watched any more, only looked at");
                        self.bell = None;
                    }
                    self.turn().await;
                }
                Some(ended) = self.running.join_next_with_id() => {
                    if self.ended(ended) {
                        self.turn().await;
                    }
                }
                () = self.shared.mirrors.seen() => self.tell(),
            }
        }
    }

    /// Looks at the files and does what follows.
    async fn turn(&mut self) {
        let Some(files) = self.read().await else {
            // What is known goes on, and what ended ends.
            self.begin().await;
            return;
        };
        let mut plan = plan(&files, &self.here);
        for (file, why) in &plan.wrong {
            let text = format!("file `{}` of a static pod cannot be used: {why}", file.display());
            say(&self.shared, &mut self.said, file, text);
        }
        plan.wrong.extend(self.folder.iter().map(|folder| (folder.path.clone(), String::new())));
        self.said.retain(|file, _| plan.wrong.contains_key(file));
        for uid in plan.end {
            self.end(&uid);
        }
        // The machine is about to go down.
        if !self.shared.roster.is_leaving() {
            for (file, pod) in plan.start {
                let uid = pod.uid().unwrap_or_default();
                info!(pod = %pod.name_any(), file = %file.display(), "static pod");
                self.here.insert(uid, Here { file, pod, ending: false });
            }
        }
        self.begin().await;
    }

    async fn read(&mut self) -> Option<Files> {
        let Some(folder) = &self.folder else { return Some(Files::new()) };
        if let Some(bell) = &self.bell {
            // Before the look, so that nothing falls between the two.
            bell.listen(&folder.path);
        }
        let (path, node) = (folder.path.clone(), self.shared.settings.node.clone());
        let read = tokio::task::spawn_blocking(move || folder::read(&path, &node)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let path = folder.path.clone();
        match read {
            Ok(files) => {
                self.said.remove(&path);
                Some(files)
            }
            Err(why) => {
                let text = format!(
                    "folder `{}` of static pods cannot be used, what runs goes on: {why}",
                    path.display()
                );
                say(&self.shared, &mut self.said, &path, text);
                None
            }
        }
    }

    /// Gives every pod that has none its worker.
    async fn begin(&mut self) {
        // Before any of them has devices, so that nobody takes them for those of a pod that goes.
        self.show();
        let new: Vec<String> =
            self.here.keys().filter(|uid| !self.workers.contains_key(*uid)).cloned().collect();
        for uid in new {
            let Some(Here { file, pod, .. }) = self.here.get(&uid).cloned() else { continue };
            let record = self.record(&uid, Manifest { file, pod: (*pod).clone() });
            let (sender, receiver) = watch::channel(Some(pod.clone()));
            let worker = Worker::new(self.shared.clone(), receiver, pod, Some(record)).await;
            self.workers.insert(uid.clone(), sender);
            let task = self.running.spawn(worker.run());
            self.tasks.insert(task.id(), uid);
        }
        self.tell();
    }

    /// What was left of a pod, or a record for one that begins.
    fn record(&mut self, uid: &str, manifest: Manifest) -> Record {
        let directory = PodDirectory::of(&self.shared.settings.data, uid);
        let left = self.records.remove(uid).or_else(|| directory.read().ok());
        let mut record = left.unwrap_or_else(|| Record::new(&manifest.pod));
        forgive(&mut record);
        record.manifest.get_or_insert_with(|| Box::new(manifest));
        record
    }

    fn end(&mut self, uid: &str) {
        let Some(here) = self.here.get_mut(uid) else { return };
        info!(pod = %here.pod.name_any(), file = %here.file.display(), "static pod ends");
        here.ending = true;
        let pod = Arc::make_mut(&mut here.pod);
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let grace = grace.unwrap_or(GRACE).clamp(0, i64::from(i32::MAX));
        let end = Timestamp::now().saturating_add(SignedDuration::from_secs(grace));
        pod.metadata.deletion_timestamp = end.ok().map(Time);
        pod.metadata.deletion_grace_period_seconds = Some(grace);
    }

    /// A worker has ended. Says whether nothing of its pod is left: one that broke is begun anew at the next look.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) -> bool {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.tasks.remove(&id) else { return false };
        self.workers.remove(&uid);
        if let Err(error) = ended {
            error!(%uid, %error, "the worker of a static pod broke");
            return false;
        }
        self.here.remove(&uid).is_some()
    }

    /// The pod as its worker is to see it: its status is what the API shows, of which the worker takes what others wrote.
    fn composed(&self, uid: &str) -> Option<Arc<Pod>> {
        let here = self.here.get(uid)?;
        let mirror = self.shared.mirrors.of(&here.pod);
        let mut pod = (*here.pod).clone();
        pod.status = None;
        if let Some(mirror) = mirror {
            pod.metadata.resource_version = mirror.metadata.resource_version;
            pod.status = mirror.status;
        }
        Some(Arc::new(pod))
    }

    /// Tells workers what has changed about their pods.
    fn tell(&self) {
        for (uid, worker) in &self.workers {
            let Some(pod) = self.composed(uid) else { continue };
            worker.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&pod);
                *known = Some(pod);
                changed
            });
        }
    }

    /// Says which pods there are, to whoever looks after what the API shows of them.
    fn show(&self) {
        let shown = self.here.iter().map(|(uid, here)| {
            (uid.clone(), Shown { pod: (*here.pod).clone(), ending: here.ending })
        });
        self.shared.mirrors.show(shown.collect());
    }
}

/// That a pod went with the machine is over when there is an agent again: its file says that it runs.
fn forgive(record: &mut Record) {
    if record.failed.as_ref().is_none_or(|failed| failed.reason == "DeadlineExceeded") {
        return;
    }
    record.failed = None;
    let status = record.manifest.as_mut().and_then(|manifest| manifest.pod.status.as_mut());
    if let Some(conditions) = status.and_then(|status| status.conditions.as_mut()) {
        conditions.retain(|condition| condition.type_ != DISRUPTED);
    }
}

/// Says what is wrong with a file, when that is new or was said long ago.
fn say(
    shared: &Shared,
    said: &mut BTreeMap<std::path::PathBuf, (String, Instant)>,
    file: &std::path::Path,
    text: String,
) {
    let known = said.get(file);
    if known.is_some_and(|(known, at)| *known == text && at.elapsed() < AGAIN) {
        return;
    }
    warn!("{text}");
    shared.events.post_node(Severity::Warning, INVALID, text.clone());
    said.insert(file.to_owned(), (text, Instant::now()));
}
