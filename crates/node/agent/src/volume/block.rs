//! Volumes that are a device rather than a directory.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Source, Volumes};
use crate::config::Cause;
use crate::devices::Device;

/// A block device of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    path: PathBuf,
    readonly: bool,
}

impl Block {
    /// The device behind a PersistentVolume.
    pub fn of(volume: &str, path: &str, readonly: bool) -> Result<Self, Cause> {
        let path = PathBuf::from(path);
        // Looked at now for the words; the container is given what is there when it starts.
        let found = Device::of(&path, Path::new("/dev/it"), "r").map_err(|error| {
            Cause::config(format!("PersistentVolume `{volume}` is no block device: {error}"))
        })?;
        if found.to_oci()["type"] != "b" {
            let path = path.display();
            let why = format!("PersistentVolume `{volume}`: `{path}` is no block device");
            return Err(Cause::config(why));
        }
        Ok(Self { path, readonly })
    }
}

/// `volumeDevices` of a container.
pub fn devices(pod: &Pod, container: &Container, volumes: &Volumes) -> Result<Vec<Device>, Cause> {
    let device = |wanted: &k8s_openapi::api::core::v1::VolumeDevice| {
        let name = &wanted.name;
        let block = match volumes.get(name) {
            Some(Source::Block(block)) => block,
            Some(_) => {
                return Err(Cause::config(format!(
                    "volume `{name}` has volumeMode Filesystem, but is specified in volumeDevices"
                )));
            }
            None => return Err(Cause::config(format!("there is no volume `{name}`"))),
        };
        let access = if block.readonly { "rm" } else { "rwm" };
        let found = Device::of(&block.path, Path::new(&wanted.device_path), access);
        let found = found.map_err(|error| {
            Cause::config(format!("cannot use the device of volume `{name}`: {error}"))
        })?;
        Ok(found.owned(pod, container))
    };
    container.volume_devices.iter().flatten().map(device).collect()
}
