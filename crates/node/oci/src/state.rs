//! What is noted of a container, and what it is at this moment.
//!
//! The directory of a container is made before anything else of it and goes last, so its name is taken for exactly as long as
//! something may be left. The gate lies in it: while it is there, the container's program has not begun.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_runtime::cgroup::Cgroup;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{OciError, bundle};

const NOTE: &str = "state.json";
const GATE: &str = "gate";
/// Where the gate lies while the hooks before the program run: whoever moved it there is the one who starts the container.
const OPENING: &str = "opening";
/// The configuration as it was when the container was made.
pub(crate) const CONFIGURATION: &str = "config.json";

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
    /// Whether the cgroup was made for it, rather than found.
    pub own_cgroup: bool,
    /// Whether there is a program to start.
    pub program: bool,
    /// Whether it has a user namespace that is not the host's.
    pub mapped: bool,
    /// Whether its process is to be watched as it takes on its program.
    #[serde(default)]
    pub watched: bool,
}

/// Where a container is noted.
pub(crate) fn folder(root: &Path, name: &str) -> Result<PathBuf, OciError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-_.".contains(c);
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(fits) {
        return Err(OciError::Name(name.to_owned()));
    }
    Ok(root.join(name))
}

/// Takes a name; nobody else has it from here on. While what is returned lives, the container is being made.
pub(crate) fn claim(root: &Path, name: &str) -> Result<(PathBuf, OwnedFd), OciError> {
    let folder = folder(root, name)?;
    let make = |path: &Path, parents| DirBuilder::new().recursive(parents).mode(0o700).create(path);
    make(root, true).map_err(OciError::file("create", root))?;
    match make(&folder, false) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(OciError::Present(name.to_owned()));
        }
        made => made.map_err(OciError::file("create", &folder))?,
    }
    let locked = open(&folder, FOLDER, Mode::empty())
        .and_then(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).map(|()| lock));
    match locked {
        Ok(lock) => Ok((folder, lock)),
        Err(error) => Err(OciError::file("lock", &folder)(error.into())),
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether somebody is making the container at this moment. The kernel lets go of the lock when they are gone.
fn is_being_made(folder: &Path) -> bool {
    let Ok(lock) = open(folder, FOLDER, Mode::empty()) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

/// Where the program of a container waits.
pub(crate) fn gate(folder: &Path) -> PathBuf {
    folder.join(GATE)
}

/// Where it is while it is being opened.
pub(crate) fn opening(folder: &Path) -> PathBuf {
    folder.join(OPENING)
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
        let folder = self.folder(root);
        if self.pid == 0 {
            // Noted before anything else is made, so that whatever is left by who was killed on the way can be found.
            return if is_being_made(&folder) { "creating" } else { "stopped" };
        }
        match (self.lives(), gate(&folder).exists() || opening(&folder).exists()) {
            (false, _) => "stopped",
            (true, true) => "created",
            (true, false) if self.is_frozen() => "paused",
            (true, false) => "running",
        }
    }

    fn is_frozen(&self) -> bool {
        crate::hierarchies().is_ok_and(|it| Cgroup::at(it, &self.cgroup).is_frozen())
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
        self.to_value_as(status, if status == "stopped" { 0 } else { self.pid })
    }

    /// The same, for hooks: with what it is at that moment, and its pid as they see it.
    pub fn to_value_as(&self, status: &str, pid: i32) -> Value {
        json!({
            "ociVersion": bundle::VERSION, "id": self.name, "status": status, "pid": pid,
            "bundle": self.bundle, "rootfs": self.rootfs, "created": self.created,
            "annotations": self.annotations,
        })
    }

    /// The pid of its first process in its own pid namespace.
    pub fn pid_inside(&self) -> i32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.and_then(|pids| pids.split_whitespace().last()?.parse().ok()).unwrap_or(self.pid)
    }
}

/// Writes a file that nobody sees half.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), OciError> {
    let draft = path.with_added_extension("new");
    fs::write(&draft, text).map_err(OciError::file("write", &draft))?;
    // Replaced files are written to the disk at once by some file systems; exchanged ones are not.
    match renameat_with(CWD, &draft, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => fs::remove_file(&draft).map_err(OciError::file("remove", &draft)),
        // There is none yet, or it cannot be done there.
        Err(_) => fs::rename(&draft, path).map_err(OciError::file("write", path)),
    }
}
