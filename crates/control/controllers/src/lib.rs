//! The loops that make objects true.
//!
//! Every controller observes from shared mirrors, plans as a function of values, and applies steps that are safe to
//! repeat. They wake up on events and on points in time that an object names; none of them polls.

mod account;
mod aggregation;
mod balancer;
mod catalogue;
mod certificates;
mod context;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
mod ephemeral;
pub mod garbage;
mod invitation;
mod mirroring;
pub mod namespace;
pub mod node;
mod object;
mod orphan;
pub mod replicaset;
pub mod volume;
mod wake;

use std::path::PathBuf;
use std::sync::Arc;

use berth_authority::Authority;
use berth_client::Recorder;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::account::Accounts;
use crate::catalogue::Catalogue;
use crate::context::{Context, Mirrors};

/// What the controllers need to know besides the API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificate by which pods know the API server, in PEM; it goes into every namespace.
    pub ca_pem: String,
    /// The directory on nodes under which local volumes are made.
    pub volumes_root: PathBuf,
    /// The node that local volumes are made on and whose address Services publish, when it is ready; otherwise another.
    pub node_name: String,
    /// What signs certificates that were approved; without it nothing is signed.
    pub authority: Option<Arc<Authority>>,
}

/// Why the controllers ended before they were told to.
#[derive(Debug, thiserror::Error)]
pub enum ControllersError {
    /// A loop ended on its own; a fault of ours.
    #[error("a controller ended before it was told to")]
    Ended,
}

/// Runs all controllers until told to stop. All work happens inside the future, on as many tasks as there are
/// controllers; when it returns, none is left.
///
/// `client` is that of `system:kube-controller-manager`, which reads and records Events; `accounts` makes the client of a
/// service account of `kube-system`, as which one controller writes.
///
/// # Errors
/// Only by our own fault: everything the API server can do is waited out.
pub async fn run(
    client: Client,
    accounts: impl Fn(&str) -> Client + Send + Sync + 'static,
    settings: Settings,
    stop: CancellationToken,
) -> Result<(), ControllersError> {
    // Whatever ends first, ends all.
    let stop = stop.child_token();
    let (recorder, events) = Recorder::new(client.clone(), "berth-controllers", stop.clone());
    let mirrors = Mirrors::default();
    let accounts = Accounts::new(accounts);
    let catalogue = Catalogue::new(client.clone());
    let authority = settings.authority.clone();
    let context = Context {
        client: client.clone(),
        accounts,
        mirrors: mirrors.clone(),
        recorder,
        settings: Arc::new(settings),
        stop: stop.clone(),
    };
    let mut tasks = tokio::task::JoinSet::new();
    // Controllers listen before the mirrors follow, so that the first list wakes them.
    let account = |name: &str| context.as_account(name);
    tasks.spawn(deployment::run(account("deployment-controller")));
    tasks.spawn(replicaset::run(account("replicaset-controller")));
    tasks.spawn(disruption::run(account("disruption-controller")));
    tasks.spawn(endpoints::run(account("endpointslice-controller")));
    tasks.spawn(mirroring::run(account("endpointslicemirroring-controller")));
    tasks.spawn(balancer::run(account("service-controller")));
    tasks.spawn(namespace::run(account("namespace-controller"), catalogue.clone()));
    tasks.spawn(garbage::run(account("generic-garbage-collector"), catalogue.clone()));
    tasks.spawn(node::run(account("node-controller")));
    tasks.spawn(orphan::run(account("pod-garbage-collector")));
    tasks.spawn(volume::run(account("persistent-volume-binder")));
    tasks.spawn(ephemeral::run(account("ephemeral-volume-controller")));
    tasks.spawn(aggregation::run(account("clusterrole-aggregation-controller")));
    tasks.spawn(invitation::run(account("token-cleaner")));
    if let Some(authority) = authority {
        tasks.spawn(certificates::run(account("certificate-controller"), authority));
    }
    tasks.spawn(events);
    let token = stop.clone();
    tasks.spawn(async move { mirrors.run(&client, &token).await });
    let token = stop.clone();
    tasks.spawn(async move { catalogue.run(&token).await });
    let first = tasks.join_next().await;
    let asked = stop.is_cancelled();
    stop.cancel();
    let mut sound = matches!(first, Some(Ok(())));
    while let Some(outcome) = tasks.join_next().await {
        sound &= outcome.is_ok();
    }
    if asked && sound { Ok(()) } else { Err(ControllersError::Ended) }
}
