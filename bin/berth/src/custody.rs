//! What the server keeps for others: the store with its sealed Secrets, and the audit log.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{Audit, Operations, Outcome};
use berth_audit::{Journal, Limits, Policy};
use berth_cli::ServeSettings;
use berth_secrets::SealedStore;
use berth_store::{Disk, DiskOptions};
use futures::future::BoxFuture;
use tracing::{info, warn};

use crate::serve::{ServeError, chain};

/// How long the audit log may take to reach the disk at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store, behind what seals Secrets.
pub async fn sealed_store(data: &Path, keys: Option<&Path>) -> Result<SealedStore, ServeError> {
    let keys = keys.map_or_else(|| data.join("secrets.key"), Path::to_owned);
    let store = Arc::new(open_store(data).await?);
    Ok(SealedStore::open(store, &keys, &[berth_apiserver::SECRETS]).await?)
}

/// The audit log, with the policy of the settings.
pub fn open_audit(settings: &ServeSettings) -> Result<Audit, ServeError> {
    let policy = match &settings.audit_policy {
        None => Policy::default(),
        Some(path) => {
            let failed = |source| ServeError::Data { path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            let value = berth_objects::yaml::parse(&text)
                .map_err(|error| failed(io::Error::other(error.to_string())))?;
            Policy::parse(&value).map_err(|error| failed(io::Error::other(error)))?
        }
    };
    let path =
        settings.audit_log.clone().unwrap_or_else(|| berth_audit::default_path(&settings.data));
    let journal = Journal::open(&path, Limits::default())
        .map_err(|source| ServeError::Data { path: path.clone(), source })?;
    Ok(Audit { policy: Arc::new(policy), journal })
}

/// What an administrator may have this server do.
pub struct OwnOperations {
    store: SealedStore,
}

impl OwnOperations {
    /// Those of this store.
    pub fn new(store: SealedStore) -> Self {
        Self { store }
    }
}

impl Operations for OwnOperations {
    fn begin(&self, name: &str) -> Option<BoxFuture<'static, Outcome>> {
        let store = self.store.clone();
        match name {
            "secrets/rotate" => Some(Box::pin(async move {
                let sealed = store.rotate().await.map_err(|error| chain(&error))?;
                let key = store.keyring().ids().into_iter().next().unwrap_or_default();
                info!(sealed, key, "sealed all Secrets with a new key");
                Ok(serde_json::json!({ "sealed": sealed, "key": key }))
            })),
            _ => None,
        }
    }
}

async fn open_store(data: &Path) -> Result<Disk, ServeError> {
    let path = data.join("store.redb");
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || Disk::open(&path, DiskOptions::default())).await
    };
    let broke = |error| ServeError::Data { path, source: io::Error::other(error) };
    Ok(opened.map_err(broke)??)
}

/// Ends the audit log: what was answered has left its line when this returns.
pub async fn close(journal: Journal) {
    let closed = tokio::task::spawn_blocking(move || journal.close(PATIENCE)).await;
    if closed.is_err() {
        warn!("the audit log was not closed in order");
    }
}
