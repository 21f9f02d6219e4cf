//! A routed interface and an address for every pod.
//!
//! There is no bridge: each pod has a pair of interfaces, a /32 address and one route on the host. The kernel's routing
//! then is the switch, a forged source address fails its reverse-path check, and all traffic passes one forwarding hook,
//! where policies are.

pub mod address;
pub mod dial;
pub mod node;
pub mod pod;

mod route;

pub use address::{Addresses, Exhausted};
pub use node::NodeNetwork;
pub use pod::Attachment;
pub use route::NetworkError;
