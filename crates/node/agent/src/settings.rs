//! What an agent is told when it starts.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use berth_network::NodeNetwork;

use crate::limits::Limits;
use crate::static_pods::Folder;

/// How long a container may take to end when its pod does not say, in seconds.
pub(crate) const GRACE: i64 = 30;

/// Settings of a node agent, checked by whoever fills them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the node, and of its Node object.
    pub node: String,
    /// Address other machines reach this node at.
    pub address: Ipv4Addr,
    /// Directory of everything the agent keeps.
    pub data: PathBuf,
    /// Directory of the image store.
    pub images: PathBuf,
    /// Directory of the sockets of device plugins.
    pub device_plugins: PathBuf,
    /// The berth binary, to execute as the shims' parent.
    pub program: PathBuf,
    /// Prefix of cgroups and name of the nftables table.
    pub instance: String,
    /// The pod network.
    pub network: NodeNetwork,
    /// Domain of Services, `cluster.local` by convention.
    pub domain: String,
    /// Registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// How the node keeps room for itself.
    pub limits: Limits,
    /// Where static pods come from, if from anywhere.
    pub static_pods: Option<Folder>,
}
