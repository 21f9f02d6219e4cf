//! What only the program as a whole can do, and the file by which its processes find each other.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_build::StepRunner;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Why the host could not do it. It is printed with its causes.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

/// How a server came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It ran before.
    Already,
    /// It was started just now.
    Now,
}

/// What a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSettings {
    /// Directory of everything it keeps.
    pub data: PathBuf,
    /// Where the API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The node's name; the machine's if absent.
    pub node_name: Option<String>,
    /// Addresses of pods.
    pub pod_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// What the names of its interfaces, cgroups and packet rules begin with; 1 to 8 letters.
    pub instance: String,
    /// File with the keys that seal Secrets; within the data directory if absent.
    pub secrets_key: Option<PathBuf>,
    /// File with the audit policy; the built-in one if absent.
    pub audit_policy: Option<PathBuf>,
    /// File with the identity providers whose tokens name people; none if absent.
    pub authentication_config: Option<PathBuf>,
    /// File with what the node keeps for itself; the built-in limits if absent.
    pub node_config: Option<PathBuf>,
    /// Directory of the sockets of device plugins; within the data directory if absent.
    pub device_plugins: Option<PathBuf>,
    /// The audit log; within the data directory if absent.
    pub audit_log: Option<PathBuf>,
    /// Where the cluster's state is kept; in a file of the data directory if absent.
    pub store: Option<EtcdSettings>,
    /// Registries spoken to without TLS.
    pub insecure_registries: Vec<String>,
}

/// An etcd for the cluster's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// File with the certificates that members must be signed by.
    pub authority: Option<PathBuf>,
    /// Files with our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What a restore is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSettings {
    /// Directory of everything the server will keep.
    pub data: PathBuf,
    /// The backup.
    pub backup: PathBuf,
    /// Where the cluster's state will be kept; in a file of the data directory if absent.
    pub store: Option<EtcdSettings>,
    /// What opens the keys in the backup; without it they are not touched.
    pub passphrase: Option<String>,
    /// File with the keys that seal Secrets; within the data directory if absent.
    pub secrets_key: Option<PathBuf>,
    /// Whether what is there may be replaced.
    pub replace: bool,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// How many records.
    pub records: usize,
    /// When the backup was made.
    pub created_at: String,
    /// By which program.
    pub created_by: String,
    /// Where the key file has to be put, if it is not there.
    pub missing_keys: Option<PathBuf>,
}

/// The rest of the program, as the commands need it.
pub trait Host: Send + Sync {
    /// Makes sure that a server runs for this data directory, starting one in the background if there is none, and
    /// returns when it is ready. Must be cheap when there is one.
    fn ensure_server<'a>(&'a self, data: &'a Path) -> BoxFuture<'a, Result<Started, HostError>>;

    /// What runs the steps of a Dockerfile.
    fn step_runner(&self, data: &Path) -> Arc<dyn StepRunner>;

    /// Runs a server until it is told to end by a signal.
    fn serve(&self, settings: ServeSettings) -> BoxFuture<'_, Result<(), HostError>>;

    /// Fills a data directory or an etcd from a backup. On failure nothing was changed, unless the error says otherwise.
    fn restore(&self, settings: RestoreSettings) -> BoxFuture<'_, Result<Restored, HostError>>;

    /// Ends the server of this data directory and removes pods, interfaces, packet rules and cgroups, and the objects of
    /// the cluster. Images and volumes stay. Without effect where nothing is.
    fn teardown<'a>(&'a self, data: &'a Path) -> BoxFuture<'a, Result<(), HostError>>;
}

/// `<data>/server.json`: the server that runs for a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// Its process.
    pub pid: u32,
    /// Where its API listens.
    pub address: SocketAddr,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

/// How long a server on this machine may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

impl ServerState {
    /// Where it is kept.
    #[must_use]
    pub fn path(data: &Path) -> PathBuf {
        data.join("server.json")
    }

    /// Reads it; none if no server was ever started here.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn read(data: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(Self::path(data)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it, so that readers see the old or the new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let path = Self::path(data);
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(aside, path)
    }

    /// Whether the server accepts connections.
    pub async fn answers(&self) -> bool {
        let connect = tokio::net::TcpStream::connect(self.address);
        matches!(tokio::time::timeout(CONNECT, connect).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_found_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ServerState::read(folder.path()).unwrap(), None);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = ServerState { pid: 1, address, kubeconfig: folder.path().join("kubeconfig") };
        state.write(folder.path()).unwrap();
        assert_eq!(ServerState::read(folder.path()).unwrap(), Some(state.clone()));
        assert!(state.answers().await);
        drop(listener);
        assert!(!state.answers().await);
    }
}
