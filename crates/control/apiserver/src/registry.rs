//! Objects in the store: keys, encoding, reads, and changes that are retried until they fit.

use berth_objects::{Object, Resource, Status, Subject};
use berth_store::{Expect, Operation, Range, Record, Revision, StoreError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;
use crate::server::Shared;
use crate::{claims, status};

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
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(Value, Revision)>, Status> {
        let key = key(resource, namespace, name);
        let found = self.store.get(key, None).await.map_err(status::store)?;
        found.record.map(|record| Ok((decode(resource, &record)?, record.revision))).transpose()
    }

    /// All objects of a resource, in one namespace or in all.
    pub async fn list(&self, resource: &Resource, namespace: &str) -> Result<Vec<Value>, Status> {
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

/// What became of a new object.
pub(crate) enum Inserted {
    /// It is there.
    Done,
    /// It is not: what it holds at this key is somebody else's.
    Taken(Bytes),
}

impl Call {
    /// What is written beside an object of this kind.
    fn beside_it(
        &self,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<Vec<Operation>, Status> {
        if !claims::concerns(self.resource) {
            return Ok(Vec::new());
        }
        claims::operations(&self.shared, old, new)
    }

    /// What would refuse these operations: the first that has to be new and is there.
    async fn hindrance(&self, operations: &[Operation]) -> Result<Option<Bytes>, Status> {
        for operation in operations {
            if let Operation::Put { key, expect: Expect::Absent, .. } = operation {
                let found = self.shared.store.get(key.clone(), None).await;
                if found.map_err(status::store)?.record.is_some() {
                    return Ok(Some(key.clone()));
                }
            }
        }
        Ok(None)
    }

    /// The object the request names.
    pub async fn read(&self) -> Result<Value, Status> {
        let found = self.shared.fetch(self.resource, &self.namespace, &self.name).await?;
        Ok(found.ok_or_else(|| Status::not_found(self.subject()))?.0)
    }

    /// Writes a new object with all it holds, and returns it with its revision.
    pub async fn insert(&self, mut object: Value) -> Result<(Value, Inserted), Status> {
        let key = key(self.resource, &self.namespace, object.name());
        let exists = || {
            let subject = Subject { name: object.name().to_owned(), ..self.subject() };
            Status::already_exists(subject)
        };
        let value = encode(self.resource, &object)?;
        let mut operations =
            vec![Operation::Put { key: key.clone(), value, expect: Expect::Absent }];
        operations.extend(self.beside_it(None, Some(&object))?);
        if self.dry_run {
            return match self.hindrance(&operations).await? {
                None => Ok((object, Inserted::Done)),
                Some(hindrance) if hindrance == key => Err(exists()),
                Some(hindrance) => Ok((object, Inserted::Taken(hindrance))),
            };
        }
        match self.shared.store.commit(operations.clone()).await {
            Ok(revision) => {
                self.shared.addresses.committed(&operations[1..]);
                object.set(&["metadata", "resourceVersion"], revision.to_string());
                Ok((object, Inserted::Done))
            }
            Err(StoreError::Conflict { key: lost, .. }) if lost != key => {
                self.shared.addresses.taken(&lost);
                Ok((object, Inserted::Taken(lost)))
            }
            Err(StoreError::Conflict { .. }) => Err(exists()),
            Err(error) => Err(status::store(error)),
        }
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
        let key = key(self.resource, &self.namespace, &self.name);
        let mut lost = Vec::new();
        for _ in 0..ATTEMPTS {
            let found = self.shared.fetch(self.resource, &self.namespace, &self.name).await?;
            let (old, revision) = found.ok_or_else(|| Status::not_found(self.subject()))?;
            let expect = Expect::Revision(revision);
            let change = change(old.clone())?;
            let (mut object, mut operations) = match change {
                Change::Put(object) if object == old => return Ok(object),
                Change::Put(object) => {
                    let value = encode(self.resource, &object)?;
                    let mut operations = vec![Operation::Put { key: key.clone(), value, expect }];
                    operations.extend(self.beside_it(Some(&old), Some(&object))?);
                    (object, operations)
                }
                Change::Remove(object) => {
                    let mut operations = vec![Operation::Delete { key: key.clone(), expect }];
                    operations.extend(self.beside_it(Some(&old), None)?);
                    (object, operations)
                }
            };
            let outcome = if self.dry_run {
                match self.hindrance(&operations).await? {
                    None => return Ok(object),
                    Some(key) => Err(StoreError::Conflict { key, actual: None }),
                }
            } else {
                self.shared.store.commit(operations.clone()).await
            };
            match outcome {
                Ok(revision) => {
                    self.shared.addresses.committed(&operations.split_off(1));
                    object.set(&["metadata", "resourceVersion"], revision.to_string());
                    return Ok(object);
                }
                // What was chosen is chosen anew; what is lost twice was asked for.
                Err(StoreError::Conflict { key: other, .. }) if other != key => {
                    if lost.contains(&other) {
                        let errors = [claims::refusal(&object, &other)];
                        return Err(Status::invalid(self.kind_subject(&object), &errors));
                    }
                    self.shared.addresses.taken(&other);
                    lost.push(other);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(status::store(error)),
            }
        }
        Err(Status::conflict(self.subject(), "the object changes faster than it can be written"))
    }
}
