//! Writing limits to a cgroup, each where its controller is.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::limits::Present;
use super::{Cgroup, CgroupError, devices, failed, limits, write};

impl Cgroup {
    /// Applies limits. Fields that are not given stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses a value, or no hierarchy of this host can limit what is to be limited. All others are applied
    /// nevertheless; the first failure is told.
    pub fn limit(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.check_use(resources)?;
        let quota = self.unified.as_ref().and_then(|path| {
            let text = fs::read_to_string(path.join("cpu.max")).ok()?;
            text.split_whitespace().next().map(str::to_owned)
        });
        let swap = self.read_number("memory", "memory.memsw.limit_in_bytes");
        let mut outcome = Ok(());
        let mut late = None;
        for entry in limits::entries(resources, &Present { swap, quota }) {
            match self.limit_one(&entry) {
                // With the quota there was, it would be more than the parent has; the one to come may fit.
                Err(error)
                    if entry.field == "cpu.period"
                        && error.source.raw_os_error() == Some(libc::EINVAL)
                        && resources.cpu().as_ref().is_some_and(|cpu| cpu.quota().is_some()) =>
                {
                    late = Some(entry);
                }
                written => outcome = outcome.and(written),
            }
        }
        if let Some(entry) = late {
            outcome = outcome.and(self.limit_one(&entry));
        }
        outcome.and(self.limit_devices(resources)).and(self.write_unified(resources))
    }

    fn limit_one(&self, entry: &limits::Entry) -> Result<(), CgroupError> {
        let (old, new) = entry.controllers;
        let (folder, form) = match (self.controller(old), &self.unified) {
            (Some(folder), _) => (folder, &entry.legacy),
            (None, Some(folder)) => {
                ensure(folder, new)?;
                (folder, &entry.unified)
            }
            (None, None) => return Err(unlimited(entry.field, Path::new("/"))),
        };
        let (names, value) = form.as_ref().ok_or_else(|| unlimited(entry.field, folder))?;
        let found = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
        write(&found.unwrap_or_else(|| folder.join(&names[0])), value)
    }

    /// A limit below what is used already would have the kernel end processes at once; who asks for it is told instead.
    fn check_use(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let Some(memory) = resources.memory() else { return Ok(()) };
        let limit = memory.limit().and_then(|limit| u64::try_from(limit).ok()).filter(|it| *it > 0);
        if let (Some(true), Some(limit)) = (memory.check_before_update(), limit)
            && let Ok(usage) = self.usage()
            && usage.memory.usage > limit
        {
            let reason = format!("{} bytes of memory are in use", usage.memory.usage);
            let path = self.controller("memory").or(self.unified.as_ref());
            return Err(CgroupError {
                action: "limit",
                path: path.cloned().unwrap_or_default(),
                source: io::Error::other(reason),
            });
        }
        Ok(())
    }

    fn limit_devices(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) else {
            return Ok(());
        };
        if let Some(folder) = self.controller("devices") {
            let lines = devices::lines(rules).map_err(failed("limit the devices of", folder))?;
            return lines.iter().try_for_each(|(file, line)| write(&folder.join(file), line));
        }
        let Some(path) = &self.unified else {
            return Err(unlimited("devices", Path::new("/")));
        };
        let folder = self.unified()?.ok_or_else(|| unlimited("devices", path))?;
        devices::decide(folder.as_fd(), rules).map_err(failed("limit the devices of", path))
    }

    /// What is given as files of version 2.
    fn write_unified(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        for (name, value) in resources.unified().iter().flatten() {
            let Some(folder) = &self.unified else {
                return Err(unlimited("unified", Path::new("/")));
            };
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                let reason = format!("`{name}` is no name of a file in it");
                return Err(failed("limit", folder)(io::Error::other(reason)));
            }
            let controller = name.split('.').next().unwrap_or_default();
            if controller != "cgroup" {
                ensure(folder, controller)?;
            }
            // The kernel takes one line at a time.
            for line in value.lines() {
                write(&folder.join(name), line)?;
            }
        }
        Ok(())
    }

    /// The number in a file of version 1.
    fn read_number(&self, controller: &str, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.controller(controller)?.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// What a file says: of version 1 where that has the controller, else of version 2.
    #[must_use]
    pub fn read(&self, controller: &str, legacy: &str, unified: &str) -> Option<String> {
        let path = match (self.controller(controller), &self.unified) {
            (Some(path), _) => path.join(legacy),
            (None, Some(path)) => path.join(unified),
            (None, None) => return None,
        };
        fs::read_to_string(path).ok()
    }
}

fn unlimited(field: &str, path: &Path) -> CgroupError {
    let reason = format!("no cgroup of this host can do `{field}`");
    failed("limit", path)(io::Error::new(io::ErrorKind::Unsupported, reason))
}

/// Sees to it that a controller of version 2 works in a cgroup, by enabling it all the way down.
fn ensure(path: &Path, controller: &str) -> Result<(), CgroupError> {
    let has = |path: &Path| {
        let text = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().any(|name| name == controller)
    };
    if has(path) {
        return Ok(());
    }
    let mut above: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|path| path.join("cgroup.subtree_control").exists())
        .collect();
    above.reverse();
    if !above.first().is_some_and(|root| has(root)) {
        return Err(unlimited(controller, path));
    }
    for path in above {
        write(&path.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    Ok(())
}
