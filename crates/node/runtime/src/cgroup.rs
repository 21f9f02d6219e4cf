//! Control groups of both versions, and hosts that mix them.
//!
//! A hybrid host has the resource controllers in version 1 and an otherwise empty version 2 tree. We use both there: the
//! controllers where they are, and the version 2 directory for what it alone can do, killing a whole group at once.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

mod apply;
mod devices;
mod freezer;
mod limits;
mod members;
mod usage;

pub use usage::{Memory, Throttled, Usage};

/// The version 1 controllers we limit or count with. The others stay at their root.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "devices"];
/// Further ones of version 1, for containers of other engines.
const FURTHER: [&str; 8] =
    ["cpuset", "blkio", "hugetlb", "freezer", "net_cls", "net_prio", "perf_event", "rdma"];
/// What version 2 must enable for its children.
const ENABLED: [&str; 3] = ["cpu", "memory", "pids"];
/// The same for containers of other engines.
const ENABLED_FURTHER: [&str; 4] = ["cpuset", "io", "hugetlb", "rdma"];

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the cgroup `{}`", path.display())]
pub struct CgroupError {
    /// What was being done.
    pub action: &'static str,
    /// Directory or file.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { action, path, source }
}

/// Where this host mounts its cgroup hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Version 1: controllers of one hierarchy, and its mount point.
    pub legacy: Vec<(Vec<String>, PathBuf)>,
    /// Version 2.
    pub unified: Option<PathBuf>,
    /// Whether all controllers are meant rather than those that pods need.
    all: bool,
}

impl Hierarchies {
    /// Finds them in `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// When the file cannot be read, or no hierarchy with a memory or pids controller is mounted.
    pub fn detect() -> Result<Self, CgroupError> {
        Self::read(&CONTROLLERS)
    }

    /// Finds them with the one that limits huge pages, too, for a node that has some.
    ///
    /// # Errors
    /// As above.
    pub fn detect_with_huge_pages() -> Result<Self, CgroupError> {
        Self::read(&[&CONTROLLERS[..], &["hugetlb"]].concat())
    }

    /// Finds them with all controllers, as other engines expect of their containers.
    ///
    /// # Errors
    /// As above.
    pub fn detect_all() -> Result<Self, CgroupError> {
        let known: Vec<&str> = CONTROLLERS.iter().chain(&FURTHER).copied().collect();
        Ok(Self { all: true, ..Self::read(&known)? })
    }

