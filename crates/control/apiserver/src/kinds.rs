//! The kinds that are served now: the built-in ones, and those that are defined at run time.
//!
//! Definitions are followed in the store, so that every server of the store knows them, whoever wrote them. Who is told that a
//! definition was written may count on it here.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use berth_custom::is_established;
use berth_objects::{Handle, Object, Resource, Status};
use berth_store::{Event, Range, Revision, Store};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use crate::aggregation::{Remote, Remotes};
use crate::discovery::Documents;
use crate::follow::Follower;
use crate::{aggregation, registry, status};

/// The longest a request waits until its definition is known.
const PATIENCE: Duration = Duration::from_secs(10);

/// The resource of definitions.
pub(crate) fn definitions() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find(berth_custom::GROUP, "v1", berth_custom::PLURAL)
        .ok_or_else(|| Status::internal("definitions are not served"))
}

/// A definition and the kinds it makes.
#[derive(Debug, Clone)]
struct Defined {
    definition: Arc<Value>,
    handles: Arc<[Handle]>,
}

/// All kinds at one moment.
#[derive(Debug, Default)]
pub(crate) struct Served {
    defined: BTreeMap<String, Defined>,
    remotes: Arc<Remotes>,
    documents: OnceLock<Documents>,
}

impl Served {
    /// The versions of groups that other servers answer for.
    pub fn remotes(&self) -> &Arc<Remotes> {
        &self.remotes
    }

    /// The server that answers for a version of a group, if it is another.
    pub fn remote(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        match self.remotes.is_empty() {
            true => None,
            false => self.remotes.get(&(group.to_owned(), version.to_owned())),
        }
    }

    /// All definitions.
    pub fn definitions(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.defined.values().map(|defined| &defined.definition)
    }

    /// All resources: the built-in ones, then the others by group, the preferred version of each group first.
    pub fn resources<'a>(&'a self) -> impl Iterator<Item = &'a Resource<'a>> {
        let mut custom: Vec<&'a Resource<'a>> =
            self.defined.values().flat_map(|it| it.handles.iter()).map(Handle::get).collect();
        custom.sort_by(|one, other| {
            let by_version = precedence(other.version).cmp(&precedence(one.version));
            (one.group, by_version, one.plural).cmp(&(
                other.group,
                std::cmp::Ordering::Equal,
                other.plural,
            ))
        });
        berth_rules::resources().map(|resource| -> &'a Resource<'a> { resource }).chain(custom)
    }

    /// All groups with their versions, the preferred one first, in the order in which they are told.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        /// Built-in versions come before all others, in the order of their table.
        const BUILT_IN: i64 = 1000;
        /// What upstream gives defined kinds.
        const DEFINED: i64 = 100;
        let mut all: BTreeMap<&str, Ranked> = BTreeMap::new();
        for resource in self.resources() {
            let own = aggregation::priority(resource.group);
            let (_, versions) = all.entry(resource.group).or_insert((own, Vec::new()));
            if versions.iter().all(|(_, known)| *known != resource.version) {
                let place = i64::try_from(versions.len()).unwrap_or(BUILT_IN);
                let priority = if resource.custom.is_some() { DEFINED } else { BUILT_IN - place };
                versions.push((priority, resource.version));
            }
        }
        for remote in self.remotes.values() {
            let (priority, versions) = all.entry(&remote.group).or_default();
            *priority = (*priority).max(remote.group_priority);
            versions.retain(|(_, known)| *known != remote.version);
            versions.push((remote.version_priority, &remote.version));
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(_, (priority, _))| std::cmp::Reverse(*priority));
        let sorted = all.into_iter().map(|(group, (_, mut versions))| {
            versions.sort_by_key(|(priority, it)| std::cmp::Reverse((*priority, precedence(it))));
            (group, versions.into_iter().map(|(_, version)| version).collect())
        });
        sorted.collect()
    }

    /// Whether a definition makes kinds of a version of a group.
    pub fn defines(&self, group: &str, version: &str) -> bool {
        let mut custom = self.defined.values().flat_map(|it| it.handles.iter());
        custom.any(|it| (it.get().group, it.get().version) == (group, version))
    }

    /// The same, to be kept.
    pub fn handles(&self) -> impl Iterator<Item = Handle> {
        let custom = self.defined.values().flat_map(|it| it.handles.iter().cloned());
        berth_rules::resources().map(Handle::from).chain(custom)
    }

    /// The documents of discovery, made once.
    pub fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::new(self))
    }

    fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Handle> {
        self.defined.values().flat_map(|it| it.handles.iter()).find(|handle| {
            let resource = handle.get();
            (resource.group, resource.version, resource.plural) == (group, version, plural)
        })
    }
}

/// The priority of a group, and its versions with theirs.
type Ranked<'a> = (i64, Vec<(i64, &'a str)>);

/// Stable versions before beta before alpha before all others, newer before older.
fn precedence(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((3, major, 0)),
            minor => match (minor.strip_prefix("beta"), minor.strip_prefix("alpha")) {
                (Some(minor), _) => Some((2, major, minor.parse().ok()?)),
                (_, Some(minor)) => Some((1, major, minor.parse().ok()?)),
                (None, None) => None,
            },
        }
    };
    match parsed() {
        Some((stability, major, minor)) => {
            (stability, major, minor, std::cmp::Reverse(String::new()))
        }
        None => (0, 0, 0, std::cmp::Reverse(version.to_owned())),
    }
}

