//! Resources: what the server must know about a kind to serve it.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::custom::Custom;
use crate::schema::{Definition, Schema, Schemas};

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
pub struct Column<'a> {
    /// The heading.
    pub name: &'a str,
    /// `string`, `integer`, `date`.
    pub kind: &'a str,
    /// Shown by `-o wide` only.
    pub wide: bool,
}

impl<'a> Column<'a> {
    /// A text that is always shown.
    #[must_use]
    pub const fn text(name: &'a str) -> Self {
        Self { name, kind: "string", wide: false }
    }

    /// A number that is always shown.
    #[must_use]
    pub const fn number(name: &'a str) -> Self {
        Self { name, kind: "integer", wide: false }
    }

    /// A text shown on request.
    #[must_use]
    pub const fn wide(name: &'a str) -> Self {
        Self { name, kind: "string", wide: true }
    }
}

/// One served resource: a table row, not code.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// The API group, empty for the core.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// `Pod`.
    pub kind: &'a str,
    /// `pods`, as in paths.
    pub plural: &'a str,
    /// `pod`.
    pub singular: &'a str,
    /// `po`.
    pub short: &'a [&'a str],
    /// `all`.
    pub categories: &'a [&'a str],
    /// Where objects live.
    pub scope: Scope,
    /// What may be done with it; [`VERBS`], or `create` alone for questions that are answered and not kept.
    pub verbs: &'static [&'static str],
    /// The subresources served.
    pub subresources: &'a [Subresource],
    /// Fields that may be selected by, besides name and namespace.
    pub selectable: &'a [&'a str],
    /// Table columns after the name. The age is not among them: the server adds it at its place, `AGE`.
    pub columns: &'a [Column<'a>],
    /// The cells of those columns for one object.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// What a kind that was defined at run time has of its own; nothing for built-in kinds.
    pub custom: Option<&'a (dyn Custom + 'static)>,
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
    /// What serves HTTP there; the kind of its options.
    Proxy(&'static str),
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
            Self::Proxy(_) => "proxy",
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
            Self::Proxy(kind) => Some(("", "v1", kind)),
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
            Self::Proxy(_) => &["create", "delete", "get", "patch", "update"],
        }
    }
}

/// What may be done with every resource that is kept.
pub const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl<'a> Resource<'a> {
    /// `apps/v1`, or `v1` for the core.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The schema's name and the schema of a built-in kind.
    ///
    /// # Panics
    /// For a kind that was defined at run time.
    #[must_use]
    pub fn definition(&self) -> (&'static str, &'static Definition) {
        Schemas::builtin()
            .kind(self.group, self.version, self.kind)
            .expect("every built-in resource has a schema, which a test checks")
    }

    /// The schema.
    #[must_use]
    pub fn schema(&self) -> Schema<'a> {
        match self.custom {
            Some(custom) => Schema::Custom(custom),
            None => Schema::Table(self.definition().1),
        }
    }

    /// The cells of one object, for the columns.
    #[must_use]
    pub fn cells_of(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self.custom {
            Some(custom) => custom.cells(object, now),
            None => (self.cells)(object, now),
        }
    }

    /// Whether objects are kept; others are questions, answered on creation, or figures, made when somebody reads them.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.verbs.contains(&"watch")
    }

    /// Whether objects live in namespaces.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

/// The lists of a resource that was defined at run time.
#[derive(Debug, Default)]
pub struct Lists<'a> {
    /// Short names.
    pub short: Vec<&'a str>,
    /// Categories.
    pub categories: Vec<&'a str>,
    /// Fields that may be selected by.
    pub selectable: Vec<&'a str>,
    /// Table columns after the name.
    pub columns: Vec<Column<'a>>,
}

self_cell::self_cell!(
    struct Listed {
        owner: Arc<dyn Custom>,
        #[covariant]
        dependent: Lists,
    }
);

self_cell::self_cell!(
    struct Defined {
        owner: Listed,
        #[covariant]
        dependent: Resource,
    }
);

/// A resource that lasts as long as anybody holds it. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Held);

#[derive(Clone)]
enum Held {
    Builtin(&'static Resource<'static>),
    Defined(Arc<Defined>),
}

impl Handle {
    /// Holds a resource that was defined at run time, as its definition describes it.
    #[must_use]
    pub fn new(custom: Arc<dyn Custom>) -> Self {
        let listed = Listed::new(custom, |custom| custom.lists());
        let defined = Defined::new(listed, |listed| {
            listed.borrow_owner().resource(listed.borrow_dependent())
        });
        Self(Held::Defined(Arc::new(defined)))
    }

    /// The resource.
    #[must_use]
    pub fn get(&self) -> &Resource<'_> {
        match &self.0 {
            Held::Builtin(resource) => resource,
            Held::Defined(defined) => defined.borrow_dependent(),
        }
    }

    /// Whether both hold the very same resource.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Held::Builtin(one), Held::Builtin(other)) => std::ptr::eq(*one, *other),
            (Held::Defined(one), Held::Defined(other)) => Arc::ptr_eq(one, other),
            (Held::Builtin(_), Held::Defined(_)) | (Held::Defined(_), Held::Builtin(_)) => false,
        }
    }
}

impl From<&'static Resource<'static>> for Handle {
    fn from(resource: &'static Resource<'static>) -> Self {
        Self(Held::Builtin(resource))
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({} {})", self.get().api_version(), self.get().plural)
    }
}
