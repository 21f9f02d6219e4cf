//! Devices that a container has besides those of every container: volumes that are one, and what device plugins offer.
//!
//! A plugin is a process of another vendor that speaks the device plugin interface of a kubelet (`v1beta1`, gRPC over sockets in one
//! directory): it registers a resource, lists its devices as long as it lives, and says what a container needs for those it is
//! allotted. What is allotted is written down, so that containers keep their devices over a restart of this agent and of the plugin.
//! Over one of the machine they do not: numbers and files of devices are others then, and the plugin is asked again.

mod allot;
#[cfg(test)]
mod fake;
mod front;
mod ledger;
mod messages;
mod node;
mod plugin;
mod register;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_client::demand::Amounts;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use self::ledger::{Kept, Ledger};
pub use self::node::Device;
use self::plugin::Plugin;

/// Where the kernel says which boot this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// What a plugin says a container needs for its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Variables.
    pub variables: BTreeMap<String, String>,
    /// Files and directories of the node: where in the container, where on the node, and whether they are only to be read.
    pub mounts: Vec<(PathBuf, PathBuf, bool)>,
    /// Devices: where in the container, where on the node, and the access (`r`, `w`, `m`).
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// Annotations of the container's configuration.
    pub annotations: BTreeMap<String, String>,
}

impl Given {
    fn add(&mut self, more: Self) {
        self.variables.extend(more.variables);
        self.mounts.extend(more.mounts);
        self.devices.extend(more.devices);
        self.annotations.extend(more.annotations);
    }
}

/// All plugins of the node, what they have, and who has it.
#[derive(Debug)]
pub struct Devices {
    state: Mutex<State>,
    /// Changes with what there is.
    changes: watch::Sender<u64>,
    /// Changes when something was taken back, or what was reserved is given or given back.
    freed: watch::Sender<u64>,
    /// Where it is written down.
    file: PathBuf,
    /// Which boot of the machine this is. What was handed out in another has to be asked for again.
    boot: String,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    plugins: BTreeMap<String, Plugin>,
    /// Number of registrations so far.
    count: u64,
}

impl Devices {
    /// Reads what an earlier agent has written down. Of what cannot be read nothing is known, which is told.
    pub fn open(data: &Path) -> Self {
        let boot = std::fs::read_to_string(BOOT).unwrap_or_else(|error| {
            warn!(%error, file = BOOT, "it is not known which boot of the machine this is");
            String::new()
        });
        Self::of(data, boot.trim())
    }

    fn of(data: &Path, boot: &str) -> Self {
        let file = data.join("devices.json");
        let kept = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(%error, file = %file.display(), "it is not known which devices containers have");
                Kept::default()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    warn!(%error, file = %file.display(), "it is not known which devices containers have");
                }
                Kept::default()
            }
        };
        Self {
            state: Mutex::new(State { ledger: Ledger::new(kept), ..State::default() }),
            changes: watch::Sender::new(0),
            freed: watch::Sender::new(0),
            file,
            boot: boot.to_owned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All there is, and what is fit to be used.
    pub fn amounts(&self) -> (Amounts, Amounts) {
        self.state().ledger.amounts()
    }

    /// Tells whenever that changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a pod has devices.
    pub fn has_any(&self, uid: &str) -> bool {
        !self.state().ledger.of(uid).is_empty()
    }

    /// Takes back what a pod had that has ended.
    pub fn release(&self, uid: &str) {
        let freed = self.state().ledger.release(uid);
        if freed {
            self.save_or_warn();
            self.freed.send_modify(|count| *count += 1);
        }
    }

    /// Takes back what pods had that are not here any more.
    pub fn retain(&self, here: impl Fn(&str) -> bool) {
        let gone = self.state().ledger.pods().into_iter().filter(|uid| !here(uid));
        gone.collect::<Vec<_>>().iter().for_each(|uid| self.release(uid));
    }

    fn save(&self) -> std::io::Result<()> {
        let state = self.state();
        let text = serde_json::to_vec(state.ledger.kept())?;
        let draft = self.file.with_extension("json.new");
        // With the lock, so that what is older does not come later.
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, &self.file)
    }

    fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            warn!(%error, file = %self.file.display(), "what devices containers have was not written");
        }
    }

    /// A plugin has registered. Another one for the same resource is let go.
    fn welcome(&self, resource: &str, plugin: Plugin) {
        let mut state = self.state();
        state.ledger.register(resource);
        if let Some(before) = state.plugins.insert(resource.to_owned(), plugin) {
            before.stop.cancel();
        }
        drop(state);
        self.save_or_warn();
    }

    /// What a plugin lists now: devices, and whether they are healthy. Nothing if it is another by now.
    fn list(&self, resource: &str, number: u64, devices: BTreeMap<String, bool>) {
        let mut state = self.state();
        if state.plugins.get(resource).is_none_or(|plugin| plugin.number != number) {
            return;
        }
        let (all, fit) = (devices.len(), devices.values().filter(|fit| **fit).count());
        info!(resource, all, healthy = fit, "a device plugin lists its devices");
        state.ledger.set(resource, devices);
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// A plugin is gone; its devices are not there until it registers again.
    fn part(&self, resource: &str, number: u64, why: &str) {
        let mut state = self.state();
        if state.plugins.get(resource).is_none_or(|plugin| plugin.number != number) {
            return;
        }
        state.plugins.remove(resource);
        state.ledger.set(resource, BTreeMap::new());
        drop(state);
        warn!(resource, why, "a device plugin is gone");
        self.changes.send_modify(|count| *count += 1);
    }
}
