//! The Kubernetes API over the store: one registry for all kinds.
//!
//! There is no handler per resource. A request names a row of the table of resources; everything else follows from the
//! row, the schema and the rules. In-process clients come through the same service as the network, with an identity, and
//! are judged alike.

mod accounts;
mod addresses;
mod admission;
mod aggregation;
mod apply;
mod audit;
mod authenticate;
mod authorize;
mod body;
mod bootstrap;
mod call;
mod callout;
mod claims;
mod classes;
mod compress;
mod convert;
mod definitions;
mod delete;
mod discovery;
mod evict;
mod feed;
mod flow;
mod follow;
mod forward;
mod guard;
mod hub;
mod impersonate;
mod input;
mod join;
mod kinds;
mod limits;
mod list;
mod listen;
mod metrics;
mod nodes;
mod openapi;
mod operations;
mod output;
mod patch;
mod path;
mod peers;
mod pods;
mod priority;
mod proxies;
mod quota;
mod registry;
mod restrict;
mod reviews;
mod roles;
mod room;
mod runtimes;
mod scale;
mod server;
mod service;
mod splice;
mod standards;
mod status;
mod swagger;
mod table;
mod transport;
mod watch;
mod write;

pub use addresses::DNS;
pub use aggregation::Aggregator;
pub use audit::Audit;
pub use berth_access::Identity;
pub use body::{Body, BoxError};
pub use listen::ListenError;
pub use nodes::{NoNodes, NodeService, Nodes};
pub use operations::{Operations, Outcome, SharedOperations};
pub use peers::Peering;
pub use room::{Endless, Room};
pub use server::{ApiServer, Clock, Options, Peer, StartError};
pub use service::ApiService;

/// Where Secrets lie in the store.
pub const SECRETS: &str = "/registry/core/secrets/";

/// The level of the API served, as `/version` says it.
pub const VERSION: &str = "v1.35.0";
