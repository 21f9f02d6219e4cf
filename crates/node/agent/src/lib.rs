//! Turns the pods bound to this node into running containers.
//!
//! The agent knows the cluster only through its client: it watches pods, reports status and obeys deletions, like the
//! kubelet it stands for, so it works under any Kubernetes API server. Containers belong to shims; the agent may be killed
//! at any time and finds them again when it starts.

pub mod access;
pub mod limits;
pub mod node;
pub mod settings;
mod token;
pub mod traffic;

mod agent;
mod capacity;
mod command;
mod config;
mod devices;
mod directory;
mod environment;
mod event;
mod groups;
mod http;
mod huge_pages;
mod image;
mod leave;
mod log;
mod lookup;
mod pod;
mod pressure;
mod probe;
mod reclaim;
mod rhythm;
mod roster;
mod static_pods;
mod stats;
mod status;
mod stream;
mod tally;
mod usage;
mod volume;

pub use agent::{Agent, AgentError};
pub use limits::{Limits, LimitsError};
pub use settings::Settings;
pub use static_pods::Folder;
pub use volume::unmount_below;