    fn read(known: &[&str]) -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(failed("read", path))?;
        let found = Self::parse(&text, known);
        if found.unified.is_none() && found.legacy.is_empty() {
            let source =
                io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted");
            return Err(CgroupError { action: "find", path: path.to_owned(), source });
        }
        Ok(found)
    }

    fn parse(mountinfo: &str, known: &[&str]) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut filesystem = filesystem.split(' ');
            match filesystem.next() {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(point.into()),
                Some("cgroup") => {
                    let options = filesystem.nth(1).unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|option| known.contains(option))
                        .map(str::to_owned)
                        .collect();
                    let mounted =
                        |name: &String| found.legacy.iter().any(|(names, _)| names.contains(name));
                    if !controllers.is_empty() && !controllers.iter().any(mounted) {
                        found.legacy.push((controllers, point.into()));
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// A cgroup of ours: the same relative path in every hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    legacy: Vec<(Vec<String>, PathBuf)>,
    unified: Option<PathBuf>,
}

impl Cgroup {
    /// Names the cgroup at `relative` without touching it.
    #[must_use]
    pub fn at(hierarchies: &Hierarchies, relative: &Path) -> Self {
        Self {
            legacy: hierarchies
                .legacy
                .iter()
                .map(|(controllers, root)| (controllers.clone(), root.join(relative)))
                .collect(),
            unified: hierarchies.unified.as_ref().map(|root| root.join(relative)),
        }
    }

    /// Creates the cgroup with its parents; one that exists is taken as it is.
    ///
    /// # Errors
    /// When a directory cannot be made or a controller not be enabled.
    pub fn create(hierarchies: &Hierarchies, relative: &Path) -> Result<Self, CgroupError> {
        let cgroup = Self::at(hierarchies, relative);
        for ((controllers, path), (_, root)) in cgroup.legacy.iter().zip(&hierarchies.legacy) {
            fs::create_dir_all(path).map_err(failed("create", path))?;
            if controllers.iter().any(|name| name == "cpuset") {
                inherit_sets(root, relative)?;
            }
        }
        if let (Some(root), Some(_)) = (&hierarchies.unified, &cgroup.unified) {
            let mut path = root.clone();
            for part in relative.components() {
                if hierarchies.legacy.is_empty() {
                    enable(&path, &ENABLED)?;
                    if hierarchies.all {
                        enable(&path, &ENABLED_FURTHER)?;
                    }
                }
                path.push(part);
                match fs::create_dir(&path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(failed("create", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(cgroup)
    }

    /// Whether it is there in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().any(|path| path.exists())
    }

    /// Files of version 1 through which a single-threaded process moves itself in, by writing `0` to each. A process cloned
    /// into [`Cgroup::unified`] is in version 2 already.
    ///
    /// When a parent moves its child instead, the kernel first waits until no thread anywhere is being made, which takes 9 to 17
    /// ms on a machine that has been idle; who moves itself waits for nobody.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn entries(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let entry = |(_, path): &(_, PathBuf)| {
            let path = path.join("tasks");
            open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed("open", &path)(error.into()))
        };
        self.legacy.iter().map(entry).collect()
    }

    /// The version 2 directory, to clone into.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn unified(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(path) = &self.unified else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            open(path, flags, Mode::empty()).map_err(|error| failed("open", path)(error.into()))?;
        Ok(Some(directory))
    }

    /// Names of the cgroups directly below, in any hierarchy.
    #[must_use]
    pub fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .directories()
            .filter_map(|path| fs::read_dir(path).ok())
            .flatten()
            .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// How many times the kernel killed a process of it for lack of memory.
    #[must_use]
    pub fn memory_kills(&self) -> u64 {
        let legacy =
            self.legacy.iter().find(|(names, _)| names.iter().any(|name| name == "memory"));
        let path = match (legacy, &self.unified) {
            (Some((_, path)), _) => path.join("memory.oom_control"),
            (None, Some(path)) => path.join("memory.events"),
            (None, None) => return 0,
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Removes it with all below it, as a container may make cgroups of its own.
    ///
    /// # Errors
    /// `EBUSY` while a process is left.
    pub fn remove_all(&self) -> Result<(), CgroupError> {
        self.directories().try_for_each(|path| remove_below(path, 0))
    }

    /// Removes it. Its processes must have ended; one that is gone is fine.
    ///
    /// # Errors
    /// `EBUSY` while a process or a child cgroup is left.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for path in self.directories() {
            match fs::remove_dir(path) {
                Err(error) if !is_gone(&error) => return Err(failed("remove", path)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Nested deeper than the kernel lets anybody make.
const DEEPEST: usize = 256;

fn remove_below(path: &Path, depth: usize) -> Result<(), CgroupError> {
    members::nested(path, depth, &mut remove_below)?;
    match fs::remove_dir(path) {
        Err(error) if !is_gone(&error) => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A new cpuset of version 1 has neither processors nor memory, and then takes no process.
fn inherit_sets(root: &Path, relative: &Path) -> Result<(), CgroupError> {
    let mut path = root.to_owned();
    for part in relative.components() {
        let parent = path.clone();
        path.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = path.join(file);
            let present = fs::read_to_string(&own).map_err(failed("read", &own))?;
            if present.trim().is_empty() {
                let above = parent.join(file);
                let value = fs::read_to_string(&above).map_err(failed("read", &above))?;
                write(&own, value.trim())?;
            }
        }
    }
    Ok(())
}

/// `ENODEV` is what an open file of a removed cgroup answers.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn enable(path: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let controllers = path.join("cgroup.controllers");
    let present = fs::read_to_string(&controllers).map_err(failed("read", &controllers))?;
    let file = path.join("cgroup.subtree_control");
    for name in wanted.iter().filter(|name| present.split_whitespace().any(|has| has == **name)) {
        write(&file, &format!("+{name}"))?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(failed("write to", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_is_read_as_both() {
        let text = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    34 24 0:26 / /elsewhere rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(text, &CONTROLLERS);
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        let names: Vec<String> = found.legacy.iter().map(|(names, _)| names.join("+")).collect();
        assert_eq!(names, ["memory", "cpu+cpuacct"]);
    }

    #[test]
    fn a_pure_version_2_host_has_no_legacy_part() {
        let found = Hierarchies::parse(
            "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            &CONTROLLERS,
        );
        assert!(found.legacy.is_empty());
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }
}
