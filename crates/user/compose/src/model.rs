//! What a Compose file means, with every form normalised and every value checked.
//!
//! Names come in two kinds: the key in the file, by which people speak of a service, and `object_name`, the DNS-1123
//! form by which the cluster knows it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use crate::report::{Finding, Position};

/// A loaded project.
#[derive(Debug, Clone)]
pub struct Project {
    /// The project's name, a DNS-1123 label; the namespace of its objects.
    pub name: String,
    /// Where relative paths begin.
    pub directory: PathBuf,
    /// The files it was read from, without included ones.
    pub files: Vec<PathBuf>,
    /// The services whose profiles are active, by their key in the file.
    pub services: IndexMap<String, Service>,
    /// Networks, including `default` when a service is on it.
    pub networks: IndexMap<String, Network>,
    /// Named volumes.
    pub volumes: IndexMap<String, Volume>,
    /// Secrets with their content.
    pub secrets: IndexMap<String, FileSource>,
    /// Configs with their content.
    pub configs: IndexMap<String, FileSource>,
    /// What has no effect or another one than with Docker.
    pub findings: Vec<Finding>,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name in the cluster.
    pub object_name: String,
    /// Where it is defined.
    pub position: Position,
    /// The image to run, or the name for the one that is built.
    pub image: Option<String>,
    /// How to build the image.
    pub build: Option<Build>,
    /// When the image is pulled.
    pub pull_policy: Option<PullPolicy>,
    /// The processor architecture it needs, in the cluster's words (`amd64`).
    pub architecture: Option<String>,
    /// Replaces the image's entry point. An empty list removes it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Environment variables, from `env_file` and `environment`.
    pub environment: IndexMap<String, String>,
    /// Directory the process starts in.
    pub working_dir: Option<String>,
    /// User and group, each a number or a name.
    pub user: Option<String>,
    /// Ports published outside the cluster.
    pub ports: Vec<Port>,
    /// Ports that peers use.
    pub expose: Vec<(u16, Protocol)>,
    /// What must be there first, by service key.
    pub depends_on: IndexMap<String, Dependency>,
    /// What happens when it ends.
    pub restart: Restart,
    /// Volumes, bind mounts and memory file systems.
    pub mounts: Vec<Mount>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Secrets to mount.
    pub secrets: Vec<FileMount>,
    /// Configs to mount.
    pub configs: Vec<FileMount>,
    /// How it is connected.
    pub network: NetworkMode,
    /// Further DNS names: aliases, container name, host name, links.
    pub aliases: Vec<String>,
    /// How to tell whether it works. None leaves that to the image.
    pub health: Option<Health>,
    /// How many of it run.
    pub replicas: u32,
    /// Whether an update starts the new one first. None means wherever that is possible.
    pub start_first: Option<bool>,
    /// No virtual address; the name resolves to the pods.
    pub headless: bool,
    /// Processor and memory.
    pub resources: Resources,
    /// Privileges.
    pub security: Security,
    /// How long it may take to stop.
    pub stop_grace_period: Duration,
    /// The signal that asks it to stop, with `SIG`.
    pub stop_signal: Option<String>,
    /// A terminal as standard input and output.
    pub tty: bool,
    /// Standard input stays open.
    pub stdin_open: bool,
    /// The pod's host name.
    pub hostname: Option<String>,
    /// The pod's subdomain.
    pub domainname: Option<String>,
    /// Lines of `/etc/hosts`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Resolver settings.
    pub dns: Dns,
    /// The node's process namespace.
    pub host_pid: bool,
    /// The node's IPC namespace.
    pub host_ipc: bool,
    /// Labels and annotations of the containers.
    pub annotations: IndexMap<String, String>,
    /// Labels of the service as a whole (`deploy.labels`).
    pub deploy_annotations: IndexMap<String, String>,
    /// Limits by name: soft and hard, -1 for none.
    pub ulimits: IndexMap<String, (i64, i64)>,
}

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The context directory, absolute, or an address.
    pub context: String,
    /// The Dockerfile, relative to the context.
    pub dockerfile: Option<PathBuf>,
    /// The Dockerfile's text.
    pub dockerfile_inline: Option<String>,
    /// Build arguments; those without a value anywhere are left out.
    pub args: IndexMap<String, String>,
    /// The stage to build.
    pub target: Option<String>,
    /// Labels of the image.
    pub labels: IndexMap<String, String>,
    /// Build everything anew.
    pub no_cache: bool,
    /// Pull base images even if present.
    pub pull: bool,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time a container starts.
    Always,
    /// Never.
    Never,
    /// When it is not there.
    Missing,
    /// It is built, even if there is one.
    Build,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Reads `tcp`, `udp` or `sctp` in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.as_str().to_ascii_lowercase())
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The address of the node to listen on; all if absent.
    pub address: Option<IpAddr>,
    /// The port outside; chosen by the cluster if absent.
    pub published: Option<u16>,
    /// The port in the container.
    pub target: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The protocol above, for example `http`.
    pub app_protocol: Option<String>,
    /// Where it is written.
    pub position: Position,
}

