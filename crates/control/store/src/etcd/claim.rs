//! One server a node name: two that call themselves the same would both report on the node and undo each other's work.
//!
//! The claim is a record with a lease, so that it goes when its server does, and the other servers see it go.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Etcd, wire, within};
use crate::StoreError;

/// Under which keys the claims are; behind it the node's name.
pub const SERVERS: &str = "servers/";
/// How long a claim outlives its server, in seconds.
const LIFE: i64 = 10;
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another server has it.
    #[error(
        "another server, `{holder}`, is node `{node}` of this cluster; name this one with `--node-name` (it may take {LIFE} s until one that was killed is forgotten)"
    )]
    Taken {
        /// The name of the node.
        node: String,
        /// The server's own name.
        holder: String,
    },
    /// etcd does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The right to be the server of a node. Dropping it gives it up once its life is over.
pub struct Claim {
    taken: watch::Receiver<Option<String>>,
    keeper: JoinHandle<()>,
    wish: Wish,
}

impl Claim {
    /// Gives it up at once.
    pub async fn release(mut self) {
        self.keeper.abort();
        let (key, server) = (self.wish.key.clone(), self.wish.server.clone());
        let ours = Compare::value(key.clone(), CompareOp::Equal, server);
        let remove = Txn::new().when([ours]).and_then([TxnOp::delete(key, None)]);
        if let Err(error) = within(self.wish.client.txn(remove)).await {
            // It ends by itself a little later.
            warn!(error = &error as &dyn std::error::Error, "the claim was not given up");
        }
    }

    /// Waits until another server has it, and returns that one's name. While etcd is out of reach the claim may run out; it is
    /// made anew then, unless another was faster.
    pub async fn lost(&mut self) -> String {
        match self.taken.wait_for(Option::is_some).await {
            Ok(holder) => holder.clone().unwrap_or_default(),
            // The sender goes with the keeper, which ends only when the claim is lost.
            Err(_) => String::new(),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What is claimed, and by whom.
#[derive(Clone)]
struct Wish {
    client: Client,
    key: Bytes,
    node: String,
    server: String,
}

impl Etcd {
    /// Claims a node for the server of this name, which must be its alone and the same after a restart.
    ///
    /// # Errors
    /// When another server has it, or etcd does not answer.
    pub async fn claim(&self, node: &str, server: &str) -> Result<Claim, ClaimError> {
        let mut wish = Wish {
            client: self.client.clone(),
            key: [&self.prefix[..], SERVERS.as_bytes(), node.as_bytes()].concat().into(),
            node: node.to_owned(),
            server: server.to_owned(),
        };
        let lease = wish.make().await?;
        let (tell, taken) = watch::channel(None);
        let kept = wish.clone();
        let keeper = tokio::spawn(async move {
            let holder = wish.keep(lease).await;
            tell.send_replace(Some(holder));
        });
        Ok(Claim { taken, keeper, wish: kept })
    }
}

impl Wish {
    /// Makes the claim with a lease of its own, which is returned.
    async fn make(&mut self) -> Result<i64, ClaimError> {
        let lease = within(self.client.lease_grant(LIFE, None)).await?.id();
        let options = || Some(PutOptions::new().with_lease(lease));
        let mine = || TxnOp::put(self.key.clone(), self.server.as_str(), options());
        let free = Compare::create_revision(self.key.clone(), CompareOp::Equal, 0);
        let get = TxnOp::get(self.key.clone(), None);
        let first = Txn::new().when([free]).and_then([mine()]).or_else([get.clone()]);
        if within(self.client.txn(first)).await?.succeeded() {
            return Ok(lease);
        }
        // Ours from before a restart: the data directory's lock says that the server it was is no more.
        let ours = Compare::value(self.key.clone(), CompareOp::Equal, self.server.as_str());
        let again = Txn::new().when([ours]).and_then([mine()]).or_else([get]);
        let answer = within(self.client.txn(again)).await?;
        if answer.succeeded() {
            return Ok(lease);
        }
        let holder = answer.op_responses().into_iter().find_map(|answer| match answer {
            TxnOpResponse::Get(found) => found.kvs().first().map(|pair| pair.value().to_vec()),
            _ => None,
        });
        let holder = String::from_utf8_lossy(&holder.unwrap_or_default()).into_owned();
        Err(ClaimError::Taken { node: self.node.clone(), holder })
    }

    /// Renews the lease, and makes the claim anew where it has run out; returns who else has it.
    async fn keep(&mut self, mut lease: i64) -> String {
        loop {
            tokio::time::sleep(RENEW).await;
            match self.renew(lease).await {
                Ok(newer) => lease = newer,
                Err(ClaimError::Taken { holder, .. }) => return holder,
                Err(ClaimError::Store(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "etcd cannot be reached");
                }
            }
        }
    }

    /// Renews once, and returns the lease that the claim has now.
    async fn renew(&mut self, lease: i64) -> Result<i64, ClaimError> {
        match tokio::time::timeout(RENEW, self.client.lease_keep_alive(lease)).await {
            // The library has asked once, and heard that the lease goes on.
            Ok(Ok(_)) => {}
            Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => return self.make().await,
            Ok(Err(error)) => return Err(wire::failed(error).into()),
            Err(_) => {
                let source = Arc::new(io::Error::from(io::ErrorKind::TimedOut));
                return Err(StoreError::Io { source }.into());
            }
        }
        let found = within(self.client.get(self.key.clone(), None)).await?;
        match found.kvs().first() {
            Some(pair) if pair.value() == self.server.as_bytes() => Ok(lease),
            _ => self.make().await,
        }
    }
}
