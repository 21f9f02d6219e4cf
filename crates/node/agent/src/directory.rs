//! Where a pod keeps its things on the node, and the record that lets a new agent take over.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What must survive the agent. Written before each step that depends on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Its address on the pod network.
    pub address: Option<Ipv4Addr>,
    /// First host id of its user namespace.
    pub user: Option<u32>,
    /// Whether its namespaces were made.
    pub sandbox: bool,
    /// Containers by name.
    pub containers: BTreeMap<String, ContainerRecord>,
}

/// A container over its restarts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Number of starts so far.
    pub starts: u32,
    /// When the current instance was started.
    pub started: Option<Timestamp>,
    /// Image name and digest of the current instance.
    pub image: Option<(String, String)>,
    /// How the current instance ended.
    pub ended: Option<Ended>,
    /// How the one before ended.
    pub previous: Option<Ended>,
    /// Starts in a row that did not last, for the back-off.
    pub failures: u32,
}

/// The end of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Instance.
    pub instance: String,
    /// Exit code.
    pub code: i32,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// What the container wrote to its termination log, or why it did not start.
    pub message: Option<String>,
    /// Start.
    pub started: Option<Timestamp>,
    /// End.
    pub finished: Timestamp,
}

impl ContainerRecord {
    /// The name of the current instance in the shim and in file names.
    pub fn instance(&self, container: &str) -> String {
        format!("{container}.{}", self.starts)
    }

    /// How often the container was started again.
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }
}

/// A pod's directory.
#[derive(Debug, Clone)]
pub struct PodDirectory(PathBuf);

impl PodDirectory {
    /// The directory of the pod with this UID below the agent's.
    pub fn of(data: &Path, uid: &str) -> Self {
        Self(pods(data).join(uid))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it.
    pub fn create(&self) -> io::Result<()> {
        for name in ["logs", "scratch", "volumes", "etc", "shm"] {
            fs::create_dir_all(self.0.join(name))?;
        }
        Ok(())
    }

    /// The writable directory of an instance.
    pub fn scratch(&self, instance: &str) -> PathBuf {
        self.0.join("scratch").join(instance)
    }

    /// The log file of an instance.
    pub fn log(&self, instance: &str) -> PathBuf {
        self.0.join("logs").join(format!("{instance}.log"))
    }

    /// The termination log of an instance.
    pub fn termination(&self, instance: &str) -> PathBuf {
        self.0.join("etc").join(format!("{instance}.termination"))
    }

    /// Where a volume lies.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.0.join("volumes").join(name)
    }

    /// The memory that the pod's containers share as `/dev/shm`.
    pub fn shared_memory(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// A generated file such as `hosts`.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.0.join("etc").join(name)
    }

    /// The exit a shim wrote down for an instance, if it did.
    pub fn exit(&self, instance: &str) -> Option<berth_shim::protocol::Exit> {
        serde_json::from_slice(&fs::read(self.0.join(format!("{instance}.exit"))).ok()?).ok()
    }

    /// Writes the record, whole or not at all.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(record)?;
        let temporary = self.0.join("pod.json.new");
        fs::write(&temporary, text)?;
        fs::rename(temporary, self.0.join("pod.json"))
    }

    /// Reads the record.
    pub fn read(&self) -> io::Result<Record> {
        Ok(serde_json::from_slice(&fs::read(self.0.join("pod.json"))?)?)
    }

    /// Removes everything, memory that is mounted in it included.
    pub fn remove(&self) -> io::Result<()> {
        crate::volume::unmount_below(&self.0)?;
        berth_runtime::remove_tree(&self.0)
    }
}

fn pods(data: &Path) -> PathBuf {
    data.join("pods")
}

/// The UIDs of all pods that have a directory.
pub fn known(data: &Path) -> io::Result<Vec<String>> {
    let directory = pods(data);
    fs::create_dir_all(&directory)?;
    // What pods mount, their tokens and Secrets among it, is nobody else's on this machine.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string() {
            found.push(name);
        }
    }
    Ok(found)
}
