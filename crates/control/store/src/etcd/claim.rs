//! One server an etcd, for now: some of what a server decides, such as addresses of Services, it decides from its own memory.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::{Etcd, wire, within};
use crate::StoreError;

/// How long a claim outlives its server, in seconds.
const LIFE: i64 = 10;
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// After so long without a renewal it is given up, before etcd lets anybody else have it.
const DOUBT: Duration = Duration::from_secs(8);

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another server has it.
    #[error(
        "another server, `{holder}`, uses this etcd; it may take {LIFE} s until one that was killed is forgotten"
    )]
    Taken {
        /// Its name.
        holder: String,
    },
    /// etcd does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The right to be this etcd's server. Dropping it gives it up once its life is over.
pub struct Claim {
    held: watch::Receiver<bool>,
    keeper: JoinHandle<()>,
}

impl Claim {
    /// Waits until the claim is lost: etcd has been silent for too long.
    pub async fn lost(&mut self) {
        // The sender goes with the keeper, which ends only when the claim is lost.
        let _ended = self.held.wait_for(|held| !held).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Etcd {
    /// Claims this etcd for the server of this name, which must be its alone and the same after a restart.
    ///
    /// # Errors
    /// When another server has it, or etcd does not answer.
    pub async fn claim(&self, name: &str) -> Result<Claim, ClaimError> {
        let mut client = self.client.clone();
        let key = [&self.prefix[..], b"server"].concat();
        let lease = within(client.lease_grant(LIFE, None)).await?.id();
        let mine = || TxnOp::put(key.clone(), name, Some(PutOptions::new().with_lease(lease)));
        let free = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let get = TxnOp::get(key.clone(), None);
        let first = Txn::new().when([free]).and_then([mine()]).or_else([get.clone()]);
        let answer = within(client.txn(first)).await?;
        if !answer.succeeded() {
            // Ours from before a restart: the data directory's lock says that the server it was is no more.
            let ours = Compare::value(key.clone(), CompareOp::Equal, name);
            let again = Txn::new().when([ours]).and_then([mine()]).or_else([get]);
            let answer = within(client.txn(again)).await?;
            if !answer.succeeded() {
                let holder = answer.op_responses().into_iter().find_map(|answer| match answer {
                    TxnOpResponse::Get(found) => {
                        found.kvs().first().map(|pair| pair.value().to_vec())
                    }
                    _ => None,
                });
                let holder = String::from_utf8_lossy(&holder.unwrap_or_default()).into_owned();
                return Err(ClaimError::Taken { holder });
            }
        }
        let (tell, held) = watch::channel(true);
        let keeper = tokio::spawn(async move {
            keep(&mut client, lease).await;
            tell.send_replace(false);
        });
        Ok(Claim { held, keeper })
    }
}

/// Renews until that has failed for too long.
async fn keep(client: &mut Client, lease: i64) {
    let mut renewed = Instant::now();
    while renewed.elapsed() < DOUBT {
        match tokio::time::timeout(RENEW, renew(client, lease)).await {
            Ok(Ok(true)) => renewed = Instant::now(),
            Ok(Ok(false)) => return,
            Ok(Err(error)) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the claim on etcd was not renewed"
                );
            }
            Err(_) => warn!("the claim on etcd was not renewed in time"),
        }
        tokio::time::sleep(RENEW / 3).await;
    }
}

/// Renews once; false if there is nothing left to renew.
async fn renew(client: &mut Client, lease: i64) -> Result<bool, StoreError> {
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.map_err(wire::failed)?;
    keeper.keep_alive().await.map_err(wire::failed)?;
    let answer = answers.message().await.map_err(wire::failed)?;
    Ok(answer.is_some_and(|answer| answer.ttl() > 0))
}
