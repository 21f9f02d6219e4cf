//! Where a pod keeps its things on the node, and the record that lets a new agent take over.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::pod::resize::Sizes;

/// Where a static pod comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The file.
    pub file: PathBuf,
    /// What the file made of it, with its status as it was told last: there may be no API to ask.
    pub pod: Pod,
}

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
    /// Its cgroup. Pods of an earlier agent have none here, and theirs directly below that of all pods.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Why it was given up, if it was.
    #[serde(default)]
    pub failed: Option<Failed>,
    /// What is promised to its containers.
    #[serde(default)]
    pub sizes: Sizes,
    /// Containers by name.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// Its file, if it is a static pod. It is one by this alone.
    #[serde(default)]
    pub manifest: Option<Box<Manifest>>,
}

impl Record {
    /// That of a pod of which nothing is here yet.
    pub fn new(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            address: None,
            user: None,
            sandbox: false,
            cgroup: None,
            failed: None,
            sizes: [].into(),
            containers: [].into(),
            manifest: None,
        }
    }

    /// Its cgroup, below that of all pods.
    pub fn cgroup(&self, instance: &str) -> PathBuf {
        self.cgroup.clone().unwrap_or_else(|| Path::new(instance).join(format!("pod{}", self.uid)))
    }
}

/// Why a pod was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// `Evicted`, `DeadlineExceeded`.
    pub reason: String,
    /// In words.
    pub message: String,
    /// It ended for the good of others.
    #[serde(default)]
    pub disrupted: bool,
    /// When its containers are to have ended, if somebody is in a hurry.
    #[serde(default)]
    pub by: Option<Timestamp>,
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
    /// The current instance ends, or has ended, to be started anew in another size.
    #[serde(default)]
    pub resizing: bool,
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

    /// Empties some of its folders, whatever is mounted in them.
    pub fn discard(&self, folders: &[&str]) -> io::Result<()> {
        for folder in folders {
            let folder = self.0.join(folder);
            crate::volume::unmount_below(&folder)?;
            match fs::read_dir(&folder) {
                Ok(entries) => {
                    for entry in entries {
                        remove(&entry?.path())?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what is left of an instance that nobody asks for any more: its log with the older parts, and its notes.
    pub fn forget(&self, instance: &str) -> io::Result<()> {
        let log = format!("{instance}.log");
        for entry in fs::read_dir(self.0.join("logs"))? {
            let entry = entry?;
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(&log));
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                remove(&entry.path())?;
            }
        }
        remove(&self.termination(instance))?;
        remove(&self.etc(&format!("{instance}.json")))?;
        remove(&self.0.join(format!("{instance}.exit")))
    }

    /// Removes everything, memory that is mounted in it included.
    pub fn remove(&self) -> io::Result<()> {
        crate::volume::unmount_below(&self.0)?;
        berth_runtime::remove_tree(&self.0)
    }
}

/// Removes a file or a tree; one that is gone is fine.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return berth_runtime::remove_tree(path);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_one_instance_alone() {
        let folder = tempfile::tempdir().unwrap();
        let directory = PodDirectory::of(folder.path(), "1");
        directory.create().unwrap();
        let logs = ["a.1.log", "a.1.log.1", "a.1.log.gz", "a.11.log", "a.2.log", "b.1.log"];
        for name in logs {
            fs::write(directory.path().join("logs").join(name), "x").unwrap();
        }
        fs::write(directory.termination("a.1"), "x").unwrap();
        directory.forget("a.1").unwrap();
        directory.forget("a.1").unwrap();
        let left = |name: &str| {
            let entries = fs::read_dir(directory.path().join(name)).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!((left("logs").as_str(), left("etc").as_str()), ("a.11.log a.2.log b.1.log", ""));
        fs::create_dir(directory.volume("data")).unwrap();
        std::os::unix::fs::symlink(folder.path(), directory.volume("data").join("out")).unwrap();
        directory.discard(&["logs", "volumes", "nothing"]).unwrap();
        assert_eq!((left("logs").as_str(), left("volumes").as_str()), ("", ""));
        assert!(folder.path().exists());
    }
}
