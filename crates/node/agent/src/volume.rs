//! Volumes of a pod, as directories on the node and mounts in its containers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod,
    ProjectedVolumeSource, Volume,
};
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::agent::Shared;
use crate::config::Cause;
use crate::directory::PodDirectory;
use crate::environment::{Facts, config_map, expand, field_value, secret};

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// What: a path on the node, or memory.
    pub source: Source,
    /// Where.
    pub destination: PathBuf,
    /// Not to be written.
    pub readonly: bool,
}

/// Where a volume's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the node.
    Path(PathBuf),
    /// In memory, of at most so many bytes.
    Memory(Option<u64>),
}

impl Mounted {
    /// As an entry of the OCI configuration.
    pub fn to_oci(&self) -> Value {
        let access = if self.readonly { "ro" } else { "rw" };
        match &self.source {
            Source::Path(path) => {
                json!({ "destination": self.destination, "type": "bind", "source": path,
                                          "options": ["rbind", access] })
            }
            Source::Memory(size) => {
                let mut options = vec![
                    "nosuid".to_owned(),
                    "nodev".to_owned(),
                    "mode=1777".to_owned(),
                    access.to_owned(),
                ];
                options.extend(size.map(|size| format!("size={size}")));
                json!({ "destination": self.destination, "type": "tmpfs", "source": "tmpfs", "options": options })
            }
        }
    }
}

/// The pod's volumes by name.
pub type Volumes = BTreeMap<String, Source>;

/// Prepares all volumes of a pod.
pub async fn prepare(
    shared: &Shared,
    pod: &Pod,
    directory: &PodDirectory,
    facts: &Facts,
) -> Result<Volumes, Cause> {
    let mut prepared = Volumes::new();
    let spec = pod.spec.as_ref();
    let group = spec
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    for volume in spec.and_then(|spec| spec.volumes.as_ref()).into_iter().flatten() {
        let source = prepare_one(shared, pod, volume, directory, facts).await?;
        if let (Some(group), Source::Path(path)) = (group, &source)
            && volume.host_path.is_none()
        {
            give_to_group(path, group).map_err(|error| disk(&volume.name, &error))?;
        }
        prepared.insert(volume.name.clone(), source);
    }
    Ok(prepared)
}

fn disk(volume: &str, error: &io::Error) -> Cause {
    Cause::create(format!("cannot prepare volume `{volume}`: {error}"))
}

