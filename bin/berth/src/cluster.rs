//! What the servers of one cluster have in common: the certificate authority, the keys that sign tokens, the range of Services.
//!
//! It is in the store, sealed as Secrets are, so that whoever has the store and the key file is a server of this cluster, and a
//! backup brings back a cluster whose clients and tokens still hold. The first server puts there what it has made; a further
//! one takes it from there, or is refused where it has brought something else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_authority::{Authority, AuthorityError, Issued, TokenKeys};
use berth_store::{Event, Expect, Operation, Range, Revision, Store, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Everything below is sealed.
pub const IDENTITY: &str = "/berth/identity/";
const AUTHORITY: &str = "/berth/identity/authority";
const FRONT_PROXY: &str = "/berth/identity/front-proxy";
const TOKENS: &str = "/berth/identity/tokens/";
const SERVICES: &str = "/berth/services";

/// Why this server is none of the cluster's.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has an authority of its own.
    #[error("`{}` holds another certificate authority than the cluster has; move it away to take the cluster's, or give this server a store of its own", .0.display())]
    Authority(PathBuf),
    /// It would hand out other addresses.
    #[error(
        "the Services of this cluster have addresses of {cluster}, not of {own}; say `--service-cidr {cluster}`"
    )]
    Services { cluster: String, own: Ipv4Net },
    /// What is in the store cannot be understood.
    #[error("`{0}` in the store is damaged")]
    Damaged(&'static str),
    /// Servers that start at the same time.
    #[error("other servers keep changing what the cluster has in common; start again")]
    Restless,
    /// Files.
    #[error(transparent)]
    Files(#[from] AuthorityError),
    /// The store.
    #[error("cannot read what the cluster has in common")]
    Store(#[from] StoreError),
}

/// Attempts against other servers that do the same.
const ATTEMPTS: usize = 10;

/// What makes a server one of the cluster's.
pub struct Common {
    /// Issues certificates for clients and servers.
    pub authority: Authority,
    /// Sign tokens.
    pub tokens: TokenKeys,
    /// Issues only what shows other servers for whom ours ask.
    pub front_proxy: Authority,
}

/// Opens what is in `folder`, which is the cluster's afterwards.
pub async fn join(store: &dyn Store, folder: &Path) -> Result<Common, JoinError> {
    let (tokens, proxy) = (folder.join("tokens"), folder.join("front-proxy"));
    for _ in 0..ATTEMPTS {
        // Where two servers begin at once, the slower has made one for nothing.
        let is_new = !tokens.exists();
        if authority(store, AUTHORITY, folder, is_new).await?
            && authority(store, FRONT_PROXY, &proxy, true).await?
            && self::tokens(store, &tokens).await?
        {
            return Ok(Common {
                authority: Authority::open(folder)?,
                tokens: TokenKeys::open(&tokens)?,
                front_proxy: Authority::open(&proxy)?,
            });
        }
    }
    Err(JoinError::Restless)
}

/// Makes sure that all servers hand out addresses of the same range.
pub async fn same_services(store: &dyn Store, own: Ipv4Net) -> Result<(), JoinError> {
    for _ in 0..ATTEMPTS {
        let value = own.to_string();
        if put(store, SERVICES, value.into()).await? {
            return Ok(());
        }
        let Some(found) = store.get(SERVICES.into(), None).await?.record else { continue };
        let cluster = String::from_utf8_lossy(&found.value).into_owned();
        if cluster != own.to_string() {
            return Err(JoinError::Services { cluster, own });
        }
        return Ok(());
    }
    Err(JoinError::Restless)
}

/// Writes what is not there; says whether it was not.
async fn put(store: &dyn Store, key: &str, value: Bytes) -> Result<bool, StoreError> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match store.commit(vec![Operation::Put { key, value, expect: Expect::Absent }]).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says whether folder and store hold the same authority now. The folder's own may be given up for the cluster's only if
/// nothing depends on it.
async fn authority(
    store: &dyn Store,
    name: &'static str,
    folder: &Path,
    give_up: bool,
) -> Result<bool, JoinError> {
    let found = store.get(name.into(), None).await?.record;
    let Some(record) = found else {
        // The first server of a new cluster, or of one that is older than this record.
        Authority::open(folder)?;
        let Some(own) = Authority::export(folder)? else { return Ok(false) };
        let value = json!({"certificate": own.certificate, "key": own.key});
        return Ok(put(store, name, value.to_string().into()).await?);
    };
    let value: Value =
        serde_json::from_slice(&record.value).map_err(|_| JoinError::Damaged(name))?;
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    let (certificate, key) =
        text("certificate").zip(text("key")).ok_or(JoinError::Damaged(name))?;
    match Authority::export(folder)? {
        Some(own) if own.certificate == certificate => {}
        Some(_) if give_up => Authority::install(folder, &Issued { certificate, key })?,
        Some(_) => return Err(JoinError::Authority(folder.to_owned())),
        None => Authority::install(folder, &Issued { certificate, key })?,
    }
    Ok(true)
}

fn since(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.strip_prefix(TOKENS.as_bytes())?).ok()?.parse().ok()
}

/// Says whether folder and store hold the same keys now.
async fn tokens(store: &dyn Store, folder: &Path) -> Result<bool, JoinError> {
    let range = Range { prefix: TOKENS.into(), ..Range::default() };
    let known = store.range(range).await?.records;
    for record in &known {
        let since = since(&record.key).ok_or(JoinError::Damaged(TOKENS))?;
        TokenKeys::install(folder, since, &String::from_utf8_lossy(&record.value))?;
    }
    // This removes keys that are too old, and makes a new one when it is time.
    TokenKeys::open(folder)?;
    let own = TokenKeys::export(folder)?;
    for record in known.iter().filter(|record| {
        since(&record.key).is_none_or(|since| own.iter().all(|(other, _)| *other != since))
    }) {
        let expect = Expect::Revision(record.revision);
        let delete = Operation::Delete { key: record.key.clone(), expect };
        match store.commit(vec![delete]).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (since, pem) in own {
        let is_known = known.iter().any(|record| self::since(&record.key) == Some(since));
        if !is_known && !put(store, &format!("{TOKENS}{since}"), pem.into()).await? {
            // Another server made one in the same second; its is the cluster's.
            return Ok(false);
        }
    }
    Ok(true)
}

/// Learns the keys that other servers make from now on, until told to stop.
pub async fn follow_tokens(store: Weak<dyn Store>, keys: Arc<TokenKeys>, stop: CancellationToken) {
    let mut from = Revision(0);
    while !stop.is_cancelled() {
        let Some(opened) = store.upgrade() else { return };
        let range = Range { prefix: TOKENS.into(), ..Range::default() };
        match opened.range(range).await {
            Ok(page) => {
                page.records.iter().for_each(|record| learn(&keys, &record.key, &record.value));
                from = page.revision;
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot read keys"),
        }
        let events = opened.watch(TOKENS.into(), from).await;
        drop(opened);
        if let Ok(mut events) = events {
            while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
                match event {
                    Event::Put { record, .. } => learn(&keys, &record.key, &record.value),
                    Event::Compacted(_) => break,
                    Event::Delete { .. } | Event::Progress(_) => {}
                }
            }
        }
        // The store is away, or has forgotten where we were.
        let _stopped = stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await;
    }
}

fn learn(keys: &TokenKeys, key: &[u8], value: &[u8]) {
    let Some(since) = since(key) else { return };
    match keys.learn(since, &String::from_utf8_lossy(value)) {
        Ok(()) => info!(since, "a key for tokens is known"),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "a key for tokens is damaged");
        }
    }
}
