//! What happens when the node runs short of memory, disk or process numbers.
//!
//! The machine is read every second, which costs a handful of small files; memory and disks by a task each, so that no walk through
//! a disk holds up who looks after memory. What nobody needs goes first: images, and what
//! ended pods left. Only then a pod goes, one at a time, and only one whose end gives something back: on a disk that others
//! have filled, what runs goes on ([decision 48](../../../../docs/decisions/0048-evict-what-helps.md)).

mod images;
mod local;
mod observe;
mod plan;
mod rank;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_content::Retention;
use jiff::SignedDuration;
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::images::{Outcome, Seen, UNDER_PRESSURE};
use self::plan::{Readings, Shortage, Verdict, Watch};
use crate::agent::Shared;
use crate::directory::PodDirectory;
use crate::event::Severity;
use crate::limits::{Pressure, Signal};
use crate::rhythm::Rhythm;
use crate::roster::{Eviction, Told};
use crate::settings::GRACE;
use crate::status::chain;
use crate::usage::Space;

/// The reason that pods have which went for the good of the others.
const EVICTED: &str = "Evicted";
/// How often the machine is read.
const RHYTHM: Duration = Duration::from_secs(1);
/// The pause after walking the pods' directories, and how much longer it is than the walk took.
const WALK: Duration = Duration::from_secs(5);
const WALK_SHARE: u32 = 20;
/// How often the disk of images is looked at for its own sake.
const IMAGES: Duration = Duration::from_secs(30);
/// How often images are looked through while the disk stays short.
const CLEAN: Duration = Duration::from_secs(10);
/// How long an evicted pod is waited for before another goes.
const VICTIM: Duration = Duration::from_secs(30);

/// What one keeper looks after. Disks are walked, which takes as long as it takes; memory runs out in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Memory and process numbers.
    Memory,
    /// Disks.
    Disks,
}

impl Part {
    fn pressures(self) -> &'static [Pressure] {
        match self {
            Self::Memory => &[Pressure::Memory, Pressure::Processes],
            Self::Disks => &[Pressure::Disk],
        }
    }
}

/// Keeps room on this node until told to stop.
pub async fn run(shared: &Arc<Shared>, stop: CancellationToken) {
    let keep = async |part: Part| {
        let mut keeper = Keeper::new(shared.clone(), part);
        let mut rhythm = Rhythm::new(RHYTHM, stop.clone());
        while rhythm.next().await {
            keeper.turn().await;
        }
    };
    tokio::join!(keep(Part::Memory), keep(Part::Disks));
}

struct Keeper {
    shared: Arc<Shared>,
    part: Part,
    watch: Watch,
    images: Seen,
    /// The pod that was evicted last, and until when it is waited for.
    victim: Option<(String, Instant)>,
    /// When what nobody needs was removed last.
    cleaned: Option<Instant>,
    /// When the disk of images and the pods' directories are looked at next.
    next_images: Instant,
    next_walk: Instant,
    /// What has been said already: shortages, and what could not be read.
    said: BTreeSet<Signal>,
    unread: Vec<String>,
    stuck: bool,
    /// When pods are ranked next: for disks they are walked for it.
    next_rank: Instant,
    /// All pods together are held to the memory they may have.
    held: bool,
}

/// Runs blocking work; `None` if it broke.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.inspect_err(|error| warn!(%error, "looking after the node's room broke")).ok()
}

impl Keeper {
    fn new(shared: Arc<Shared>, part: Part) -> Self {
        let now = Instant::now();
        let before = shared.roster.pressures().borrow().clone();
        let own = |pressure: &Pressure| part.pressures().contains(pressure);
        let before = before.into_iter().filter(own).collect();
        Self {
            shared,
            part,
            watch: Watch::after(&before, now),
            images: Seen::default(),
            victim: None,
            cleaned: None,
            next_images: now,
            next_walk: now,
            said: BTreeSet::new(),
            unread: Vec::new(),
            stuck: false,
            next_rank: now,
            held: false,
        }
    }

    async fn turn(&mut self) {
        if self.part == Part::Memory && !self.held {
            self.hold().await;
        }
        let Some(verdict) = self.look().await else { return };
        if verdict.due.is_empty() {
            // With the next shortage what nobody needs goes first again.
            self.cleaned = None;
            self.next_rank = Instant::now();
        } else {
            self.relieve(verdict).await;
        }
        if self.part == Part::Memory {
            return;
        }
        let now = Instant::now();
        if now >= self.next_walk {
            self.heed_limits().await;
            // Walking a large tree takes long, and must not be all the node does.
            self.next_walk = Instant::now() + WALK.max(now.elapsed() * WALK_SHARE);
        }
        if now >= self.next_images {
            self.collect_images().await;
            self.next_images = Instant::now() + IMAGES;
        }
    }

