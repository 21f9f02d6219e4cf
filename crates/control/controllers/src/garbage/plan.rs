//! What becomes of an object whose owners go, and of an object that goes before or after its dependents.

use std::fmt;

use kube::api::PropagationPolicy;

use super::graph::{FOREGROUND, ORPHAN, OwnerState, Thing};

/// One change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Delete an object.
    Delete {
        /// The object.
        thing: Thing,
        /// What becomes of its own dependents.
        policy: PropagationPolicy,
    },
    /// Take owners off an object.
    Unlink {
        /// The object.
        thing: Thing,
        /// The uids of the owners.
        owners: Vec<String>,
    },
    /// Let an object go that has waited.
    Finish {
        /// The object.
        thing: Thing,
        /// The finalizer it has waited with.
        finalizer: &'static str,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |thing: &Thing| format!("{} {}", thing.kind.resource.plural, thing.key);
        match self {
            Self::Delete { thing, policy } => {
                write!(formatter, "delete {} ({policy:?})", name(thing))
            }
            Self::Unlink { thing, owners } => {
                write!(formatter, "unlink {} from {}", name(thing), owners.join(", "))
            }
            Self::Finish { thing, finalizer } => {
                write!(formatter, "take {finalizer} off {}", name(thing))
            }
        }
    }
}

/// The steps for one object, given the state of each of its owners in their order, and its dependents.
#[must_use]
pub fn plan(thing: &Thing, owners: &[OwnerState], dependents: &[Thing]) -> Vec<Step> {
    if thing.waits_for(ORPHAN) {
        return abandon(thing, dependents);
    }
    if thing.waits_for(FOREGROUND) {
        return go_last(thing, dependents);
    }
    if thing.going || thing.owners.is_empty() {
        return Vec::new();
    }
    let with = |wanted: OwnerState| {
        let pairs = thing.owners.iter().zip(owners).filter(move |(_, state)| **state == wanted);
        pairs.map(|(owner, _)| owner.uid.clone()).collect::<Vec<_>>()
    };
    let keeps =
        owners.iter().any(|state| matches!(state, OwnerState::Present | OwnerState::Unknown));
    let (absent, waiting) = (with(OwnerState::Absent), with(OwnerState::Waiting));
    if keeps {
        let loose = [absent, waiting].concat();
        let unlink = Step::Unlink { thing: thing.clone(), owners: loose.clone() };
        return (!loose.is_empty()).then_some(unlink).into_iter().collect();
    }
    // An owner that waits for this one waits for its dependents as well.
    let has = |finalizer: &str| thing.finalizers.iter().any(|name| name == finalizer);
    let policy = if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) || (!waiting.is_empty() && !dependents.is_empty()) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    vec![Step::Delete { thing: thing.clone(), policy }]
}

/// Dependents lose their owner, then the owner goes.
fn abandon(thing: &Thing, dependents: &[Thing]) -> Vec<Step> {
    let unlink = |dependent: &Thing| Step::Unlink {
        thing: dependent.clone(),
        owners: vec![thing.uid.clone()],
    };
    let mut steps: Vec<_> = dependents.iter().map(unlink).collect();
    steps.push(Step::Finish { thing: thing.clone(), finalizer: ORPHAN });
    steps
}

/// The object goes once no dependent blocks it. Dependents are deleted when they are looked at themselves, since only then
/// their other owners are known.
fn go_last(thing: &Thing, dependents: &[Thing]) -> Vec<Step> {
    let blocks = |dependent: &&Thing| {
        let mut owners = dependent.owners.iter();
        owners.any(|owner| owner.uid == thing.uid && owner.block_owner_deletion == Some(true))
    };
    if dependents.iter().any(|dependent| blocks(&dependent)) {
        return Vec::new();
    }
    vec![Step::Finish { thing: thing.clone(), finalizer: FOREGROUND }]
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
