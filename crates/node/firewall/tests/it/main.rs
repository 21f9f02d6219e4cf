//! Rules in the real kernel, in network namespaces of their own. Needs root, `ip` and `nft`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod rules;
mod support;
mod traffic;