    /// Where pods use more than they may have together since the limits changed, some go first.
    async fn hold(&mut self) {
        let shared = self.shared.clone();
        let done = blocking(move || {
            let settings = &shared.settings;
            let reserved = settings.limits.reserved().contains_key("memory");
            let most = shared.capacity.of_pods(&settings.limits, "memory").filter(|_| reserved);
            crate::groups::hold_memory(&shared.hierarchies, &settings.instance, most)
        });
        match done.await {
            Some(Ok(held)) => self.held = held,
            Some(Err(error)) => {
                warn!(error = %chain(&error), "pods are not held to the memory they may have")
            }
            None => {}
        }
    }

    /// Reads the machine and says what it is short of.
    async fn look(&mut self) -> Option<Verdict> {
        let (shared, part) = (self.shared.clone(), self.part);
        let (readings, failures): (Readings, _) =
            blocking(move || observe::read(&shared, part)).await?;
        if failures != self.unread {
            for failure in &failures {
                warn!(error = %failure, "it is not known how much is left");
            }
            self.unread = failures;
        }
        let verdict = self.watch.look(&self.shared.settings.limits, &readings, Instant::now());
        self.shared.roster.press_of(part.pressures(), &verdict.pressures);
        let short: BTreeSet<Signal> = verdict.due.iter().map(|it| it.threshold.signal).collect();
        for shortage in &verdict.due {
            if !self.said.contains(&shortage.threshold.signal) {
                self.say(shortage);
            }
        }
        self.said = short;
        Some(verdict)
    }

    fn say(&self, shortage: &Shortage) {
        let signal = shortage.threshold.signal;
        warn!(
            signal = signal.as_str(),
            available = shortage.reading.available,
            threshold = shortage.bound(),
            "the node is short"
        );
        let message = format!("Attempting to reclaim {}", signal.resource());
        self.shared.events.post_node(Severity::Warning, "EvictionThresholdMet", message);
    }

    /// Makes room: with what nobody needs, else with the pod that goes first.
    async fn relieve(&mut self, verdict: Verdict) {
        if let Some((uid, until)) = &self.victim
            && self.shared.roster.is_active(uid)
            && Instant::now() < *until
        {
            return;
        }
        self.victim = None;
        let mut verdict = verdict;
        let disks = self.part == Part::Disks;
        if disks && self.cleaned.is_none_or(|last| last.elapsed() >= CLEAN) {
            self.clean().await;
            self.cleaned = Some(Instant::now());
            let Some(after) = self.look().await else { return };
            verdict = after;
        }
        let begun = Instant::now();
        if begun < self.next_rank {
            return;
        }
        for shortage in &verdict.due {
            if self.evict_for(shortage).await {
                self.stuck = false;
                return;
            }
        }
        if disks {
            // A disk that others have filled stays so, and is not to be read all the time.
            self.next_rank = Instant::now() + WALK.max(begun.elapsed() * WALK_SHARE);
        }
        if !verdict.due.is_empty() && !self.stuck {
            self.stuck = true;
            warn!("the node stays short: no pod's end would give back what is short");
        }
    }

    /// Removes what ended pods left, and all images that are not in use.
    async fn clean(&mut self) {
        let (shared, mut seen) = (self.shared.clone(), std::mem::take(&mut self.images));
        let done = blocking(move || {
            sweep_ended(&shared);
            let limits = shared.settings.limits.images;
            let store = shared.images.store();
            let done = seen.collect(store, &limits, UNDER_PRESSURE, || false);
            (seen, done)
        });
        let Some((seen, done)) = done.await else { return };
        self.images = seen;
        match done {
            Ok(outcome) => tell(&outcome),
            Err(error) => warn!(error = %chain(&error), "unused images were not removed"),
        }
    }

    /// Ends the first pod in line. False if there is none.
    async fn evict_for(&mut self, shortage: &Shortage) -> bool {
        let (shared, signal) = (self.shared.clone(), shortage.threshold.signal);
        let ranked = blocking(move || {
            let of_images = matches!(signal, Signal::ImageDisk | Signal::ImageFiles);
            if of_images && observe::images_apart(&shared) {
                return Ok(Vec::new());
            }
            observe::candidates(&shared, signal).map(|all| rank::rank(signal, all))
        });
        let ranked = match ranked.await {
            Some(Ok(ranked)) => ranked,
            Some(Err(error)) => {
                warn!(%error, "it is not known what pods use");
                return false;
            }
            None => return false,
        };
        for candidate in ranked {
            let grace = self.grace(&candidate.uid, shortage);
            let message = rank::message(shortage, &candidate);
            match self.shared.roster.evict(&candidate.uid, Eviction::now(EVICTED, message, grace)) {
                Told::Done => {
                    self.shared.tally.evicted(signal.as_str());
                    info!(pod = %candidate.name, signal = signal.as_str(), used = candidate.used, "evicted a pod");
                }
                // The others are not to go because this one takes its time.
                Told::Busy => {
                    warn!(pod = %candidate.name, signal = signal.as_str(), "a pod that must go is busy");
                }
                Told::Gone => continue,
            }
            let patience = Duration::try_from(grace).unwrap_or_default();
            self.victim = Some((candidate.uid, Instant::now() + VICTIM + patience));
            return true;
        }
        false
    }

