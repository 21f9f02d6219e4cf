//! Resources: what the server must know about a kind to serve it.

use jiff::Timestamp;
use serde_json::Value;

use crate::schema::{Definition, Schemas};

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One set for the whole cluster.
    Cluster,
    /// One set in each namespace.
    Namespaced,
}

/// A column of a printed table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// Shown by `-o wide` only.
    pub wide: bool,
}

impl Column {
    /// A text that is always shown.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: "string", wide: false }
    }

    /// A number that is always shown.
    #[must_use]
    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: "integer", wide: false }
    }

    /// A text shown on request.
    #[must_use]
    pub const fn wide(name: &'static str) -> Self {
        Self { name, kind: "string", wide: true }
    }
}

/// One served resource: a table row, not code.
#[derive(Debug)]
pub struct Resource {
    /// The API group, empty for the core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`, as in paths.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Where objects live.
    pub scope: Scope,
    /// What may be done with it; [`VERBS`], or `create` alone for questions that are answered and not kept.
    pub verbs: &'static [&'static str],
    /// The subresources served.
    pub subresources: &'static [Subresource],
    /// Fields that may be selected by, besides name and namespace.
    pub selectable: &'static [&'static str],
    /// Table columns after the name. The age is not among them: the server adds it at its place, `AGE`.
    pub columns: &'static [Column],
    /// The cells of those columns for one object.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A part of an object with a path of its own, or an action on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// Written by controllers, apart from the rest.
    Status,
    /// The number of replicas, alike for all kinds that have one.
    Scale,
    /// The scheduler's choice.
    Binding,
    /// A deletion that may be refused.
    Eviction,
    /// A debugging container added to a running pod.
    EphemeralContainers,
    /// A change of resources of a running pod.
    Resize,
    /// The end of a namespace.
    Finalize,
    /// A service account's token.
    Token,
    /// Whether a certificate may be issued.
    Approval,
    /// Output of a container.
    Log,
    /// A process in a container.
    Exec,
    /// The streams of a container's own process.
    Attach,
    /// A port of a pod.
    PortForward,
}

impl Subresource {
    /// Its name in paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Finalize => "finalize",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }

    /// Group, version and kind of its body, where it is not that of the object.
    #[must_use]
    pub fn body(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::Scale => Some(("autoscaling", "v1", "Scale")),
            Self::Binding => Some(("", "v1", "Binding")),
            Self::Eviction => Some(("policy", "v1", "Eviction")),
            Self::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            Self::Exec => Some(("", "v1", "PodExecOptions")),
            Self::Attach => Some(("", "v1", "PodAttachOptions")),
            Self::PortForward => Some(("", "v1", "PodPortForwardOptions")),
            Self::Status
            | Self::Approval
            | Self::EphemeralContainers
            | Self::Resize
            | Self::Finalize
            | Self::Log => None,
        }
    }

    /// What may be done with it.
    #[must_use]
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status
            | Self::Approval
            | Self::Scale
            | Self::EphemeralContainers
            | Self::Resize => &["get", "patch", "update"],
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Finalize => &["update"],
            Self::Log => &["get"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
        }
    }
}

/// What may be done with every resource that is kept.
pub const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Resource {
    /// `apps/v1`, or `v1` for the core.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The schema's name and the schema.
    #[must_use]
    pub fn schema(&self) -> (&'static str, &'static Definition) {
        Schemas::builtin()
            .kind(self.group, self.version, self.kind)
            .expect("every resource has a schema, which a test checks")
    }

    /// Whether objects are kept; others are questions, answered on creation.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.verbs.contains(&"get")
    }

    /// Whether objects live in namespaces.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}
