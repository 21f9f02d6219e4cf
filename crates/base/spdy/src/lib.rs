//! The server side of SPDY/3.1, as far as Kubernetes clients speak it: streams that the client opens, with headers, in both
//! directions, over one connection.
//!
//! No maintained library speaks SPDY any more, and port-forward knows no other protocol. Flow-control windows are left out
//! on purpose: the clients in the field neither send nor heed them. A stream that nobody reads therefore holds up its
//! connection once [`WINDOW`] chunks wait for it.

mod frame;
#[cfg(test)]
mod fuzz;
mod headers;
mod session;

pub use headers::Headers;
pub use session::{Closed, Output, Session, Stream, WINDOW, serve};

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// The peer does not keep to the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}
