//! Objects in the store: keys, encoding, reads, and changes that are retried until they fit.

use berth_objects::{Object, Resource, Status, Subject};
use berth_store::{Expect, Operation, Range, Record, Revision, StoreError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;
use crate::server::Shared;
use crate::status;

/// The prefix of all objects of a resource, in one namespace or in all.
pub(crate) fn prefix(resource: &Resource, namespace: &str) -> String {
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

pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> Bytes {
    (prefix(resource, namespace) + name).into()
}

/// An object from its stored form, with its revision.
pub(crate) fn decode(resource: &Resource, record: &Record) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(&record.value).map_err(Status::internal)?;
    object.set(&["metadata", "resourceVersion"], record.revision.to_string());
    Ok(berth_rules::present(resource, object))
}

/// The stored form of an object.
pub(crate) fn encode(resource: &Resource, object: &Value) -> Result<Bytes, Status> {
    let mut object = berth_rules::stored(resource, object.clone());
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
        found.record.map(|record| Ok((decode(resource, &record)?, record.revision))).transpose()
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
        page.records.iter().map(|record| decode(resource, record)).collect()
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
        let found = self.shared.fetch(self.resource(), &self.namespace, &self.name).await?;
        Ok(found.ok_or_else(|| Status::not_found(self.subject()))?.0)
    }

    /// Writes a new object and returns it with its revision.
    pub async fn insert(&self, mut object: Value) -> Result<Value, Status> {
        let key = key(self.resource(), &self.namespace, object.name());
        let exists = || {
            let subject = Subject { name: object.name().to_owned(), ..self.subject() };
            Status::already_exists(subject)
        };
        let revision = if self.dry_run {
            let found = self.shared.store.get(key, None).await.map_err(status::store)?;
            if found.record.is_some() {
                return Err(exists());
            }
            return Ok(object);
        } else {
            let value = encode(self.resource(), &object)?;
            let operation = Operation::Put { key, value, expect: Expect::Absent };
            match self.shared.store.commit(vec![operation]).await {
                Ok(revision) => revision,
                Err(StoreError::Conflict { .. }) => return Err(exists()),
                Err(error) => return Err(status::store(error)),
            }
        };
        object.set(&["metadata", "resourceVersion"], revision.to_string());
        Ok(object)
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
        const ATTEMPTS: usize = 100;
        let key = key(self.resource(), &self.namespace, &self.name);
        for _ in 0..ATTEMPTS {
            let found = self.shared.fetch(self.resource(), &self.namespace, &self.name).await?;
            let (old, revision) = found.ok_or_else(|| Status::not_found(self.subject()))?;
            let expect = Expect::Revision(revision);
            let change = change(old.clone())?;
            let (mut object, operation) = match change {
                Change::Put(object) if object == old => return Ok(object),
                Change::Put(object) => {
                    let value = encode(self.resource(), &object)?;
                    (object, Operation::Put { key: key.clone(), value, expect })
                }
                Change::Remove(object) => (object, Operation::Delete { key: key.clone(), expect }),
            };
            if self.dry_run {
                return Ok(object);
            }
            match self.shared.store.commit(vec![operation]).await {
                Ok(revision) => {
                    object.set(&["metadata", "resourceVersion"], revision.to_string());
                    return Ok(object);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(status::store(error)),
            }
        }
        Err(Status::conflict(self.subject(), "the object changes faster than it can be written"))
    }
}
