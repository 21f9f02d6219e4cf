//! What the server keeps for others: the store with its sealed Secrets, and the audit log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{Audit, BoxError, Operations, Outcome};
use berth_audit::{Journal, Limits, Policy};
use berth_cli::{EtcdSettings, ServeSettings};
use berth_oidc::Providers;
use berth_report::chain;
use berth_secrets::SealedStore;
use berth_store::{
    Certificate, Claim, Disk, DiskOptions, Etcd, EtcdOptions, Identity, Store, TlsOptions, Upgrade,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::serve::ServeError;

/// How long the audit log may take to reach the disk at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What leads from one format of the store to the next; see [`berth_store::upgrade`].
const UPGRADES: &[Upgrade] = &[];
/// How many formats of the store are known.
pub const FORMATS: usize = UPGRADES.len() + 1;

/// The store, behind what seals Secrets, and what must hold while it is used.
pub async fn sealed_store(
    settings: &ServeSettings,
    node: &str,
) -> Result<(SealedStore, Hold), ServeError> {
    let data = &settings.data;
    let keys = settings.secrets_key.clone().unwrap_or_else(|| data.join("secrets.key"));
    let (store, hold): (Arc<dyn Store>, _) = match &settings.store {
        None => (Arc::new(open_store(data).await?), Hold(None)),
        Some(etcd) => open_etcd(etcd, data, node).await?,
    };
    let opened = async {
        berth_store::upgrade(&*store, UPGRADES, env!("CARGO_PKG_VERSION")).await?;
        let sealed = [berth_apiserver::SECRETS, crate::cluster::IDENTITY];
        Ok(SealedStore::open(store.clone(), &keys, &sealed).await?)
    };
    match opened.await {
        Ok(sealed) => Ok((sealed, hold)),
        Err(error) => {
            hold.release().await;
            Err(error)
        }
    }
}

/// Our right to use the store.
pub struct Hold(Option<Claim>);

impl Hold {
    /// Gives it back at the end, so that others need not wait.
    pub async fn release(self) {
        if let Some(claim) = self.0 {
            claim.release().await;
        }
    }

    /// Waits until it is lost, and returns who has it now. A file is ours as long as we live.
    pub async fn lost(&mut self) -> String {
        match &mut self.0 {
            Some(claim) => claim.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// An etcd, which others may be using.
pub async fn connect(settings: &EtcdSettings) -> Result<Etcd, ServeError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ServeError::Data { path: path.clone(), source })
    };
    let mut options = EtcdOptions::new(settings.endpoints.clone());
    if settings.authority.is_some() || settings.identity.is_some() {
        let mut tls = TlsOptions::new();
        if let Some(authority) = &settings.authority {
            tls = tls.ca_certificate(Certificate::from_pem(read(authority)?));
        }
        if let Some((certificate, key)) = &settings.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        options.tls = Some(tls);
    }
    Ok(Etcd::open(options).await?)
}

async fn open_etcd(
    settings: &EtcdSettings,
    data: &Path,
    node: &str,
) -> Result<(Arc<dyn Store>, Hold), ServeError> {
    let etcd = connect(settings).await?;
    let claim = etcd.claim(node, &own_name(data)?).await?;
    Ok((Arc::new(etcd), Hold(Some(claim))))
}

/// A name that no other server has, and that stays.
pub fn own_name(data: &Path) -> Result<String, ServeError> {
    let path = data.join("server.id");
    let failed = |source| ServeError::Data { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => Ok(name),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        // An empty file is what a crash may leave of the first start.
        _ => {
            let name = format!("{}-{}", crate::serve::hostname(), uuid::Uuid::new_v4());
            let draft = path.with_added_extension("new");
            let mut file = std::fs::File::create(&draft).map_err(failed)?;
            io::Write::write_all(&mut file, name.as_bytes()).map_err(failed)?;
            file.sync_all().and_then(|()| std::fs::rename(&draft, &path)).map_err(failed)?;
            Ok(name)
        }
    }
}

/// The identity providers of the settings.
pub fn open_providers(settings: &ServeSettings) -> Result<Option<Arc<Providers>>, ServeError> {
    let Some(path) = &settings.authentication_config else { return Ok(None) };
    let failed = |source| ServeError::Data { path: path.clone(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let providers = Providers::parse(&text).map_err(|error| failed(io::Error::other(error)))?;
    Ok(Some(Arc::new(providers)))
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
    /// Whether other servers may use the store: those that do now, and those that are away and come back.
    shared: bool,
}

impl OwnOperations {
    /// Those of the store of these settings.
    pub fn new(settings: &ServeSettings, store: SealedStore) -> Self {
        Self { store, shared: settings.store.is_some() }
    }
}

/// So much of a snapshot waits for a client that reads slowly, in pieces.
const WAITING: usize = 16;
const PIECE: usize = 64 << 10;

/// A snapshot on its way to a client.
struct Outlet(mpsc::Sender<Result<Bytes, BoxError>>);

impl io::Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All records of one revision, sealed as they are.
fn snapshot(store: SealedStore) -> BoxStream<'static, Result<Bytes, BoxError>> {
    let (sender, pieces) = mpsc::channel(WAITING);
    drop(tokio::task::spawn_blocking(move || {
        let mut writer = io::BufWriter::with_capacity(PIECE, Outlet(sender.clone()));
        match store.snapshot(&mut writer) {
            Ok(revision) => info!(%revision, "a backup was made"),
            // The client is told, unless it went away: a snapshot without its end is none.
            Err(error) => drop(sender.blocking_send(Err(error.into()))),
        }
    }));
    stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) }).boxed()
}

impl Operations for OwnOperations {
    fn stream(&self, name: &str) -> Option<BoxStream<'static, Result<Bytes, BoxError>>> {
        (name == "system/backup").then(|| snapshot(self.store.clone()))
    }

    fn begin(&self, name: &str) -> Option<BoxFuture<'static, Outcome>> {
        let store = self.store.clone();
        match name {
            "secrets/rotate" | "secrets/rotate-alone" => {
                // After a theft nobody may be told: whoever has the older key could read the new one.
                let told = self.shared && name == "secrets/rotate";
                Some(Box::pin(async move {
                    let sealed = match told {
                        true => store.rotate_with_others().await,
                        false => store.rotate().await,
                    };
                    let sealed = sealed.map_err(|error| chain(&error))?;
                    let key = store.keyring().ids().into_iter().next().unwrap_or_default();
                    info!(sealed, key, "sealed all Secrets with a new key");
                    Ok(serde_json::json!({ "sealed": sealed, "key": key }))
                }))
            }
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
