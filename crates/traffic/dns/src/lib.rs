//! Answers names inside a node: Services, endpoints and pods from an index fed by watches, everything else from the
//! host's own resolvers.
//!
//! Surprising: a name that exists nowhere in the zone may still get an answer. When it came through the first entry of a
//! pod's search list, the server walks the rest of that list itself, so that an external name costs two questions and
//! not ten (see [`plan`](mod@plan)).

mod cache;
mod facts;
mod index;
mod plan;
mod resolver;
mod server;
mod upstream;
mod watches;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::{fmt, io};

use hickory_proto::rr::Name;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::index::Index;
use crate::resolver::Resolver;
use crate::upstream::Upstream;

/// How long clients may keep an answer about the cluster, in seconds: as short as a rolling update needs.
pub(crate) const TTL: u32 = 5;

/// What the server is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen, on UDP and on TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The domain of the cluster, without a final dot.
    pub zone: String,
    /// The file that names the host's resolvers. It is read again whenever its modification time changes.
    pub resolv_conf: PathBuf,
    /// The port at which the host's resolvers listen.
    pub upstream_port: u16,
    /// Networks whose addresses belong to the cluster, each as its first address and prefix length: questions for names
    /// of their addresses are never forwarded. The surroundings (`/24`) of every known pod and Service count in any case.
    pub networks: Vec<(Ipv4Addr, u8)>,
    /// How many questions may wait for the host's resolvers at one time; one more is refused at once.
    pub waiting: usize,
    /// How many TCP connections may be open at one time.
    pub connections: usize,
}

impl Settings {
    /// The usual settings: zone `cluster.local`, resolvers from `/etc/resolv.conf`.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            zone: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            upstream_port: 53,
            networks: Vec::new(),
            waiting: 1024,
            connections: 256,
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The zone's name breaks the rules for domain names.
    #[error("`{zone}` is no domain name")]
    Zone {
        /// As it was given.
        zone: String,
        /// What is wrong with it.
        source: Box<hickory_proto::ProtoError>,
    },
    /// The address is taken, absent or not ours to take. Worth another try when the interface is still to come.
    #[error("cannot listen on {protocol} {address}")]
    Listen {
        /// UDP or TCP.
        protocol: Protocol,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One datagram each way.
    Udp,
    /// A stream of messages, each led by its length.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// The index as watches and questions share it. Nobody waits while holding it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<RwLock<Index>>);

impl Shared {
    fn new(index: Index) -> Self {
        Self(Arc::new(RwLock::new(index)))
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until told to stop. Names outside the zone are answered at once; names inside it from the moment the first
/// lists are in, and from then on whether or not the API answers.
///
/// # Errors
///
/// When the zone is no domain name or an address cannot be listened on. Once it serves, it does not fail.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    stop: CancellationToken,
) -> Result<(), DnsError> {
    let zone = parse_zone(&settings.zone)?;
    let sockets = server::bind(&settings.listen).await?;
    let listening: Vec<SocketAddr> = sockets.iter().map(server::Sockets::address).collect();
    let index = Shared::new(Index::new(zone, settings.networks.clone()));
    let upstream = Upstream::new(settings.resolv_conf, settings.upstream_port, listening.clone());
    let resolver = Arc::new(Resolver::new(index.clone(), upstream));
    info!(zone = settings.zone, addresses = ?listening, "answering names");
    let limits = server::Limits { waiting: settings.waiting, connections: settings.connections };
    tokio::join!(
        watches::follow(&client, &index, &stop),
        server::serve(sockets, resolver, limits, &stop)
    );
    Ok(())
}

fn parse_zone(zone: &str) -> Result<Name, DnsError> {
    let wrong = |source| DnsError::Zone { zone: zone.to_owned(), source: Box::new(source) };
    let mut name = Name::from_ascii(zone).map_err(wrong)?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}