/// What a service waits for before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// What must hold.
    pub condition: Condition,
    /// Whether starting fails when the condition cannot be met.
    pub required: bool,
}

/// The state a dependency must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Its container runs.
    Started,
    /// Its health check passes.
    Healthy,
    /// It ended with exit code 0.
    CompletedSuccessfully,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Not said.
    Default,
    /// It stays ended.
    No,
    /// Started again if it failed.
    OnFailure,
    /// Started again.
    Always,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path in the container.
    pub target: String,
    /// Writing is refused.
    pub read_only: bool,
    /// What is mounted.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A named volume, by its key in the file.
    Volume {
        /// Key of the volume.
        volume: String,
        /// A directory inside it.
        subpath: Option<String>,
    },
    /// An empty directory that lives as long as the pod.
    Anonymous,
    /// A path on the node.
    Bind {
        /// The absolute path.
        path: PathBuf,
        /// What the path is expected to be.
        kind: BindKind,
        /// Kubernetes' word for the mount propagation.
        propagation: Option<&'static str>,
    },
    /// Memory, with a limit in bytes.
    Memory {
        /// At most this many bytes.
        size: Option<u64>,
    },
}

/// What a bound path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindKind {
    /// A directory, created if it is not there.
    DirectoryOrCreate,
    /// A directory that must exist.
    Directory,
    /// A file.
    File,
    /// A Unix socket.
    Socket,
    /// Any of them, as it is found.
    Any,
}

/// A secret or config in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMount {
    /// Key of the secret or config.
    pub source: String,
    /// The file's absolute path.
    pub target: String,
    /// Permission bits.
    pub mode: u32,
}

/// How a service is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// To these networks, by key.
    Networks(Vec<String>),
    /// It uses the node's network.
    Host,
    /// Not at all.
    None,
}

/// How to tell whether a service works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It is not checked, whatever its image says.
    Disabled,
    /// By running a command in its container.
    Check(HealthCheck),
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The command; none takes the one of the image.
    pub command: Option<Vec<String>>,
    /// Between two checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// Time in which failures do not count.
    pub start_period: Duration,
    /// Between two checks in that time.
    pub start_interval: Option<Duration>,
}

impl Default for HealthCheck {
    /// The times that hold when a file does not give them.
    fn default() -> Self {
        Self {
            command: None,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
            start_interval: None,
        }
    }
}

/// Processor and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Limit in thousandths of a processor.
    pub processor_limit: Option<u64>,
    /// Reservation in thousandths of a processor.
    pub processor_request: Option<u64>,
    /// Limit in bytes.
    pub memory_limit: Option<u64>,
    /// Reservation in bytes.
    pub memory_request: Option<u64>,
    /// Limit of processes.
    pub processes: Option<u64>,
}

/// Privileges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// Everything is allowed.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// Added capabilities, without `CAP_`.
    pub add: Vec<String>,
    /// Dropped capabilities, without `CAP_`.
    pub drop: Vec<String>,
    /// No process gains privileges.
    pub no_new_privileges: bool,
    /// No system call filter.
    pub seccomp_unconfined: bool,
    /// No `AppArmor` profile.
    pub apparmor_unconfined: bool,
    /// Additional groups, by number.
    pub groups: Vec<u32>,
    /// Kernel parameters.
    pub sysctls: IndexMap<String, String>,
}

/// Resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Options: name and value.
    pub options: Vec<(String, Option<String>)>,
}

/// A network: who may talk to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name in labels and policies.
    pub object_name: String,
    /// Shared with other projects.
    pub external: bool,
    /// Nothing leaves it.
    pub internal: bool,
}

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The name of its claim.
    pub object_name: String,
    /// It exists already.
    pub external: bool,
    /// A path of the node that it stands for (`driver_opts` with `o: bind`).
    pub bind: Option<PathBuf>,
    /// Its labels.
    pub annotations: IndexMap<String, String>,
}

/// A secret or config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    /// The name of its object.
    pub object_name: String,
    /// What is in it; none if it exists already in the cluster.
    pub content: Option<Content>,
}

/// Bytes that are not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(Vec<u8>);

impl Content {
    /// Wraps the bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Content({} bytes)", self.0.len())
    }
}

impl Project {
    /// Whether the service runs once: another one waits for its successful end.
    #[must_use]
    pub fn runs_once(&self, service: &str) -> bool {
        self.awaited(service) == Some(Condition::CompletedSuccessfully)
    }

    /// The furthest condition that others await from this service.
    #[must_use]
    pub fn awaited(&self, service: &str) -> Option<Condition> {
        self.services
            .values()
            .filter_map(|other| other.depends_on.get(service))
            .map(|dependency| dependency.condition)
            .max()
    }
}
