//! Who is in a cgroup, with all that a container has nested in it, and signals to them.
//!
//! A pid that was read may be another's by the time it is signalled. So each process is held first, and signalled only if its pid is
//! still listed after that: the one who is held is then the one who is listed, or gone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Cgroup, CgroupError, DEEPEST, failed, freezer, is_gone};

impl Cgroup {
    /// The processes in it and in all below it, in any hierarchy, by pid. Those of whom this pid namespace knows nothing are missing.
    ///
    /// # Errors
    /// When it cannot be read; a cgroup that is gone has none.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut all = self.listed()?;
        all.sort_unstable();
        all.dedup();
        Ok(all.into_iter().filter_map(Pid::from_raw).collect())
    }

    /// Whether anybody is in it or below it, in any hierarchy, even if this pid namespace knows nothing of them.
    ///
    /// # Errors
    /// When it cannot be read; a cgroup that is gone is not in use.
    pub fn is_in_use(&self) -> Result<bool, CgroupError> {
        if let Some(path) = &self.unified {
            // Threads may lie where processes cannot be listed, and count here all the same.
            let path = path.join("cgroup.events");
            match fs::read_to_string(&path) {
                Ok(text) if text.lines().any(|line| line == "populated 1") => return Ok(true),
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        Ok(!self.listed()?.is_empty())
    }

    fn listed(&self) -> Result<Vec<i32>, CgroupError> {
        let mut all = Vec::new();
        for path in self.directories() {
            collect(path, 0, &mut all)?;
        }
        Ok(all)
    }

    /// Sends a signal to all of them.
    ///
    /// # Errors
    /// What the kernel says; one who ended meanwhile is none.
    pub fn signal(&self, number: i32) -> Result<(), CgroupError> {
        let mut held: HashMap<Pid, OwnedFd> = HashMap::new();
        for pid in self.processes()? {
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) => drop(held.insert(pid, process)),
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(self.failed("signal")(error.into())),
            }
        }
        for pid in self.processes()? {
            let Some(process) = held.get(&pid) else { continue };
            match berth_sys::signal::send(process.as_fd(), number) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(self.failed("signal")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills every process in it and below it, those being forked included where version 2 is.
    ///
    /// # Errors
    /// When the kernel refuses; a cgroup that is gone has nothing to kill.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(path) = &self.unified {
            let path = path.join("cgroup.kill");
            match fs::write(&path, "1") {
                Ok(()) => return Ok(()),
                Err(error) if is_gone(&error) && !path.parent().is_some_and(Path::exists) => {
                    return Ok(());
                }
                // Before Linux 5.14 there is no such file: fall through to the processes one by one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("kill", &path)(error)),
            }
        }
        self.signal(libc::SIGKILL)?;
        // The older freezer keeps even those from dying.
        freezer::thaw_below(self)
    }

    /// The cgroup in which further processes can begin beside a process of it: version 2 takes none where controllers are handed on to
    /// nested cgroups, and then it is that process's own.
    ///
    /// # Errors
    /// When it cannot be read where the process is.
    pub fn beside(&self, pid: Pid) -> Result<Self, CgroupError> {
        let Some(path) = &self.unified else { return Ok(self.clone()) };
        let handed_on = fs::read_to_string(path.join("cgroup.subtree_control"));
        if handed_on.is_ok_and(|text| text.trim().is_empty()) {
            return Ok(self.clone());
        }
        let file = PathBuf::from(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
        let text = fs::read_to_string(&file).map_err(failed("read", &file))?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        // Its path from the root of the hierarchy ends with ours and what lies below.
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        let nested = above.iter().map(|above| above.join(own)).find(|it| it.starts_with(path));
        Ok(Self { unified: Some(nested.unwrap_or_else(|| path.clone())), ..self.clone() })
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.legacy.iter().map(|(_, path)| path).chain(&self.unified)
    }

    /// One of its directories, to tell people where it is.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.directories().last().cloned().unwrap_or_default()
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
        let place = self.place();
        move |source| failed(action, &place)(source)
    }
}

fn collect(path: &Path, depth: usize, all: &mut Vec<i32>) -> Result<(), CgroupError> {
    let file = path.join("cgroup.procs");
    match fs::read_to_string(&file) {
        Ok(text) => all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if is_gone(&error) => return Ok(()),
        // A cgroup of threads: their processes are listed above it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(failed("read", &file)(error)),
    }
    nested(path, depth, &mut |path, depth| collect(path, depth, all))
}

/// Calls for each cgroup directly below one.
pub(super) fn nested(
    path: &Path,
    depth: usize,
    call: &mut dyn FnMut(&Path, usize) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(path) {
        Err(error) if is_gone(&error) => return Ok(()),
        entries => entries.map_err(failed("read", path))?,
    };
    for entry in entries {
        let entry = match entry {
            Err(error) if is_gone(&error) => return Ok(()),
            entry => entry.map_err(failed("read", path))?,
        };
        if depth < DEEPEST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            call(&entry.path(), depth + 1)?;
        }
    }
    Ok(())
}
