//! Who owns whom.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use berth_client::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::catalogue::Kind;

/// The finalizer of an object that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object that leaves its dependents behind.
pub const ORPHAN: &str = "orphan";

/// An object, as far as ownership goes.
#[derive(Debug, Clone)]
pub struct Thing {
    /// Its kind.
    pub(crate) kind: Arc<Kind>,
    /// Its name.
    pub key: Key,
    /// Which one of that name.
    pub uid: String,
    /// Its revision, for changes that must not meet another.
    pub revision: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// What keeps it.
    pub finalizers: Vec<String>,
    /// Whether it has been told to go.
    pub going: bool,
}

impl Thing {
    /// Whether it waits for something of ours before it goes.
    #[must_use]
    pub fn waits_for(&self, finalizer: &str) -> bool {
        self.going && self.finalizers.iter().any(|name| name == finalizer)
    }
}

/// Whether the owner of an object is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there.
    Present,
    /// It is there, and goes once its dependents are gone.
    Waiting,
    /// It is gone, or never was.
    Absent,
    /// Nobody knows.
    Unknown,
}

/// All objects, by uid.
#[derive(Default)]
pub struct Graph {
    things: HashMap<String, Thing>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// One object.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Thing> {
        self.things.get(uid)
    }

    /// Those that name an object as their owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Thing> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.things.get(uid))
    }

    /// Whether an owner is there, from what we know. An absent one is only unknown here.
    #[must_use]
    pub fn owner_state(&self, thing: &Thing, owner: &OwnerReference) -> OwnerState {
        let Some(known) = self.things.get(&owner.uid) else { return OwnerState::Unknown };
        let reachable =
            known.key.namespace.is_empty() || known.key.namespace == thing.key.namespace;
        // Right uid, wrong coordinates: a reference that nobody could follow.
        if !reachable || known.key.name != owner.name || known.kind.resource.kind != owner.kind {
            return OwnerState::Unknown;
        }
        if known.waits_for(FOREGROUND) { OwnerState::Waiting } else { OwnerState::Present }
    }

    /// Takes an object in. Returns what is to be looked at because of it.
    pub fn put(&mut self, thing: Thing) -> Vec<String> {
        let uid = thing.uid.clone();
        let mut woken = Vec::new();
        if let Some(old) = self.things.get(&uid) {
            for owner in old.owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>() {
                if !thing.owners.iter().any(|now| now.uid == owner) {
                    self.unlink(&owner, &uid);
                    woken.push(owner);
                }
            }
        }
        for owner in &thing.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if thing.waits_for(FOREGROUND) {
            woken.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        if !thing.owners.is_empty() || thing.going {
            woken.push(uid.clone());
        }
        self.things.insert(uid, thing);
        woken
    }

    /// Forgets an object. Returns what is to be looked at because of it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut woken: Vec<_> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(thing) = self.things.remove(uid) {
            for owner in thing.owners {
                self.unlink(&owner.uid, uid);
                woken.push(owner.uid);
            }
        }
        woken
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
