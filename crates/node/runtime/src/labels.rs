//! Labels of the kernel's security modules: the AppArmor profile and the SELinux label that a program takes on when it is executed.
//!
//! They are written to files of the process itself in `/proc`. What a container shows there may be anything, so the host's own is
//! opened before the clone; its `thread-self` is whoever looks, in whatever namespace.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use crate::channel::{Failure, Step};

/// The security modules that a kernel has in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modules {
    /// AppArmor.
    pub app_armor: bool,
    /// SELinux.
    pub se_linux: bool,
}

impl Modules {
    /// Those of this machine.
    #[must_use]
    pub fn here() -> Self {
        Self::at(Path::new("/sys"))
    }

    /// The same, as a directory in the place of `/sys` says it.
    #[must_use]
    pub fn at(sys: &Path) -> Self {
        let enabled = fs::read_to_string(sys.join("module/apparmor/parameters/enabled"));
        Self {
            app_armor: enabled.is_ok_and(|text| text.starts_with('Y')),
            // The file is only there if a policy can be.
            se_linux: sys.join("fs/selinux/enforce").exists(),
        }
    }
}

/// Why a process cannot take a label on.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The kernel does not know what is asked for.
    #[error("the {what} `{name}` is asked for, and {module} is not enabled in this kernel")]
    Disabled {
        /// Profile or label.
        what: &'static str,
        /// Which.
        name: String,
        /// Of which module.
        module: &'static str,
    },
    /// A text with a zero byte.
    #[error("`{0}` holds a zero byte")]
    ZeroByte(String),
    /// The directory of processes.
    #[error("cannot open /proc")]
    Processes(#[source] Errno),
}

/// The labels of a process, ready to be written.
#[derive(Debug, Default)]
pub struct Labels {
    /// Nothing if there is nothing to write.
    processes: Option<OwnedFd>,
    writes: Vec<Write>,
}

/// One label: which (0 AppArmor's), where, and the bytes.
#[derive(Debug)]
struct Write {
    index: usize,
    /// The first that is there is meant.
    places: Vec<CString>,
    text: CString,
}

