//! The kinds that are served now: the built-in ones, and those that are defined at run time.

use std::sync::{Arc, PoisonError, RwLock};

use berth_objects::Handle;

/// All kinds, by group, version and plural name.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    defined: RwLock<Arc<[Handle]>>,
}

impl Kinds {
    /// The kinds that were defined at run time, as of now.
    pub fn defined(&self) -> Arc<[Handle]> {
        Arc::clone(&self.defined.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The resource of a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Handle> {
        if let Some(builtin) = berth_rules::find(group, version, plural) {
            return Some(builtin.into());
        }
        let all = self.defined();
        let found = all.iter().find(|handle| {
            let resource = handle.get();
            (resource.group, resource.version, resource.plural) == (group, version, plural)
        });
        found.cloned()
    }
}
