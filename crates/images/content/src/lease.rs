//! Leases: what is in use and must not be collected, tagged or not.
//!
//! A file per holder (a pod, by its uid), so that a holder that comes back after a restart finds its own, and
//! one that is gone for good can be released by whoever notices. A file is not synchronised, which a container's start would have to
//! wait for: after a power failure nothing runs, and what is started again says anew what it uses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use berth_unpack::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{ContentError, OnDisk as _};
use crate::image::Image;
use crate::store::ContentStore;

/// The name of a holder; it is a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName(String);

/// What a holder uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Manifests of its images.
    pub images: Vec<Digest>,
    /// Layers it may have mounted.
    pub layers: Vec<DiffId>,
}

impl LeaseName {
    /// Checks a name: letters, digits, `.`, `_` and `-`, not beginning with a dot, at most 200.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn parse(name: &str) -> Result<Self, ContentError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=200).contains(&name.len()) && !name.starts_with('.');
        if fits && name.bytes().all(good) {
            Ok(Self(name.to_owned()))
        } else {
            Err(ContentError::LeaseName(name.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ContentStore {
    fn lease_path(&self, name: &LeaseName) -> PathBuf {
        self.root.join("leases").join(&name.0)
    }

    /// Protects these images under `name`, in place of what that name protected before.
    ///
    /// # Errors
    ///
    /// When a layer is not here (any more); then nothing has changed.
    pub fn lease(&self, name: &LeaseName, images: &[&Image]) -> Result<(), ContentError> {
        let _shared = self.share()?;
        let mut lease = Lease::default();
        for image in images {
            self.layer_dirs(image)?;
            lease.images.push(image.digest);
            lease.layers.extend(&image.layers);
        }
        let path = self.lease_path(name);
        let text = serde_json::to_vec(&lease).map_err(io::Error::from).on_disk("encode", &path)?;
        self.replace_for_now(&path, &text)
    }

    /// Ends the protection; without effect if there is none.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn release(&self, name: &LeaseName) -> Result<(), ContentError> {
        let path = self.lease_path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.on_disk("remove", path),
        }
    }

    /// All leases.
    ///
    /// # Errors
    ///
    /// When one cannot be read: what it protects is then unknown, so nothing may be collected.
    pub fn leases(&self) -> Result<Vec<(LeaseName, Lease)>, ContentError> {
        let folder = self.root.join("leases");
        let mut leases = Vec::new();
        for entry in fs::read_dir(&folder).on_disk("list", &folder)? {
            let path = entry.on_disk("list", &folder)?.path();
            let Some(Ok(name)) =
                path.file_name().and_then(|name| name.to_str()).map(LeaseName::parse)
            else {
                continue;
            };
            let text = match fs::read(&path) {
                // Released meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                outcome => outcome.on_disk("read", &path)?,
            };
            match serde_json::from_slice(&text).map_err(io::Error::from) {
                Ok(lease) => leases.push((name, lease)),
                // Written as the power failed.
                Err(_) if is_of_an_earlier_boot(&path) => {}
                Err(error) => return Err(error).on_disk("understand", &path),
            }
        }
        leases.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(leases)
    }
}

/// Whether a file was last written to before the machine was started.
fn is_of_an_earlier_boot(path: &Path) -> bool {
    let up = u64::try_from(rustix::system::sysinfo().uptime).unwrap_or(0);
    let boot = SystemTime::now() - Duration::from_secs(up);
    fs::metadata(path).and_then(|it| it.modified()).is_ok_and(|written| written < boot)
}
