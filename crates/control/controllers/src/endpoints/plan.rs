//! What to do so that the slices say what is true, with few writes: a slice that is nearly right is changed rather than
//! replaced.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::ResourceExt;

use super::observe::{HEADLESS, MANAGED_BY, MANAGER, Observed, SERVICE_NAME};
use crate::object::{Labels, controller, is_going};

/// At most so many endpoints are in one slice.
pub const ROOM: usize = 100;

/// What a slice is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The family of its addresses, which stays as long as the slice.
    pub family: &'static str,
    /// Its labels.
    pub labels: Labels,
    /// Its annotations, where they are not left to others.
    pub annotations: Option<Labels>,
    /// Its ports.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make a slice.
    Create(Content),
    /// Let a slice say something else.
    Change {
        /// Its name.
        slice: String,
        /// What it is to say.
        content: Content,
    },
    /// Delete a slice.
    Delete {
        /// Its name.
        slice: String,
    },
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let mark = match (conditions.ready, conditions.serving, conditions.terminating) {
                (Some(true), ..) => "",
                (_, Some(true), Some(true)) => " (going)",
                (_, _, Some(true)) => " (gone)",
                _ => " (not ready)",
            };
            format!("{}{mark}", endpoint.addresses.join("+"))
        });
        let ports = self.ports.iter().map(|port| port.port.unwrap_or(0).to_string());
        let (endpoints, ports): (Vec<_>, Vec<_>) = (endpoints.collect(), ports.collect());
        write!(formatter, "[{}] at [{}]", endpoints.join(", "), ports.join(", "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(content) => write!(formatter, "create {content}"),
            Self::Change { slice, content } => write!(formatter, "change {slice} to {content}"),
            Self::Delete { slice } => write!(formatter, "delete {slice}"),
        }
    }
}

/// The steps to slices that say what is true.
#[must_use]
pub fn plan(observed: &Observed) -> Vec<Step> {
    let mut contents = Vec::new();
    for (ports, endpoints) in &observed.wanted {
        let chunks: Vec<_> = match endpoints.len() {
            0 => vec![Vec::new()],
            _ => endpoints.chunks(ROOM).map(<[Endpoint]>::to_vec).collect(),
        };
        for endpoints in chunks {
            contents.push(Content {
                family: "IPv4",
                labels: labels(observed),
                annotations: None,
                ports: ports.clone(),
                endpoints,
            });
        }
    }
    settle(observed.service.uid().as_ref(), &observed.slices, contents)
}

/// The steps from some slices to these contents, for an owner with this uid.
#[must_use]
pub fn settle(
    owner: Option<&String>,
    slices: &[Arc<EndpointSlice>],
    contents: Vec<Content>,
) -> Vec<Step> {
    let mut left: Vec<_> = slices.iter().filter(|slice| !is_going(slice.as_ref())).collect();
    let mut steps = Vec::new();
    // Of an owner of the same name that was there before: the garbage collector's, but its addresses are wrong now.
    left.retain(|slice| {
        let ours = controller(slice.as_ref()).map(|owner| &owner.uid) == owner;
        if !ours {
            steps.push(Step::Delete { slice: slice.name_any() });
        }
        ours
    });
    // Those that are right already, then those of the same ports, then any.
    let mut missing = Vec::new();
    for content in contents {
        match left.iter().position(|slice| says(slice, &content)) {
            Some(at) => {
                left.swap_remove(at);
            }
            None => missing.push(content),
        }
    }
    for content in missing {
        let fits = |slice: &&Arc<EndpointSlice>| slice.address_type == content.family;
        let same_ports = left.iter().position(|slice| {
            fits(slice) && slice.ports.as_deref().unwrap_or_default() == content.ports
        });
        steps.push(match same_ports.or_else(|| left.iter().position(fits)) {
            Some(at) => Step::Change { slice: left.swap_remove(at).name_any(), content },
            None => Step::Create(content),
        });
    }
    steps.extend(left.into_iter().map(|slice| Step::Delete { slice: slice.name_any() }));
    steps
}

fn labels(observed: &Observed) -> Labels {
    let service = observed.service.as_ref();
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    if address == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn says(slice: &EndpointSlice, content: &Content) -> bool {
    let annotations = content.annotations.as_ref();
    slice.address_type == content.family
        && *slice.labels() == content.labels
        && annotations.is_none_or(|annotations| slice.annotations() == annotations)
        && slice.ports.as_deref().unwrap_or_default() == content.ports
        && slice.endpoints == content.endpoints
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
