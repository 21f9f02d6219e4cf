//! Objects of the store in a form made for use, made once for each of their versions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use berth_objects::Status;
use berth_store::{Range, Revision};
use bytes::Bytes;
use serde_json::Value;

use crate::server::Shared;
use crate::{registry, status};

/// All objects of one resource, always as they are in the store now.
pub(crate) struct Kept<T> {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    make: fn(&Value) -> T,
    known: Mutex<HashMap<Bytes, (Revision, Arc<T>)>>,
}

impl<T> Kept<T> {
    pub fn new(
        (group, version, plural): (&'static str, &'static str, &'static str),
        make: fn(&Value) -> T,
    ) -> Self {
        Self { group, version, plural, make, known: Mutex::default() }
    }

    /// All of them, by name.
    pub async fn all(&self, shared: &Shared) -> Result<Vec<Arc<T>>, Status> {
        let resource = berth_rules::find(self.group, self.version, self.plural)
            .ok_or_else(|| Status::internal(format!("{} are not served", self.plural)))?;
        let prefix = registry::prefix(resource, "").into();
        let page = shared.store.range(Range { prefix, ..Range::default() });
        let records = page.await.map_err(status::store)?.records;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > records.len() {
            known.retain(|key, _| records.iter().any(|record| record.key == *key));
        }
        records
            .iter()
            .map(|record| {
                if let Some((revision, made)) = known.get(&record.key)
                    && *revision == record.revision
                {
                    return Ok(Arc::clone(made));
                }
                let made = Arc::new((self.make)(&registry::decode(resource, record)?));
                known.insert(record.key.clone(), (record.revision, Arc::clone(&made)));
                Ok(made)
            })
            .collect()
    }
}