/// All kinds, by group, version and plural name.
#[derive(Debug)]
pub(crate) struct Kinds {
    served: RwLock<Arc<Served>>,
    seen: watch::Sender<Revision>,
    /// Wakes who looks after definitions.
    changed: watch::Sender<u64>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self {
            served: RwLock::default(),
            seen: watch::Sender::new(Revision(0)),
            changed: watch::Sender::new(0),
        }
    }
}

/// What of a definition decides how its objects are served.
fn decides(definition: &Value) -> (bool, bool, Option<&Value>, Option<&Value>, &str) {
    (
        is_established(definition),
        definition.deleting(),
        definition.get("spec"),
        definition.at(&["status", "acceptedNames"]),
        definition.uid(),
    )
}

impl Kinds {
    /// The kinds as of now.
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The resource of a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Handle> {
        match berth_rules::find(group, version, plural) {
            Some(builtin) => Some(builtin.into()),
            None => self.served().find(group, version, plural).cloned(),
        }
    }

    /// Tells when definitions have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn replace(&self, defined: BTreeMap<String, Defined>) {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        let remotes = Arc::clone(&served.remotes);
        *served = Arc::new(Served { defined, remotes, documents: OnceLock::new() });
        drop(served);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Says what other servers answer for.
    pub fn aggregate(&self, change: impl FnOnce(&Remotes) -> Remotes) {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        let remotes = change(&served.remotes);
        let same = remotes.len() == served.remotes.len()
            && remotes.iter().all(|(place, it)| {
                served.remotes.get(place).is_some_and(|known| Arc::ptr_eq(known, it))
            });
        if !same {
            let defined = served.defined.clone();
            let remotes = Arc::new(remotes);
            *served = Arc::new(Served { defined, remotes, documents: OnceLock::new() });
        }
    }

    /// Returns once all that was written up to a revision is known, or after a while.
    pub async fn caught_up(&self, to: Revision) {
        let mut seen = self.seen.subscribe();
        let waiting = seen.wait_for(|seen| *seen >= to);
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            tracing::warn!(revision = %to, "the table of kinds lags behind the store");
        }
    }
}

impl Follower for Kinds {
    const WHAT: &'static str = "definitions";

    fn prefix(&self) -> Bytes {
        definitions().map(|resource| registry::prefix(resource, "").into()).unwrap_or_default()
    }

    fn seen(&self) -> &watch::Sender<Revision> {
        &self.seen
    }

    async fn load(&self, store: &dyn Store) -> Result<(), Status> {
        let range = Range { prefix: self.prefix(), ..Range::default() };
        let page = store.range(range).await.map_err(status::store)?;
        let mut all = BTreeMap::new();
        for record in &page.records {
            let definition = registry::decode(definitions()?, record)?;
            let known = self.served();
            let known = known.defined.get(definition.name()).cloned();
            let name = definition.name().to_owned();
            all.insert(name, compile(Arc::new(definition), known).await?);
        }
        self.replace(all);
        self.seen.send_replace(page.revision);
        Ok(())
    }

    async fn take(&self, event: &Event) -> Result<(), Status> {
        let mut all = self.served().defined.clone();
        match event {
            Event::Put { record, .. } => {
                let definition = registry::decode(definitions()?, record)?;
                let name = definition.name().to_owned();
                let known = all.remove(&name);
                all.insert(name, compile(Arc::new(definition), known).await?);
            }
            Event::Delete { previous, .. } => {
                all.remove(registry::decode(definitions()?, previous)?.name());
            }
            Event::Progress(_) | Event::Compacted(_) => return Ok(()),
        }
        self.replace(all);
        Ok(())
    }
}

/// Makes the kinds of a definition, or keeps them if nothing that decides has changed.
async fn compile(definition: Arc<Value>, known: Option<Defined>) -> Result<Defined, Status> {
    if let Some(known) = known
        && decides(&known.definition) == decides(&definition)
    {
        return Ok(Defined { definition, handles: known.handles });
    }
    if !is_established(&definition) {
        return Ok(Defined { definition, handles: Arc::default() });
    }
    // Schemas may be large, and their rules have to be compiled.
    let task = tokio::task::spawn_blocking(move || {
        let kinds = berth_custom::kinds(&definition);
        let handles = kinds.into_iter().map(|kind| Handle::new(Arc::new(kind))).collect();
        Defined { definition, handles }
    });
    task.await.map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_upstream_orders_them() {
        let mut versions = [
            "foo10",
            "v1",
            "v11alpha2",
            "v10",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "foo1",
            "v2",
            "v10beta1",
        ];
        versions.sort_by_key(|version| std::cmp::Reverse(precedence(version)));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v10beta3",
                "v10beta1",
                "v3beta1",
                "v12alpha1",
                "v11alpha2",
                "foo1",
                "foo10"
            ]
        );
    }
}
