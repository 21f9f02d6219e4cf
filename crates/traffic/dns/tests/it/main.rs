//! The server as its clients see it: real sockets, a scripted API and scripted resolvers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod cluster;
mod outside;
mod peer;
mod server;
