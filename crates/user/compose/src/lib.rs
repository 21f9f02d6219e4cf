//! Compose files: loaded with positions, checked, and turned into Kubernetes objects.
//!
//! [`load`] reads a project in steps that each do one thing: read, interpolate, bring to the long forms, extend, merge,
//! include (`source`), compare with the specification (`schema`), type (`typing`) and judge as a whole (`check`). Every
//! mistake is reported with file, line and column, all of them in one go, and what has no effect is a [`Finding`].
//! [`objects`] then says what the project is in a cluster; it reads nothing and can run anywhere.

mod check;
mod load;
mod model;
mod objects;
mod order;
mod report;
mod schema;
mod source;
mod typing;
mod value;

pub use load::{LoadError, LoadRequest, load};
pub use model::{
    BindKind, Build, Condition, Content, Dependency, Dns, FileMount, FileSource, Health,
    HealthCheck, Mount, MountSource, Network, NetworkMode, Port, Project, Protocol, PullPolicy,
    Resources, Restart, Security, Service, Volume,
};
pub use objects::{ObjectsError, Planned, Published, ServiceImage, objects, published};
pub use order::order;
pub use report::{Finding, Level, Position, Problem};
