//! What all controllers share: the client, the mirrors, the way to record Events.

use berth_client::{Mirror, Recorder};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::account::Accounts;

/// One copy of each kind, however many controllers look at it.
#[derive(Clone, Default)]
pub struct Mirrors {
    pub pods: Mirror<Pod>,
    pub nodes: Mirror<Node>,
    pub leases: Mirror<Lease>,
    pub deployments: Mirror<Deployment>,
    pub replica_sets: Mirror<ReplicaSet>,
    pub services: Mirror<Service>,
    pub slices: Mirror<EndpointSlice>,
    pub endpoints: Mirror<Endpoints>,
    pub namespaces: Mirror<Namespace>,
    pub accounts: Mirror<ServiceAccount>,
    pub config_maps: Mirror<ConfigMap>,
    pub claims: Mirror<PersistentVolumeClaim>,
    pub volumes: Mirror<PersistentVolume>,
    pub classes: Mirror<StorageClass>,
}

impl Mirrors {
    /// Follows the server with all of them until told to stop.
    pub async fn run(&self, client: &Client, stop: &CancellationToken) {
        let client = || client.clone();
        futures::join!(
            self.pods.run(Api::all(client()), stop),
            self.nodes.run(Api::all(client()), stop),
            self.leases.run(Api::all(client()), stop),
            self.deployments.run(Api::all(client()), stop),
            self.replica_sets.run(Api::all(client()), stop),
            self.services.run(Api::all(client()), stop),
            self.slices.run(Api::all(client()), stop),
            self.endpoints.run(Api::all(client()), stop),
            self.namespaces.run(Api::all(client()), stop),
            self.accounts.run(Api::all(client()), stop),
            self.config_maps.run(Api::all(client()), stop),
            self.claims.run(Api::all(client()), stop),
            self.volumes.run(Api::all(client()), stop),
            self.classes.run(Api::all(client()), stop),
        );
    }

    /// Returns once everything has been listed: before that, what is missing may only be unknown.
    pub async fn synced(&self) {
        futures::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.leases.synced(),
            self.deployments.synced(),
            self.replica_sets.synced(),
            self.services.synced(),
            self.slices.synced(),
            self.endpoints.synced(),
            self.namespaces.synced(),
            self.accounts.synced(),
            self.config_maps.synced(),
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
        );
    }
}

/// What every controller is given.
#[derive(Clone)]
pub struct Context {
    /// The client of the controller that has this.
    pub client: Client,
    pub(crate) accounts: Accounts,
    pub mirrors: Mirrors,
    pub recorder: Recorder,
    pub settings: std::sync::Arc<Settings>,
    pub stop: CancellationToken,
}

impl Context {
    /// The same for the controller of that name: what it does, it does as that service account of `kube-system`.
    #[must_use]
    pub(crate) fn as_account(&self, name: &str) -> Self {
        Self { client: self.accounts.client(name), ..self.clone() }
    }
}

/// Whether an answer says that the object is not there.
pub fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether an answer says that the object is there already.
pub fn is_present(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// Makes an answer of "not there" a success without a value: somebody else was faster, or we were, before a crash.
pub fn or_absent<T>(outcome: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
