//! Containers from an OCI runtime configuration held in memory.
//!
//! The engine underneath every pod: namespaces, cgroups, mounts and processes by direct kernel calls. Whatever can be
//! computed, looked up or allocated happens before the clone; the child only walks prepared lists. This keeps it correct in
//! threaded callers and is also why it is fast. Every mount enters the container as a descriptor, after the old root is
//! gone, so that no path of the image can lead outside.

pub mod cgroup;
pub mod container;
pub mod held;
pub mod hook;
pub mod mapping;
pub mod namespaces;
mod removal;
pub mod rootfs;
pub mod seccomp;
pub mod user;

mod channel;
mod child;
mod init;
mod inside;
pub mod labels;
mod layers;
mod mounts;
mod process;
mod sealed;

pub use container::{Container, CreateError, CreateRequest, ExecRequest, Processes, Stdio};
pub use layers::{LAYER, LAYERS};
pub use mounts::{SUB_PATH, known_options, propagation};
pub use namespaces::{IdMapping, Namespaces};
pub use process::capabilities;
pub use removal::remove_tree;
pub use rootfs::Rootfs;

/// Capabilities of every container and build step that asks for no others. Raw sockets, device nodes and the audit log are not among them.
pub const DEFAULT_CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