async fn prepare_one(
    shared: &Shared,
    pod: &Pod,
    volume: &Volume,
    directory: &PodDirectory,
    facts: &Facts,
) -> Result<Source, Cause> {
    let (client, path) = (&shared.client, &directory.volume(&volume.name));
    let namespace = pod.namespace().unwrap_or_default();
    let failed = |error: io::Error| disk(&volume.name, &error);
    let here = || Source::Path(path.to_owned());
    if let Some(empty) = &volume.empty_dir {
        if empty.medium.as_deref() == Some("Memory") {
            let limit = empty.size_limit.as_ref().and_then(|size| {
                u64::try_from(crate::config::parse_quantity(&size.0)?.value()).ok()
            });
            return Ok(Source::Memory(limit));
        }
        fs::create_dir_all(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
        return Ok(here());
    }
    if let Some(host) = &volume.host_path {
        return host_path(&host.path, host.type_.as_deref()).map(Source::Path);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claimed(client, &namespace, &claim.claim_name).await;
    }
    let mut files = Files::default();
    if let Some(source) = &volume.config_map {
        let optional = source.optional.unwrap_or(false);
        if let Some(map) = config_map(client, &namespace, &source.name, optional).await? {
            files.add_config_map(&map, source.items.as_deref(), optional)?;
        }
        files.mode = source.default_mode;
    } else if let Some(source) = &volume.secret {
        let optional = source.optional.unwrap_or(false);
        let name = source.secret_name.as_deref().unwrap_or_default();
        if let Some(secret) = secret(client, &namespace, name, optional).await? {
            files.add_secret(&secret, source.items.as_deref(), optional)?;
        }
        files.mode = source.default_mode;
    } else if let Some(source) = &volume.downward_api {
        files.add_downward(source.items.as_deref().unwrap_or_default(), pod, facts)?;
        files.mode = source.default_mode;
    } else if let Some(source) = &volume.projected {
        files.mode = source.default_mode;
        project(shared, pod, &volume.name, source, directory, facts, &mut files).await?;
    } else {
        return Err(Cause::config(format!(
            "volume `{}` is of a kind this node does not support yet",
            volume.name
        )));
    }
    files.write(path).map_err(failed)?;
    Ok(here())
}

/// The files of a volume that is put together from several sources.
async fn project(
    shared: &Shared,
    pod: &Pod,
    volume: &str,
    source: &ProjectedVolumeSource,
    directory: &PodDirectory,
    facts: &Facts,
    files: &mut Files,
) -> Result<(), Cause> {
    let client = &shared.client;
    let namespace = pod.namespace().unwrap_or_default();
    for part in source.sources.iter().flatten() {
        if let Some(source) = &part.config_map {
            let optional = source.optional.unwrap_or(false);
            if let Some(map) = config_map(client, &namespace, &source.name, optional).await? {
                files.add_config_map(&map, source.items.as_deref(), optional)?;
            }
        } else if let Some(source) = &part.secret {
            let optional = source.optional.unwrap_or(false);
            if let Some(secret) = secret(client, &namespace, &source.name, optional).await? {
                files.add_secret(&secret, source.items.as_deref(), optional)?;
            }
        } else if let Some(source) = &part.downward_api {
            files.add_downward(source.items.as_deref().unwrap_or_default(), pod, facts)?;
        } else if let Some(source) = &part.service_account_token {
            let place = directory.volume(volume);
            let token = shared.tokens.project(client, pod, directory, &place, source).await?;
            files.put(&source.path, token, None)?;
        } else {
            return Err(Cause::config(format!(
                "volume `{}` projects a source this node does not support yet",
                volume
            )));
        }
    }
    Ok(())
}

fn host_path(path: &str, kind: Option<&str>) -> Result<PathBuf, Cause> {
    let path = PathBuf::from(path);
    let wrong = |what: &str| Cause::config(format!("host path `{}` is not {what}", path.display()));
    let failed = |error: io::Error| {
        Cause::config(format!("cannot use host path `{}`: {error}", path.display()))
    };
    match kind.unwrap_or_default() {
        "" if path.exists() => {}
        "" => return Err(wrong("there")),
        "DirectoryOrCreate" => fs::create_dir_all(&path).map_err(failed)?,
        "Directory" if !path.is_dir() => return Err(wrong("a directory")),
        "File" if !path.is_file() => return Err(wrong("a file")),
        "FileOrCreate" => {
            fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        }
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => {}
        other => return Err(Cause::config(format!("host path type `{other}` is not known"))),
    }
    Ok(path)
}

async fn claimed(client: &Client, namespace: &str, name: &str) -> Result<Source, Cause> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let failed = |error: kube::Error| {
        Cause::config(format!("cannot read claim `{name}`: {}", crate::status::chain(&error)))
    };
    let claim = claims.get_opt(name).await.map_err(failed)?;
    let claim = claim
        .ok_or_else(|| Cause::config(format!("there is no PersistentVolumeClaim `{name}`")))?;
    let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty());
    let volume = volume
        .ok_or_else(|| Cause::config(format!("PersistentVolumeClaim `{name}` is not bound yet")))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let spec = volumes.get(&volume).await.map_err(failed)?.spec.unwrap_or_default();
    if let Some(local) = spec.local {
        let path = PathBuf::from(local.path);
        // The directory of a provisioned volume is made by the node it belongs to, when it is first used.
        fs::create_dir_all(&path).map_err(|error| disk(name, &error))?;
        return Ok(Source::Path(path));
    }
    if let Some(host) = spec.host_path {
        return host_path(&host.path, host.type_.as_deref()).map(Source::Path);
    }
    Err(Cause::config(format!(
        "PersistentVolume `{volume}` is of a kind this node does not support yet"
    )))
}

/// Files of a configuration volume, written as one.
#[derive(Debug, Default)]
struct Files {
    files: BTreeMap<PathBuf, (Vec<u8>, Option<i32>)>,
    mode: Option<i32>,
}

impl Files {
    fn put(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) -> Result<(), Cause> {
        let path = PathBuf::from(path);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.as_os_str().is_empty() {
            return Err(Cause::config(format!(
                "`{}` is not a path within a volume",
                path.display()
            )));
        }
        self.files.insert(path, (content, mode));
        Ok(())
    }

