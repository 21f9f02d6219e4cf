//! Objects in the store: keys, encoding, reads, and changes that are retried until they fit.

use berth_objects::{Object, Resource, Status, Subject};
use berth_store::{Expect, Operation, Range, Record, Revision, StoreError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;
use crate::server::Shared;
use crate::{claims, quota, status};

/// So often a write begins again because others were faster.
pub(crate) const ATTEMPTS: usize = 100;

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
    /// What is written beside an object of this kind to say what it holds.
    fn claims(&self, old: Option<&Value>, new: Option<&Value>) -> Result<Vec<Operation>, Status> {
        if !claims::concerns(self.resource) {
            return Ok(Vec::new());
        }
        claims::operations(&self.shared, old, new)
    }

    /// Writes an object with what it holds and what quotas count of it: the revision, unless nothing is to be written; or
    /// the key where somebody was faster.
    async fn commit(
        &self,
        own: Operation,
        claims: &[Operation],
        quotas: Vec<Operation>,
    ) -> Result<Result<Option<Revision>, Bytes>, Status> {
        let mut operations = vec![own];
        operations.extend(claims.iter().cloned());
        if self.dry_run {
            return Ok(self.hindrance(&operations).await?.map_or(Ok(None), Err));
        }
        operations.extend(quotas);
        match self.shared.store.commit(operations).await {
            Ok(revision) => {
                self.shared.addresses.committed(claims);
                Ok(Ok(Some(revision)))
            }
            Err(StoreError::Conflict { key, .. }) => Ok(Err(key)),
            Err(error) => Err(status::store(error)),
        }
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
        Ok(self.read_current().await?.0)
    }

    /// The object the request names, with its revision.
    pub async fn read_current(&self) -> Result<(Value, Revision), Status> {
        let found = self.shared.fetch(self.resource, &self.namespace, &self.name).await?;
        found.ok_or_else(|| Status::not_found(self.subject()))
    }

    /// Writes a new object with all it holds, and returns it with its revision.
    pub async fn insert(&self, mut object: Value) -> Result<(Value, Inserted), Status> {
        let key = key(self.resource, &self.namespace, object.name());
        let exists = || {
            let subject = Subject { name: object.name().to_owned(), ..self.subject() };
            Status::already_exists(subject)
        };
        for _ in 0..ATTEMPTS {
            let value = encode(self.resource, &object)?;
            let claims = self.claims(None, Some(&object))?;
            let quotas = quota::account(self, None, Some(&object)).await?;
            let own = Operation::Put { key: key.clone(), value, expect: Expect::Absent };
            let outcome = self.commit(own, &claims, quotas).await?;
            match outcome {
                Ok(revision) => {
                    if let Some(revision) = revision {
                        object.set(&["metadata", "resourceVersion"], revision.to_string());
                    }
                    return Ok((object, Inserted::Done));
                }
                Err(lost) if lost == key => return Err(exists()),
                Err(lost) if is_among(&lost, &claims) => {
                    self.shared.addresses.taken(&lost);
                    return Ok((object, Inserted::Taken(lost)));
                }
                // A quota was written by somebody else.
                Err(_) => {}
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
        let mut lost = Vec::new();
        for _ in 0..ATTEMPTS {
            let (old, revision) = self.read_current().await?;
            let change = change(old.clone())?;
            if let Some(object) = self.write(&old, revision, change, &mut lost).await? {
                return Ok(object);
            }
        }
        Err(self.too_fast())
    }

    /// Writes what became of an object that was read at `revision`, together with what follows from it. Nothing if
    /// somebody was faster; `lost` remembers at what.
    pub async fn write(
        &self,
        old: &Value,
        revision: Revision,
        change: Change,
        lost: &mut Vec<Bytes>,
    ) -> Result<Option<Value>, Status> {
        let key = key(self.resource, &self.namespace, &self.name);
        let expect = Expect::Revision(revision);
        let (mut object, own, left) = match change {
            Change::Put(object) if object == *old => return Ok(Some(object)),
            Change::Put(object) => {
                let value = encode(self.resource, &object)?;
                (object, Operation::Put { key, value, expect }, true)
            }
            Change::Remove(object) => (object, Operation::Delete { key, expect }, false),
        };
        let new = left.then_some(&object);
        let claims = self.claims(Some(old), new)?;
        let quotas = quota::account(self, Some(old), new).await?;
        match self.commit(own, &claims, quotas).await? {
            Ok(revision) => {
                if let Some(revision) = revision {
                    object.set(&["metadata", "resourceVersion"], revision.to_string());
                }
                Ok(Some(object))
            }
            // What was chosen is chosen anew; what is lost twice was asked for.
            Err(other) if is_among(&other, &claims) => {
                if lost.contains(&other) {
                    let errors = [claims::refusal(&object, &other)];
                    return Err(Status::invalid(self.kind_subject(&object), &errors));
                }
                self.shared.addresses.taken(&other);
                lost.push(other);
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    pub fn too_fast(&self) -> Status {
        Status::conflict(self.subject(), "the object changes faster than it can be written")
    }
}

/// Whether one of these operations is about a key.
fn is_among(key: &Bytes, operations: &[Operation]) -> bool {
    operations.iter().any(|operation| match operation {
        Operation::Put { key: own, .. } | Operation::Delete { key: own, .. } => own == key,
    })
}
