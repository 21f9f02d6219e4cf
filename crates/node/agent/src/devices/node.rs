//! One device in a container: its node below `/dev`, and the rule that allows it.
//!
//! The node is made by the host's root in the container's own directory of devices, and so works in a user namespace, too.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::{major, minor};
use serde_json::{Value, json};

/// A device of the node in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    at: PathBuf,
    block: bool,
    major: u32,
    minor: u32,
    mode: u32,
    owner: (u32, u32),
    access: String,
}

impl Device {
    /// What is at `path` on the node, to be at `at` in the container. `access` is of the letters `r`, `w` and `m`.
    ///
    /// # Errors
    /// When there is no device, or `access` or `at` says nothing that can be done.
    pub fn of(path: &Path, at: &Path, access: &str) -> io::Result<Self> {
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        if access.is_empty() || !access.chars().all(|letter| "rwm".contains(letter)) {
            return Err(wrong(format!("`{access}` is no access to a device: r, w and m")));
        }
        if !at.is_absolute() || at.parent().is_none() {
            return Err(wrong(format!("`{}` is no place for a device", at.display())));
        }
        let found = fs::metadata(path)?;
        let kind = found.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(wrong(format!("`{}` is no device", path.display())));
        }
        Ok(Self {
            at: at.to_owned(),
            block: kind.is_block_device(),
            major: major(found.rdev()),
            minor: minor(found.rdev()),
            mode: found.mode() & 0o777,
            owner: (found.uid(), found.gid()),
            access: access.to_owned(),
        })
    }

    /// For the user and the group that the pod gives the container, where it does: it could not be opened else.
    #[must_use]
    pub fn owned(mut self, pod: &Pod, container: &Container) -> Self {
        let own = container.security_context.as_ref();
        let shared = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let user = own.and_then(|it| it.run_as_user).or(shared.and_then(|it| it.run_as_user));
        let group = shared.and_then(|it| it.fs_group);
        let group = group.or(own.and_then(|it| it.run_as_group));
        let group = group.or(shared.and_then(|it| it.run_as_group));
        let id = |id: Option<i64>, known| id.and_then(|id| u32::try_from(id).ok()).unwrap_or(known);
        self.owner = (id(user, self.owner.0), id(group, self.owner.1));
        self
    }

    /// As an entry of the OCI configuration.
    pub fn to_oci(&self) -> Value {
        let kind = if self.block { "b" } else { "c" };
        json!({ "path": self.at, "type": kind, "major": self.major, "minor": self.minor,
                "fileMode": self.mode, "uid": self.owner.0, "gid": self.owner.1 })
    }

    /// The rule of the container's cgroup.
    pub fn rule(&self) -> Value {
        let kind = if self.block { "b" } else { "c" };
        json!({ "allow": true, "type": kind, "major": self.major, "minor": self.minor,
                "access": self.access })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_what_the_node_has() {
        let device = Device::of(Path::new("/dev/full"), Path::new("/dev/widget"), "r").unwrap();
        let (entry, rule) = (device.to_oci(), device.rule());
        let wanted = json!({"path": "/dev/widget", "type": "c", "major": 1, "minor": 7,
            "fileMode": 0o666, "uid": 0, "gid": 0});
        assert_eq!(entry, wanted);
        let wanted = json!({"allow": true, "type": "c", "major": 1, "minor": 7, "access": "r"});
        assert_eq!(rule, wanted);
        for (path, at, access) in [
            ("/dev/full", "/dev/x", "rx"),
            ("/dev/full", "/dev/x", ""),
            ("/dev/full", "dev/x", "r"),
            ("/dev/full", "/", "r"),
            ("/etc/passwd", "/dev/x", "r"),
            ("/dev/none", "/dev/x", "r"),
        ] {
            assert!(Device::of(Path::new(path), Path::new(at), access).is_err(), "{path} {at}");
        }
    }

    #[test]
    fn a_device_belongs_to_who_is_to_use_it() {
        let device = || Device::of(Path::new("/dev/full"), Path::new("/dev/x"), "rw").unwrap();
        let owner = |pod: Value, container: Value| {
            let pod =
                serde_json::from_value(json!({"spec": {"containers": [], "securityContext": pod}}));
            let container =
                serde_json::from_value(json!({"name": "a", "securityContext": container}));
            device().owned(&pod.unwrap(), &container.unwrap()).owner
        };
        assert_eq!(owner(json!({}), json!({})), (0, 0));
        assert_eq!(owner(json!({"runAsUser": 7, "fsGroup": 8}), json!({"runAsGroup": 9})), (7, 8));
        assert_eq!(
            owner(json!({"runAsUser": 7}), json!({"runAsUser": 6, "runAsGroup": 9})),
            (6, 9)
        );
    }
}