    fn add(
        &mut self,
        what: &str,
        mut data: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Cause> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return data.into_iter().try_for_each(|(name, content)| self.put(&name, content, None));
        };
        for item in items {
            match data.remove(&item.key) {
                Some(content) => self.put(&item.path, content, item.mode)?,
                None if optional => {}
                None => return Err(Cause::config(format!("{what} has no key `{}`", item.key))),
            }
        }
        Ok(())
    }

    fn add_config_map(
        &mut self,
        map: &k8s_openapi::api::core::v1::ConfigMap,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Cause> {
        let mut data: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, text) in map.data.iter().flatten() {
            data.insert(name.clone(), text.clone().into_bytes());
        }
        for (name, bytes) in map.binary_data.iter().flatten() {
            data.insert(name.clone(), bytes.0.clone());
        }
        self.add(&format!("ConfigMap `{}`", map.name_any()), data, items, optional)
    }

    fn add_secret(
        &mut self,
        secret: &k8s_openapi::api::core::v1::Secret,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Cause> {
        let data =
            secret.data.iter().flatten().map(|(name, bytes)| (name.clone(), bytes.0.clone()));
        self.add(&format!("Secret `{}`", secret.name_any()), data.collect(), items, optional)
    }

    fn add_downward(
        &mut self,
        items: &[DownwardAPIVolumeFile],
        pod: &Pod,
        facts: &Facts,
    ) -> Result<(), Cause> {
        for item in items {
            let field = item.field_ref.as_ref();
            let value =
                field.map(|field| field_value(pod, &field.field_path, facts)).transpose()?;
            self.put(&item.path, value.unwrap_or_default().into_bytes(), item.mode)?;
        }
        Ok(())
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        for (path, (content, mode)) in &self.files {
            let target = directory.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            // A file that is mounted on its own keeps its inode, so it is written in place only when new.
            let temporary = target.with_extension("berth-new");
            fs::write(&temporary, content)?;
            let mode = mode.or(self.mode).unwrap_or(0o644);
            fs::set_permissions(
                &temporary,
                fs::Permissions::from_mode(mode.cast_unsigned() & 0o777),
            )?;
            fs::rename(temporary, target)?;
        }
        Ok(())
    }
}

/// `fsGroup`: the group may read and write, and new files inherit it. Only done where the top is not already so.
fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    if metadata.gid() == group && metadata.mode() & 0o2060 == 0o2060 {
        return Ok(());
    }
    give_tree(path, group)
}

fn give_tree(path: &Path, group: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(group))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_tree(&entry?.path(), group)?;
        }
        return fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o060))
}

/// The mounts of one container.
pub fn mounts(
    container: &Container,
    volumes: &Volumes,
    environment: &[String],
) -> Result<Vec<Mounted>, Cause> {
    let known: Vec<(String, String)> = environment
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut mounted = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let source = volumes
            .get(&mount.name)
            .ok_or_else(|| Cause::config(format!("there is no volume `{}`", mount.name)))?;
        let below = mount
            .sub_path_expr
            .as_ref()
            .map(|path| expand(path, &known))
            .or(mount.sub_path.clone())
            .filter(|path| !path.is_empty());
        let source = match (source, below) {
            (source, None) => source.clone(),
            (Source::Path(path), Some(below)) => Source::Path(sub_path(path, &below)?),
            (Source::Memory(_), Some(_)) => {
                return Err(Cause::config(format!(
                    "volume `{}` is in memory and has no sub-paths",
                    mount.name
                )));
            }
        };
        mounted.push(Mounted {
            source,
            destination: PathBuf::from(&mount.mount_path),
            readonly: mount.read_only.unwrap_or(false),
        });
    }
    Ok(mounted)
}

/// A path within a volume, which the pod may have filled with links that lead outside: every step is looked at.
fn sub_path(volume: &Path, below: &str) -> Result<PathBuf, Cause> {
    let wrong = || Cause::config(format!("`{below}` is not a path within its volume"));
    let mut path = volume.to_owned();
    for part in Path::new(below).components() {
        let Component::Normal(part) = part else { return Err(wrong()) };
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => return Err(wrong()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(|error| disk(below, &error))?;
            }
            Err(error) => return Err(disk(below, &error)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
        for bad in ["../x", "/etc", "link", "link/passwd", "a/../../b"] {
            assert!(sub_path(directory.path(), bad).is_err(), "{bad}");
        }
        assert_eq!(sub_path(directory.path(), "a/b").unwrap(), directory.path().join("a/b"));
        assert!(directory.path().join("a/b").is_dir());
    }

    #[test]
    fn files_keep_to_their_directory_and_get_their_mode() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files { mode: Some(0o400), ..Files::default() };
        assert!(files.put("../out", Vec::new(), None).is_err());
        files.put("a/key", b"value".to_vec(), None).unwrap();
        files.put("open", b"x".to_vec(), Some(0o666)).unwrap();
        files.write(directory.path()).unwrap();
        let mode = |name: &str| {
            fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("a/key"), mode("open")), (0o400, 0o666));
        assert_eq!(fs::read(directory.path().join("a/key")).unwrap(), b"value");
    }
}
