//! The API server's way to the node agent of the same process.

use std::sync::{Arc, OnceLock};

use berth_agent::access::Access;
use berth_apiserver::{NodeService, Nodes};

/// The one node of this process, known once its agent runs.
#[derive(Clone, Default)]
pub struct OwnNode(Arc<OnceLock<(String, Access)>>);

impl OwnNode {
    /// Says which node it is.
    pub fn set(&self, name: String, access: Access) {
        // A second agent in one process does not exist.
        let _first = self.0.set((name, access));
    }
}

impl Nodes for OwnNode {
    fn connect(&self, node: &str) -> Option<NodeService> {
        let (name, access) = self.0.get()?;
        (name == node).then(|| NodeService::new(access.clone()))
    }
}