impl Labels {
    /// Those the configuration asks for.
    pub(crate) fn new(process: &Process) -> Result<Self, LabelError> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let profile = said(process.apparmor_profile());
        let label = said(process.selinux_label());
        if profile.is_none() && label.is_none() {
            return Ok(Self::default());
        }
        let modules = Modules::here();
        Self::of(profile.as_deref(), label.as_deref(), modules, Path::new("/proc"))
    }

    /// The profile and the label, in a kernel with these modules and with processes at this place.
    pub(crate) fn of(
        profile: Option<&str>,
        label: Option<&str>,
        modules: Modules,
        processes: &Path,
    ) -> Result<Self, LabelError> {
        let text =
            |text: String| CString::new(text.clone()).map_err(|_| LabelError::ZeroByte(text));
        let disabled = |what, name: &str, module| {
            Err(LabelError::Disabled { what, name: name.to_owned(), module })
        };
        let mut writes = Vec::new();
        if let Some(profile) = profile {
            if !modules.app_armor {
                return disabled("profile", profile, "AppArmor");
            }
            // The second is where kernels with one module have it.
            let places = [c"thread-self/attr/apparmor/exec", c"thread-self/attr/exec"];
            let places = places.map(CString::from).to_vec();
            writes.push(Write { index: 0, places, text: text(format!("exec {profile}"))? });
        }
        if let Some(label) = label {
            if !modules.se_linux {
                return disabled("label", label, "SELinux");
            }
            // The key ring first, which is made before the program runs; the kernel forgets both with it.
            for place in [c"thread-self/attr/keycreate", c"thread-self/attr/exec"] {
                let places = vec![CString::from(place)];
                writes.push(Write { index: 1, places, text: text(label.to_owned())? });
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let processes = open(processes, flags, Mode::empty()).map_err(LabelError::Processes)?;
        Ok(Self { processes: Some(processes), writes })
    }

    /// In the child, before its key ring is made.
    pub(crate) fn take_on(&self) -> Result<(), Failure> {
        let Some(processes) = &self.processes else { return Ok(()) };
        for write in &self.writes {
            write.to(processes).map_err(Failure::at(Step::Label, write.index))?;
        }
        Ok(())
    }

    /// For messages.
    pub(crate) fn named(&self) -> String {
        let texts = self.writes.iter().map(|write| write.text.to_string_lossy().into_owned());
        format!(" (`{}`)", texts.collect::<Vec<_>>().join("`, `"))
    }
}

impl Write {
    fn to(&self, processes: &OwnedFd) -> Result<(), Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let mut missing = Errno::NOENT;
        for place in &self.places {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            match openat2(processes.as_fd(), place, flags, Mode::empty(), resolve) {
                // The kernel takes a label whole or not at all.
                Ok(file) => return rustix::io::write(&file, self.text.to_bytes()).map(drop),
                Err(Errno::NOENT) => {}
                Err(error) => missing = error,
            }
        }
        Err(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Modules = Modules { app_armor: true, se_linux: true };
    const NONE: Modules = Modules { app_armor: false, se_linux: false };

    /// A directory of processes with these files of the one who looks, empty.
    fn processes(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("7/task/7/attr");
        fs::create_dir_all(own.join("apparmor")).unwrap();
        std::os::unix::fs::symlink("7/task/7", folder.path().join("thread-self")).unwrap();
        for file in files {
            fs::write(own.join(file), "").unwrap();
        }
        folder
    }

    fn written(folder: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(folder.path().join("7/task/7/attr").join(file)).unwrap()
    }

    #[test]
    fn labels_are_written_where_their_module_reads_them() {
        let label = "system_u:system_r:container_t:s0:c1,c2";
        let new = processes(&["apparmor/exec", "exec", "keycreate"]);
        let labels = Labels::of(Some("docker-default"), Some(label), BOTH, new.path()).unwrap();
        labels.take_on().unwrap();
        assert_eq!(written(&new, "apparmor/exec"), "exec docker-default");
        assert_eq!(
            (written(&new, "exec"), written(&new, "keycreate")),
            (label.into(), label.into())
        );
        let old = processes(&["exec"]);
        Labels::of(Some("one//&two"), None, BOTH, old.path()).unwrap().take_on().unwrap();
        assert_eq!(written(&old, "exec"), "exec one//&two");
    }

    #[test]
    fn a_label_that_cannot_be_written_is_an_error() {
        let none = processes(&[]);
        for (profile, label, index) in [(Some("x"), None, 0), (None, Some("x"), 1)] {
            let failure = Labels::of(profile, label, BOTH, none.path()).unwrap().take_on();
            let failure = failure.unwrap_err();
            assert_eq!((failure.step, failure.index), (Step::Label, index));
        }
        // Nothing of the container's making is followed.
        let folder = processes(&[]);
        let place = folder.path().join("7/task/7/attr/exec");
        fs::write(folder.path().join("elsewhere"), "").unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), place).unwrap();
        assert!(Labels::of(Some("x"), None, BOTH, folder.path()).unwrap().take_on().is_err());
        assert_eq!(fs::read_to_string(folder.path().join("elsewhere")).unwrap(), "");
    }

    #[test]
    fn a_kernel_without_a_module_takes_no_label_of_it() {
        let folder = processes(&["exec", "keycreate"]);
        for (profile, label, wanted) in [
            (Some("x"), None, "the profile `x` is asked for, and AppArmor is not enabled"),
            (None, Some("y"), "the label `y` is asked for, and SELinux is not enabled"),
        ] {
            let error = Labels::of(profile, label, NONE, folder.path()).unwrap_err();
            assert!(error.to_string().starts_with(wanted), "{error}");
        }
        assert_eq!(
            (written(&folder, "exec"), written(&folder, "keycreate")),
            ("".into(), "".into())
        );
    }

    #[test]
    fn the_modules_in_use_are_what_the_kernel_says() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Modules::at(folder.path()), NONE);
        let parameters = folder.path().join("module/apparmor/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("enabled"), "N\n").unwrap();
        assert_eq!(Modules::at(folder.path()), NONE);
        fs::write(parameters.join("enabled"), "Y\n").unwrap();
        fs::create_dir_all(folder.path().join("fs/selinux")).unwrap();
        assert_eq!(Modules::at(folder.path()), Modules { app_armor: true, se_linux: false });
        fs::write(folder.path().join("fs/selinux/enforce"), "0").unwrap();
        assert_eq!(Modules::at(folder.path()), BOTH);
    }
}
