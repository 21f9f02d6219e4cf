//! The server: what it is made of, and its start.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use berth_access::AUTHENTICATED;
use berth_authority::TokenKeys;
use berth_objects::Status;
use berth_oidc::Providers;
use berth_store::Store;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::addresses::Addresses;
use crate::admission::{Policies, Webhooks};
use crate::aggregation::ApiServices;
use crate::authorize::Access;
use crate::callout::Callouts;
use crate::flow::Flow;
use crate::follow::{Follower, follow};
use crate::hub::Hub;
use crate::kinds::Kinds;
use crate::{
    Aggregator, ApiService, Audit, Endless, Identity, NoNodes, Nodes, Peering, Room,
    SharedOperations, aggregation, bootstrap, claims, definitions, flow, quota, roles,
};

/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One of several servers of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node it runs on, which no other server of the cluster has.
    pub node: String,
    /// Whether only pods of that node reach it.
    pub local: bool,
}

/// How the server behaves.
#[derive(Clone)]
pub struct Options {
    /// Where addresses of Services come from. The first address is the API server's own.
    pub service_addresses: Ipv4Net,
    /// Where ports of NodePort Services come from.
    pub node_ports: RangeInclusive<u16>,
    /// Where pods reach this server, to be published behind the Service `kubernetes`.
    pub advertise: Option<SocketAddr>,
    /// Which of several servers this is; none where it is the only one there can be.
    pub peer: Option<Peer>,
    /// What makes the others let this one reach their nodes.
    pub peering: Option<Arc<Peering>>,
    /// The way to nodes.
    pub nodes: Arc<dyn Nodes>,
    /// What signs and checks tokens of service accounts.
    pub tokens: Arc<TokenKeys>,
    /// Whose tokens name people, besides the cluster's own.
    pub people: Option<Arc<Providers>>,
    /// What shows other servers for whom this one asks; without it they take nobody's word.
    pub aggregator: Option<Arc<Aggregator>>,
    /// What is recorded of requests, if anything.
    pub audit: Option<Audit>,
    /// What administrators may have the server do.
    pub operations: Option<SharedOperations>,
    /// How much the store may still take.
    pub room: Arc<dyn Room>,
    /// What time it is.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            service_addresses: Ipv4Net::new_assert([10, 96, 0, 0].into(), 16),
            node_ports: 30000..=32767,
            advertise: None,
            peer: None,
            peering: None,
            nodes: Arc::new(NoNodes),
            tokens: Arc::new(
                TokenKeys::ephemeral()
                    .expect("a key needs nothing but randomness, which Linux has"),
            ),
            people: None,
            aggregator: None,
            audit: None,
            operations: None,
            room: Arc::new(Endless),
            clock: Arc::new(Timestamp::now),
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The objects every cluster has could not be made.
    #[error("cannot create the initial objects")]
    Bootstrap(#[source] Status),
    /// What is in the store could not be read.
    #[error("cannot read existing Services")]
    Services(#[source] Status),
    /// Definitions of kinds could not be read.
    #[error("cannot read definitions of kinds")]
    Kinds(#[source] Status),
    /// Roles and bindings could not be read or brought to their defaults.
    #[error("cannot set up roles")]
    Roles(#[source] Status),
}

/// What requests share.
pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub options: Options,
    pub addresses: Arc<Addresses>,
    pub hub: Arc<Hub>,
    pub kinds: Arc<Kinds>,
    pub api_services: Arc<ApiServices>,
    /// Ends the hub with the server.
    _hub: DropGuard,
    pub access: Arc<Access>,
    pub callouts: Callouts,
    pub webhooks: Webhooks,
    pub flow: Flow,
    pub policies: Policies,
    /// Cancelled when the server stops: watches end.
    pub closing: CancellationToken,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        (self.options.clock)()
    }
}

/// The API server. Cheap to clone; clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
}

impl ApiServer {
    /// Reads what the store holds and makes sure that the objects every cluster has are there.
    ///
    /// # Errors
    /// When the store fails, or holds what this server cannot read.
    pub async fn start(store: Arc<dyn Store>, options: Options) -> Result<Self, StartError> {
        roles::reconcile(&*store, &options).await.map_err(StartError::Roles)?;
        let access = Arc::new(Access::load(&*store).await.map_err(StartError::Roles)?);
        let kinds = Arc::new(Kinds::default());
        kinds.load(&*store).await.map_err(StartError::Kinds)?;
        let api_services = Arc::new(ApiServices::default());
        api_services.load(&*store).await.map_err(StartError::Kinds)?;
        let addresses = Addresses::new(options.service_addresses, options.node_ports.clone());
        let addresses = Arc::new(addresses);
        let hub = Hub::new(store.current());
        let stop = CancellationToken::new();
        // It ends when the guard goes, so nobody has to wait for it.
        drop(tokio::spawn(Arc::clone(&hub).run(Arc::downgrade(&store), stop.clone())));
        let shared = Shared {
            callouts: Callouts::new(Arc::clone(&store)),
            webhooks: Webhooks::new(),
            flow: Flow::new(),
            policies: Policies::new(),
            store,
            options,
            addresses,
            hub,
            kinds,
            api_services,
            _hub: stop.drop_guard(),
            access,
            closing: CancellationToken::new(),
        };
        let server = Self { shared: Arc::new(shared) };
        let (access, closing) = (server.shared.access.clone(), server.shared.closing.clone());
        tokio::spawn(access.follow(Arc::downgrade(&server.shared.store), closing));
        let (kinds, closing) = (Arc::clone(&server.shared.kinds), server.shared.closing.clone());
        let store = Arc::downgrade(&server.shared.store);
        tokio::spawn(closing.run_until_cancelled_owned(async move {
            follow(&*kinds, store).await;
        }));
        let closing = server.shared.closing.clone();
        tokio::spawn(definitions::keep(Arc::downgrade(&server.shared), closing));
        claims::repair(&server.shared).await.map_err(StartError::Services)?;
        let addresses = Arc::clone(&server.shared.addresses);
        let (store, closing) = (server.shared.store.clone(), server.shared.closing.clone());
        addresses.load(&*store).await.map_err(StartError::Services)?;
        let store = Arc::downgrade(&store);
        tokio::spawn(closing.run_until_cancelled_owned(async move {
            addresses.follow(store).await;
        }));
        bootstrap::objects(&server).await.map_err(StartError::Bootstrap)?;
        let (api_services, closing) =
            (Arc::clone(&server.shared.api_services), server.shared.closing.clone());
        let store = Arc::downgrade(&server.shared.store);
        tokio::spawn(closing.run_until_cancelled_owned(async move {
            follow(&*api_services, store).await;
        }));
        // Known before the first request: what is not served yet must not look as if it were gone.
        aggregation::refresh(&server.shared);
        if let Err(error) = aggregation::own(&server.shared).await {
            tracing::warn!(%error, "cannot make the API services of this server yet");
        }
        let closing = server.shared.closing.clone();
        tokio::spawn(aggregation::keep(Arc::downgrade(&server.shared), closing));
        flow::begin(&server.shared).await;
        let closing = server.shared.closing.clone();
        tokio::spawn(quota::keep(Arc::downgrade(&server.shared), closing));
        Ok(server)
    }

    /// The server as seen by one user, without a network. Requests are judged as any other; who is known here counts as
    /// authenticated.
    #[must_use]
    pub fn service(&self, mut identity: Identity) -> ApiService {
        if !identity.is_in(AUTHENTICATED) {
            identity.groups.push(AUTHENTICATED.to_owned());
        }
        ApiService::new(Arc::clone(&self.shared), Some(identity), None)
    }

    /// Ends all watches. Requests are still answered.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }
}
