//! The API server as its clients see it: in memory, and through the network with the real kubectl.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod aggregation;
mod audit;
mod bindings;
mod contract;
mod custom;
mod fairness;
mod forbidden;
mod hooks;
mod kinds;
mod kubectl;
mod metrics;
mod nonsense;
mod pages;
mod patches;
mod people;
mod policies;
mod proxies;
mod quotas;
mod recorded;
mod recording;
mod reference;
mod samples;
mod script;
mod servers;
mod standards;
mod suite;
mod support;
mod watches;
mod wire;
