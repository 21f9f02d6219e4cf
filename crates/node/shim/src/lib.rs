//! The small process that keeps a pod when the server restarts.
//!
//! One shim per pod holds what would otherwise die with the server: the pod's namespaces, its processes as children, their
//! output on its way to the log files, and their exit codes. It is forked, not executed, from a single-threaded [`zygote`],
//! so that all shims of a node share the pages of one program image.

pub mod client;
pub mod log;
pub mod protocol;
pub mod zygote;

mod container;
mod exit_file;
mod server;

pub use client::Shim;
pub use zygote::Zygote;
