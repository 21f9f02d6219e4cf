//! What is noted of a container, and what it is at this moment.
//!
//! The directory of a container is made before anything else of it and goes last, so its name is taken for exactly as long as
//! something may be left. The gate lies in it: while it is there, the container's program has not begun.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_runtime::cgroup::{Cgroup, Hierarchies};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{OciError, bundle};

const NOTE: &str = "state.json";
const GATE: &str = "gate";

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub name: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub pid: i32,
    /// When the process began, in the kernel's ticks: a pid alone may be another's by now.
    pub began: u64,
    pub created: String,
    pub annotations: serde_json::Map<String, Value>,
    /// Below the root of every hierarchy.
    pub cgroup: PathBuf,
}

/// Where a container is noted.
pub(crate) fn folder(root: &Path, name: &str) -> Result<PathBuf, OciError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-_.".contains(c);
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(fits) {
        return Err(OciError::Name(name.to_owned()));
    }
    Ok(root.join(name))
}

/// Takes a name; nobody else has it from here on.
pub(crate) fn claim(root: &Path, name: &str) -> Result<PathBuf, OciError> {
    let folder = folder(root, name)?;
    let make = |path: &Path, parents| DirBuilder::new().recursive(parents).mode(0o700).create(path);
    make(root, true).map_err(OciError::file("create", root))?;
    match make(&folder, false) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(OciError::Present(name.to_owned()))
        }
        made => made.map_err(OciError::file("create", &folder)).map(|()| folder),
    }
}

/// Where the program of a container waits.
pub(crate) fn gate(folder: &Path) -> PathBuf {
    folder.join(GATE)
}

/// When a process began, unless it has ended.
pub(crate) fn began(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    // The 22nd field of the line; the state was the third.
    fields.nth(18)?.parse().ok().filter(|_| !ended)
}

impl State {
    pub fn load(root: &Path, name: &str) -> Result<Self, OciError> {
        let path = folder(root, name)?.join(NOTE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::Absent(name.to_owned()));
            }
            read => read.map_err(OciError::file("read", &path))?,
        };
        serde_json::from_slice(&bytes)
            .map_err(|source| OciError::Bundle { path, source: source.into() })
    }

    pub fn save(&self, folder: &Path) -> Result<(), OciError> {
        let text = serde_json::to_string(self).expect("texts and numbers are JSON");
        write_whole(&folder.join(NOTE), &text)
    }

    pub fn folder(&self, root: &Path) -> PathBuf {
        root.join(&self.name)
    }

    /// Whether its first process lives.
    pub fn lives(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    pub fn status(&self, root: &Path) -> &'static str {
        match (self.lives(), gate(&self.folder(root)).exists()) {
            (false, _) => "stopped",
            (true, true) => "created",
            (true, false) if self.is_frozen() => "paused",
            (true, false) => "running",
        }
    }

    fn is_frozen(&self) -> bool {
        Hierarchies::detect().is_ok_and(|it| Cgroup::at(&it, &self.cgroup).is_frozen())
    }

    /// A handle on its first process, which can be nobody else's.
    pub fn process(&self) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Opened before looked at: had the pid gone to another, that one would have begun later.
        self.lives().then_some(handle)
    }

    /// As the specification has it.
    pub fn to_value(&self, root: &Path) -> Value {
        let status = self.status(root);
        let mut value = json!({
            "ociVersion": bundle::VERSION, "id": self.name, "status": status,
            "bundle": self.bundle, "rootfs": self.rootfs, "created": self.created,
            "annotations": self.annotations,
        });
        value["pid"] = if status == "stopped" { 0 } else { self.pid }.into();
        value
    }
}

/// Writes a file that nobody sees half.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), OciError> {
    let draft = path.with_added_extension("new");
    fs::write(&draft, text).map_err(OciError::file("write", &draft))?;
    fs::rename(&draft, path).map_err(OciError::file("write", path))
}
