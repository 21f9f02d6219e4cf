//! Objects in the store: keys, encoding, reads, and changes that are retried until they fit.

use std::sync::PoisonError;

use berth_objects::{Object, Resource, Status, Subject};
use berth_store::{Expect, Operation, Range, Record, Revision, StoreError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;
use crate::server::Shared;
use crate::{claims, convert, quota, status};

/// So often a write begins again because others were faster.
pub(crate) const ATTEMPTS: usize = 100;

/// The prefix of all objects of a resource, in one namespace or in all.
pub(crate) fn prefix(resource: &Resource<'_>, namespace: &str) -> String {
    // Both groups of events show the same objects.
    let group = match (resource.group, resource.kind) {
        ("" | "events.k8s.io", _) => "core",
        (group, _) => group,
    };
    match namespace {
        "" => format!("/registry/{group}/{}/", resource.plural),
        namespace => format!("/registry/{group}/{}/{namespace}/", resource.plural),
    }
}

pub(crate) fn key(resource: &Resource<'_>, namespace: &str, name: &str) -> Bytes {
    (prefix(resource, namespace) + name).into()
}

/// An object from its stored form, with its revision.
pub(crate) fn decode(resource: &Resource<'_>, record: &Record) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(&record.value).map_err(Status::internal)?;
    object.set(&["metadata", "resourceVersion"], record.revision.to_string());
    match berth_custom::Kind::of(resource) {
        Some(kind) => convert::present(kind, resource, &mut object),
        None => object = berth_rules::present(resource, object),
    }
    Ok(object)
}

/// The stored form of an object.
pub(crate) fn encode(resource: &Resource<'_>, object: &Value) -> Result<Bytes, Status> {
    let mut object = match resource.custom {
        Some(_) => object.clone(),
        None => berth_rules::stored(resource, object.clone()),
    };
    object.unset(&["metadata", "resourceVersion"]);
    Ok(serde_json::to_vec(&object).map_err(Status::internal)?.into())
}

impl Shared {
    pub async fn fetch(
        &self,
        resource: &Resource<'_>,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(Value, Revision)>, Status> {
        let key = key(resource, namespace, name);
        let found = self.store.get(key, None).await.map_err(status::store)?;
        let Some(record) = found.record else { return Ok(None) };
        let mut object = [decode(resource, &record)?];
        convert::shown(self, resource, &mut object).await?;
        let [object] = object;
        Ok(Some((object, record.revision)))
    }

    /// All objects of a resource, in one namespace or in all.
    pub async fn list(
        &self,
        resource: &Resource<'_>,
        namespace: &str,
    ) -> Result<Vec<Value>, Status> {
        let prefix = prefix(resource, namespace).into();
        let page = self.store.range(Range { prefix, ..Range::default() });
        let page = page.await.map_err(status::store)?;
        let objects = page.records.iter().map(|record| decode(resource, record));
        let mut objects = objects.collect::<Result<Vec<_>, Status>>()?;
        convert::shown(self, resource, &mut objects).await?;
        Ok(objects)
    }
}

/// What a change makes of an object.
pub(crate) enum Change {
    /// This is the object now.
    Put(Value),
    /// The object is gone; this is what it was last.
    Remove(Value),
}

impl Call {
    /// The object the request names.
    pub async fn read(&self) -> Result<Value, Status> {
        Ok(self.read_current().await?.0)
    }

    /// The object the request names, with its revision.
    pub async fn read_current(&self) -> Result<(Value, Revision), Status> {
        let found = self.shared.fetch(self.resource(), &self.namespace, &self.name).await?;
        found.ok_or_else(|| Status::not_found(self.subject()))
    }

    /// Whether objects of this kind hold what is noted at this key.
    fn holds(&self, key: &Bytes) -> bool {
        claims::concerns(self.resource()) && claims::is_record(key)
    }

    /// Takes note that what is chosen for an object is somebody else's, so that another is chosen. What is lost twice was not
    /// chosen but asked for.
    fn lose(&self, object: &Value, key: Bytes) -> Result<(), Status> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.contains(&key) {
            let errors = [claims::refusal(object, &key)];
            return Err(Status::invalid(self.kind_subject(object), &errors));
        }
        self.shared.addresses.taken(&key);
        lost.push(key);
        Ok(())
    }

    /// Writes a new object with all it holds, and returns it with its revision. Nothing if what was chosen for it is somebody
    /// else's.
    pub async fn insert(&self, mut object: Value) -> Result<Option<Value>, Status> {
        let key = key(self.resource(), &self.namespace, object.name());
        let exists = || {
            let subject = Subject { name: object.name().to_owned(), ..self.subject() };
            Status::already_exists(subject)
        };
        for _ in 0..ATTEMPTS {
            let mut operations = quota::account(self, None, Some(&object)).await?;
            let claimed = claims::operations(self, None, Some(&object))?;
            if self.dry_run {
                let found = self.shared.store.get(key, None).await.map_err(status::store)?;
                if found.record.is_some() {
                    return Err(exists());
                }
                return match claims::hindrance(self, &claimed).await? {
                    None => Ok(Some(object)),
                    Some(hindrance) => self.lose(&object, hindrance).map(|()| None),
                };
            }
            let stored = convert::stored(&self.shared, self.resource(), &object).await?;
            let value = encode(self.resource(), &stored)?;
            operations.push(Operation::Put { key: key.clone(), value, expect: Expect::Absent });
            operations.extend(claimed.iter().cloned());
            match self.shared.store.commit(operations).await {
                Ok(revision) => {
                    self.shared.addresses.committed(&claimed);
                    object.set(&["metadata", "resourceVersion"], revision.to_string());
                    return Ok(Some(object));
                }
                Err(StoreError::Conflict { key: other, .. }) if self.holds(&other) => {
                    return self.lose(&object, other).map(|()| None);
                }
                Err(StoreError::Conflict { key: other, .. }) if other != key => {}
                Err(StoreError::Conflict { .. }) => return Err(exists()),
                Err(error) => return Err(status::store(error)),
            }
        }
        Err(self.too_fast())
    }

    /// Changes the object the request names: reads it, asks what to make of it, and writes that if nobody was faster;
    /// else it begins again. A change that changes nothing writes nothing.
    pub fn modify<'call>(
        &'call self,
        change: impl FnMut(Value) -> Result<Change, Status> + Send + 'call,
    ) -> BoxFuture<'call, Result<Value, Status>> {
        // Boxed, because the compiler cannot follow the closures into the callers' futures.
        self.attempt(change).boxed()
    }

    async fn attempt(
        &self,
        mut change: impl FnMut(Value) -> Result<Change, Status> + Send,
    ) -> Result<Value, Status> {
        for _ in 0..ATTEMPTS {
            let (old, revision) = self.read_current().await?;
            let change = change(old.clone())?;
            if let Some(object) = self.write(&old, revision, change).await? {
                return Ok(object);
            }
        }
        Err(self.too_fast())
    }

    /// Writes what became of an object that was read at `revision`, together with what follows from it. Nothing if
    /// somebody was faster.
    pub async fn write(
        &self,
        old: &Value,
        revision: Revision,
        change: Change,
    ) -> Result<Option<Value>, Status> {
        let key = key(self.resource(), &self.namespace, &self.name);
        let expect = Expect::Revision(revision);
        let (mut object, operation, left) = match change {
            Change::Put(object) if object == *old => return Ok(Some(object)),
            Change::Put(object) => {
                let stored = convert::stored(&self.shared, self.resource(), &object).await?;
                let value = encode(self.resource(), &stored)?;
                (object, Operation::Put { key, value, expect }, true)
            }
            Change::Remove(object) => (object, Operation::Delete { key, expect }, false),
        };
        let mut operations = quota::account(self, Some(old), left.then_some(&object)).await?;
        let claimed = claims::operations(self, Some(old), left.then_some(&object))?;
        if self.dry_run {
            return match claims::hindrance(self, &claimed).await? {
                None => Ok(Some(object)),
                Some(hindrance) => self.lose(&object, hindrance).map(|()| None),
            };
        }
        operations.push(operation);
        operations.extend(claimed.iter().cloned());
        match self.shared.store.commit(operations).await {
            Ok(revision) => {
                self.shared.addresses.committed(&claimed);
                object.set(&["metadata", "resourceVersion"], revision.to_string());
                Ok(Some(object))
            }
            Err(StoreError::Conflict { key: other, .. }) if self.holds(&other) => {
                self.lose(&object, other).map(|()| None)
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(status::store(error)),
        }
    }

    pub fn too_fast(&self) -> Status {
        Status::conflict(self.subject(), "the object changes faster than it can be written")
    }
}
