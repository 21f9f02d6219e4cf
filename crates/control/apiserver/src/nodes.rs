//! The way to a node, for what only the node can answer: logs, exec, attach, port-forward.

use http::{Request, Response};
use tower::util::BoxCloneSyncService;

use crate::{Body, BoxError};

/// A node's own HTTP service. It speaks the paths of a kubelet: `/containerLogs/{namespace}/{pod}/{container}`,
/// `/exec/…`, `/attach/…`, `/portForward/{namespace}/{pod}`. A request that wants an upgrade arrives with hyper's
/// `OnUpgrade` in its extensions; the service answers 101 and then uses it.
pub type NodeService = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Finds nodes by name. Must not block.
pub trait Nodes: Send + Sync + 'static {
    /// The node's service, if the node can be reached.
    fn connect(&self, node: &str) -> Option<NodeService>;
}

/// No node can be reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNodes;

impl Nodes for NoNodes {
    fn connect(&self, _node: &str) -> Option<NodeService> {
        None
    }
}
