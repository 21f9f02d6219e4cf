//! What the node agent and a shim say to each other: length-prefixed JSON, with descriptors beside the first byte.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use berth_runtime::namespaces::NamespacesRequest;
use berth_runtime::{IdMapping, Rootfs};
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Frames beyond this size are refused. A configuration with a megabyte of environment fits.
const LIMIT: u32 = 8 << 20;

/// What the agent asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Creates the pod's namespaces; answered with [`Reply::Sandbox`] and the network namespace, if it has its own.
    CreateSandbox(Sandbox),
    /// Starts a container; answered with [`Reply::Started`].
    Start(Box<Start>),
    /// Runs a further process with the three descriptors that come along, or a terminal that goes back; answered with
    /// [`Reply::Started`] and, when it ends, [`Reply::Exited`].
    Exec(Box<Exec>),
    /// Copies further output of a container into the two descriptors that come along; answered with
    /// [`Reply::Attached`] and the container's input, if it has one.
    Attach {
        /// Which container.
        container: String,
    },
    /// Sends a signal to a container's first process.
    Signal {
        /// Which container.
        container: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Closes the container's standard input, once its `stdinOnce` client has gone.
    CloseInput {
        /// Which container.
        container: String,
    },
    /// Asks what runs; answered with [`Reply::State`] and the network namespace, if the pod has its own.
    State,
    /// From now on this connection receives [`Reply::Exited`] for every container that ends.
    Subscribe,
    /// Forgets a container that has ended.
    Forget {
        /// Which container.
        container: String,
    },
    /// Kills everything and leaves; answered just before the end.
    Shutdown,
}

/// Whose processes a pod's containers see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    /// Each its own.
    #[default]
    Own,
    /// Those of the pod.
    Pod,
    /// All of the machine.
    Host,
}

/// The namespaces of a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// First host id and size of the user namespace.
    pub user: Option<(u32, u32)>,
    /// An own network namespace.
    pub network: bool,
    /// An own IPC namespace.
    pub ipc: bool,
    /// Who sees whose processes.
    #[serde(default)]
    pub processes: Visibility,
    /// Host name, with an own UTS namespace.
    pub hostname: Option<String>,
    /// Kernel parameters of these namespaces.
    pub sysctls: Vec<(String, String)>,
}

impl Sandbox {
    pub(crate) fn to_request(&self) -> NamespacesRequest {
        NamespacesRequest {
            user: self.mapping(),
            network: self.network,
            ipc: self.ipc,
            processes: self.processes == Visibility::Pod,
            hostname: self.hostname.clone(),
            sysctls: self.sysctls.clone(),
        }
    }

    pub(crate) fn mapping(&self) -> Option<IdMapping> {
        self.user.map(|(host, size)| IdMapping { host, size })
    }
}

/// Where a container's files come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Root {
    /// Layer directories, lowest first, and the directory for what the container writes.
    Overlay {
        /// Layers.
        lower: Vec<PathBuf>,
        /// Writable directory, empty and used once.
        scratch: PathBuf,
    },
    /// A plain directory.
    Directory(PathBuf),
}

impl Root {
    pub(crate) fn to_rootfs(&self) -> Rootfs {
        match self.clone() {
            Self::Overlay { lower, scratch } => {
                Rootfs::Overlay { lower, upper: scratch.join("upper"), work: scratch.join("work") }
            }
            Self::Directory(path) => Rootfs::Directory(path),
        }
    }
}

/// Which filter a process gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Filter {
    /// None.
    Unconfined,
    /// The default profile, widened by the process's capabilities.
    RuntimeDefault,
    /// The one in the configuration of the container, also for its further processes.
    Configured,
}

/// A container to start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// Its name, unique among the pod's containers and their restarts.
    pub container: String,
    /// OCI runtime configuration.
    pub spec: Spec,
    /// Files.
    pub root: Root,
    /// User or group by name, from the image.
    pub user: Option<String>,
    /// Cgroup below every hierarchy, created and limited already.
    pub cgroup: PathBuf,
    /// Filter.
    pub filter: Filter,
    /// Keep standard input open for attachments.
    pub stdin: bool,
    /// Rows and columns of a terminal.
    pub terminal: Option<(u16, u16)>,
    /// The container whose processes it sees and shares the pid namespace with, where each has its own.
    #[serde(default)]
    pub processes_of: Option<String>,
    /// Log file, in the CRI format.
    pub log: PathBuf,
    /// Size at which the log file is rotated, in bytes.
    pub log_size: u64,
    /// Log files kept, the current one included.
    pub log_files: u32,
}

/// A further process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Which container.
    pub container: String,
    /// The process.
    pub process: Process,
    /// User or group by name.
    pub user: Option<String>,
    /// Filter.
    pub filter: Filter,
    /// Rows and columns of a terminal.
    pub terminal: Option<(u16, u16)>,
}

/// What a shim answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The sandbox stands.
    Sandbox,
    /// The process runs.
    Started {
        /// Pid on the host.
        pid: i32,
    },
    /// From this offset of the log file on, output goes to the attachment too.
    Attached {
        /// Bytes in the current log file.
        offset: u64,
        /// Nobody was attached to the container before.
        #[serde(default)]
        first: bool,
    },
    /// What runs, and what ran and is not yet forgotten.
    State(Vec<ContainerState>),
    /// A process ended. `container` is empty for a further process.
    Exited {
        /// Which container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// It could not be done.
    Failed {
        /// The whole chain of reasons.
        message: String,
        /// Exit code that stands for the failure, where it is a start.
        exit_code: i32,
    },
}

/// A container as its shim knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    /// Name.
    pub container: String,
    /// Pid on the host.
    pub pid: i32,
    /// Start, in nanoseconds since the epoch.
    pub started: i64,
    /// End, if it has ended.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 and the signal for a killed process.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for lack of memory.
    pub out_of_memory: bool,
    /// When, in nanoseconds since the epoch.
    pub finished: i64,
}

/// Writes one message.
///
/// # Errors
/// When the peer is gone.
pub fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    let mut sent = berth_sys::socket::send(&socket, &frame, descriptors)?;
    while sent < frame.len() {
        sent += berth_sys::socket::send(&socket, &frame[sent..], &[])?;
    }
    Ok(())
}

/// Reads one message; `None` once the peer has closed.
///
/// # Errors
/// Broken frames, and frames that are too large.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0_u8; 4];
    let (mut have, mut descriptors) = berth_sys::socket::receive(&socket, &mut header)?;
    if have == 0 {
        return Ok(None);
    }
    while have < header.len() {
        have += more(&socket, &mut header[have..], &mut descriptors)?;
    }
    let length = u32::from_le_bytes(header);
    if length > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too large"));
    }
    let mut body = vec![0_u8; length as usize];
    let mut have = 0;
    while have < body.len() {
        have += more(&socket, &mut body[have..], &mut descriptors)?;
    }
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

fn more(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let (length, further) = berth_sys::socket::receive(socket, bytes)?;
    descriptors.extend(further);
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(length)
}
