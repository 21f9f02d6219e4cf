//! Services and network policies as flat nftables maps and sets.
//!
//! The rules are few and constant; what changes is elements. A Service, an endpoint or a pod is one or two elements, so an
//! update costs the same at ten Services and at ten thousand. The kernel is told over netlink by our own encoder, since the
//! existing ones spawn processes, need a C library, or are not permissively licensed.

pub mod kernel;
pub mod ruleset;

mod expression;
mod wire;

pub use kernel::{Firewall, FirewallError};
pub use ruleset::{Backend, Frontend, PolicySet, Protocol, Ruleset};
