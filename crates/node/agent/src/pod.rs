//! One pod on this node: what is, what follows, and doing it.

pub mod apply;
pub mod ephemeral;
pub mod hook;
mod names;
pub mod observe;
pub mod plan;
mod refuse;
pub mod resize;
mod rest;
pub mod worker;