    /// How long a pod may take to end: no time when things are bad.
    fn grace(&self, uid: &str, shortage: &Shortage) -> SignedDuration {
        if shortage.threshold.grace.is_none() {
            return SignedDuration::ZERO;
        }
        let members = self.shared.roster.members();
        let member = members.iter().find(|member| member.pod.uid().as_deref() == Some(uid));
        let spec = member.and_then(|member| member.pod.spec.as_ref());
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE);
        let most = self.shared.settings.limits.longest_grace.as_secs();
        SignedDuration::from_secs(own.min(i64::try_from(most).unwrap_or(i64::MAX)))
    }

    /// Ends pods that use more of the disk than they may.
    async fn heed_limits(&self) {
        let members = self.shared.roster.members().into_iter();
        let limited = members.filter(|member| {
            let spec = member.pod.spec.as_ref();
            member.active && spec.is_some_and(local::is_limited) && !member.critical
        });
        let limited: Vec<_> = limited.collect();
        if limited.is_empty() {
            return;
        }
        let data = self.shared.settings.data.clone();
        let found = blocking(move || {
            let exceeding = limited.into_iter().filter_map(|member| {
                let uid = member.pod.uid()?;
                let directory = PodDirectory::of(&data, &uid);
                let local = local::measure(&directory, &member.pod, &member.containers);
                Some((uid, local::exceeded(member.pod.spec.as_ref()?, &local)?))
            });
            exceeding.collect::<Vec<_>>()
        });
        for (uid, (excess, message)) in found.await.into_iter().flatten() {
            info!(%uid, %message, "a pod uses more of the disk than it may");
            let eviction = Eviction::now(EVICTED, message, SignedDuration::ZERO);
            if self.shared.roster.evict(&uid, eviction) == Told::Done {
                self.shared.tally.evicted(excess.as_str());
            } else {
                debug!(%uid, "its worker is busy, it is told at the next look");
            }
        }
    }

    /// Removes unused images where their disk is fuller than it should be.
    async fn collect_images(&mut self) {
        let (shared, mut seen) = (self.shared.clone(), std::mem::take(&mut self.images));
        let done = blocking(move || {
            let limits = shared.settings.limits.images;
            let images = &shared.settings.images;
            let used = || Space::of(images).map_or(0, |space| percent(&space));
            let full = limits.high < 100 && used() >= limits.high;
            if full {
                release_ended(&shared);
            }
            let enough = || !full || used() <= limits.low;
            let done = seen.collect(shared.images.store(), &limits, Retention::default(), enough);
            (seen, done, full && used() > limits.low)
        });
        let Some((seen, done, short)) = done.await else { return };
        self.images = seen;
        match done {
            Ok(outcome) => {
                tell(&outcome);
                if short && !outcome.removed.is_empty() {
                    let message = format!(
                        "Failed to garbage collect required amount of images: found {} bytes eligible to free",
                        outcome.bytes
                    );
                    self.shared.events.post_node(Severity::Warning, "FreeDiskSpaceFailed", message);
                }
            }
            Err(error) => warn!(error = %chain(&error), "unused images were not removed"),
        }
    }
}

/// Hundredths of a disk that are in use, or kept from us.
fn percent(space: &Space) -> u64 {
    100 - space.available.saturating_mul(100).checked_div(space.capacity).unwrap_or(100).min(100)
}

fn tell(outcome: &Outcome) {
    if !outcome.removed.is_empty() {
        let images = outcome.removed.join(" ");
        info!(%images, bytes = outcome.bytes, "removed images that nobody uses");
    }
}

/// Lets go of the images of pods that have ended: nothing of them runs again.
fn release_ended(shared: &Shared) {
    for member in shared.roster.members().into_iter().filter(|member| member.over) {
        let uid = member.pod.uid().unwrap_or_default();
        for name in member.containers.keys() {
            let released = crate::image::lease(&uid, name)
                .and_then(|lease| shared.images.store().release(&lease));
            if let Err(error) = released {
                warn!(%uid, container = %name, error = %chain(&error), "an ended pod keeps an image");
            }
        }
    }
}

/// Removes logs and volumes of pods that have ended; their status stays.
fn sweep_ended(shared: &Shared) {
    release_ended(shared);
    for member in shared.roster.members().into_iter().filter(|member| member.over) {
        let uid = member.pod.uid().unwrap_or_default();
        let directory = PodDirectory::of(&shared.settings.data, &uid);
        if let Err(error) = directory.discard(&["logs", "volumes"]) {
            warn!(%uid, %error, "what an ended pod left was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_full_as_what_nobody_can_write() {
        let space = |capacity, available| Space { capacity, available, ..Space::default() };
        assert_eq!(percent(&space(200, 50)), 75);
        assert_eq!((percent(&space(200, 0)), percent(&space(0, 0))), (100, 0));
    }
}
