//! Volumes of a pod, as directories on the node and mounts in its containers.
//!
//! What is made from objects of the API is made anew when they change, while the pod runs.

mod block;
mod files;
mod follow;
mod nfs;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use berth_client::demand::amounts;
use berth_runtime::{LAYER, LAYERS, SUB_PATH};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, Pod, ProjectedVolumeSource, Volume, VolumeMount,
};
use kube::api::Api;
use kube::{Client, ResourceExt};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, chownat, fchmod, fstat, mkdirat, open, openat,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use self::block::Block;
pub use self::block::devices;
use self::files::Files;
pub use self::follow::Sources;
use crate::agent::Shared;
use crate::config::Cause;
use crate::directory::PodDirectory;
use crate::environment::{Facts, config_map, expand, field_value, resource_value, secret};

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// What, on the node.
    pub source: PathBuf,
    /// The layers of an image, lowest first, in place of that.
    pub layers: Vec<PathBuf>,
    /// The path below it that is meant, without links.
    pub inside: Option<String>,
    /// Where.
    pub destination: PathBuf,
    /// Not to be written.
    pub readonly: bool,
    /// Which mounts that are made later are seen on the other side.
    pub propagation: Propagation,
}

/// Which mounts that are made later are seen on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    Private,
    /// The container sees those of the node.
    Slave,
    /// Each sees those of the other.
    Shared,
}

/// Where a volume's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the node, in a directory that containers may have written to.
    Path(PathBuf),
    /// The same, and this pod only reads it.
    ReadOnly(PathBuf),
    /// On the node, in files that this agent alone writes.
    Files(PathBuf),
    /// In the layers of an image, lowest first.
    Layers(Vec<PathBuf>),
    /// A device rather than files.
    Block(Block),
}

impl Mounted {
    /// As an entry of the OCI configuration.
    pub fn to_oci(&self) -> Value {
        let inside = self.inside.as_ref().map(|inside| format!("{SUB_PATH}{inside}"));
        if !self.layers.is_empty() {
            let layers = self.layers.iter().map(|layer| format!("{LAYER}{}", layer.display()));
            let options: Vec<String> = layers.chain(inside).collect();
            return json!({ "destination": self.destination, "type": LAYERS, "options": options });
        }
        let access = if self.readonly { "ro" } else { "rw" };
        let propagation = match self.propagation {
            Propagation::Private => "rprivate",
            Propagation::Slave => "rslave",
            Propagation::Shared => "rshared",
        };
        let mut options = vec!["rbind".to_owned(), access.to_owned(), propagation.to_owned()];
        options.extend(inside);
        json!({ "destination": self.destination, "type": "bind", "source": self.source, "options": options })
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
    let group = group_of(pod);
    let always = changes_always(pod);
    let mut prepared = Volumes::new();
    let mut read = BTreeMap::new();
    for volume in volumes_of(pod) {
        if let Some(mut files) = gather(shared, pod, volume, directory, facts).await? {
            let path = directory.volume(&volume.name);
            files.write(&path, group).map_err(|error| disk(&volume.name, &error))?;
            read.append(&mut files.read);
            prepared.insert(volume.name.clone(), Source::Files(path));
            continue;
        }
        // Those are pulled before, by whom they are for.
        if volume.image.is_some() {
            continue;
        }
        // Once for a pod: what its containers set afterwards is theirs to set.
        let marker = directory.etc(&format!("volume-{}", volume.name));
        let is_new = !marker.exists();
        let (source, ours) = prepare_one(&shared.client, pod, volume, directory, is_new).await?;
        let failed = |error: io::Error| disk(&volume.name, &error);
        if let Some(group) = group
            && is_new
            && ours
            && let Source::Path(path) = &source
        {
            let path = path.clone();
            let given = tokio::task::spawn_blocking(move || give_to_group(&path, group, always));
            given.await.map_err(io::Error::other).flatten().map_err(failed)?;
        }
        if is_new {
            fs::write(&marker, "").map_err(failed)?;
        }
        prepared.insert(volume.name.clone(), source);
    }
    shared.sources.follow(&shared.client, &pod.uid().unwrap_or_default(), read);
    Ok(prepared)
}

/// Brings the files of a running pod up to date with what they are made from. A volume that cannot be made keeps what it has.
pub async fn refresh(
    shared: &Shared,
    pod: &Pod,
    directory: &PodDirectory,
    facts: &Facts,
) -> Result<(), Cause> {
    let mut read = BTreeMap::new();
    let mut outcome = Ok(());
    for volume in volumes_of(pod) {
        let path = directory.volume(&volume.name);
        let gathered = gather(shared, pod, volume, directory, facts).await;
        let written = gathered.and_then(|files| {
            let Some(mut files) = files else { return Ok(()) };
            files.write(&path, group_of(pod)).map_err(|error| disk(&volume.name, &error))?;
            read.append(&mut files.read);
            Ok(())
        });
        if outcome.is_ok() {
            outcome = written;
        }
    }
    // Of a volume that cannot be made, what it was made from is watched as before.
    let uid = pod.uid().unwrap_or_default();
    match outcome {
        Ok(()) => shared.sources.follow(&shared.client, &uid, read),
        Err(_) => shared.sources.follow_also(&shared.client, &uid, read),
    }
    outcome
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten()
}

/// `fsGroup`.
fn group_of(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// `fsGroupChangePolicy`: whether the group is set whatever the top of a volume says.
fn changes_always(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
    policy != Some("OnRootMismatch")
}

fn disk(volume: &str, error: &io::Error) -> Cause {
    Cause::create(format!("cannot prepare volume `{volume}`: {error}"))
}

/// What containers may write to of a volume, and whether it is a directory that belongs to pods.
async fn prepare_one(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    directory: &PodDirectory,
    is_new: bool,
) -> Result<(Source, bool), Cause> {
    let path = directory.volume(&volume.name);
    let namespace = pod.namespace().unwrap_or_default();
    let failed = |error: io::Error| disk(&volume.name, &error);
    if let Some(empty) = &volume.empty_dir {
        let medium = empty.medium.as_deref().unwrap_or_default();
        fs::create_dir_all(&path).map_err(failed)?;
        if medium.starts_with("HugePages") {
            let size = crate::huge_pages::of_volume(pod, medium)
                .map_err(|why| Cause::config(format!("volume `{}`: {why}", volume.name)))?;
            if !is_mounted(&path).map_err(failed)? {
                crate::huge_pages::mount_at(&path, size).map_err(failed)?;
            }
        }
        if medium == "Memory" {
            let own = empty.size_limit.as_ref().and_then(|size| {
                u64::try_from(crate::config::parse_quantity(&size.0)?.value()).ok()
            });
            // What containers write there outlives them, so their limits are its own.
            let limit = own.into_iter().chain(memory_of(pod)).min();
            in_memory(&path, limit, "777").map_err(failed)?;
        }
        if is_new {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
        }
        return Ok((Source::Path(path), true));
    }
    if let Some(host) = &volume.host_path {
        return Ok((Source::Path(host_path(&host.path, host.type_.as_deref())?), false));
    }
    if let Some(source) = &volume.nfs {
        nfs::mount(pod, &volume.name, source, &[], &path).await?;
        return Ok((Source::Path(path), false));
    }
    let (name, readonly, owner) = if let Some(claim) = &volume.persistent_volume_claim {
        (claim.claim_name.clone(), claim.read_only.unwrap_or(false), None)
    } else if volume.ephemeral.is_some() {
        (format!("{}-{}", pod.name_any(), volume.name), false, Some(pod))
    } else {
        let name = &volume.name;
        let why = format!("volume `{name}` is of a kind this node does not support yet");
        return Err(Cause::config(why));
    };
    let (bound, spec) = claimed(client, &namespace, &name, owner).await?;
    if let Some(mut source) = spec.nfs.clone() {
        if spec.volume_mode.as_deref() == Some("Block") {
            let why = format!("PersistentVolume `{bound}` is of NFS, which has no block devices");
            return Err(Cause::config(why));
        }
        source.read_only = Some(readonly || source.read_only.unwrap_or(false));
        let options = spec.mount_options.unwrap_or_default();
        nfs::mount(pod, &volume.name, &source, &options, &path).await?;
        return Ok((Source::Path(path), false));
    }
    let (source, ours) = persistent(&name, &bound, spec, readonly)?;
    Ok(match source {
        // Who only reads it gives it to nobody.
        Source::Path(path) if readonly => (Source::ReadOnly(path), false),
        source => (source, ours),
    })
}

/// What containers may write to of a PersistentVolume.
fn persistent(
    claim: &str,
    volume: &str,
    spec: PersistentVolumeSpec,
    readonly: bool,
) -> Result<(Source, bool), Cause> {
    if spec.volume_mode.as_deref() == Some("Block") {
        let path = spec.local.map(|local| local.path).or(spec.host_path.map(|host| host.path));
        if let Some(path) = path {
            return Ok((Source::Block(Block::of(volume, &path, readonly)?), false));
        }
    } else if let Some(local) = spec.local {
        let path = PathBuf::from(local.path);
        // The directory of a provisioned volume is made by the node it belongs to, when it is first used.
        fs::create_dir_all(&path).map_err(|error| disk(claim, &error))?;
        return Ok((Source::Path(path), true));
    } else if let Some(host) = spec.host_path {
        return Ok((Source::Path(host_path(&host.path, host.type_.as_deref())?), false));
    }
    Err(Cause::config(format!(
        "PersistentVolume `{volume}` is of a kind this node does not support yet"
    )))
}

/// The memory that all containers of a pod may use together, if each has a limit.
fn memory_of(pod: &Pod) -> Option<u64> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    if let Some(limit) = amounts(of_pod).get("memory") {
        return u64::try_from(*limit).ok();
    }
    let limit = |container: &Container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        u64::try_from(crate::config::parse_quantity(&limits.get("memory")?.0)?.value()).ok()
    };
    spec.containers.iter().map(limit).sum()
}

/// Size of a pod's `/dev/shm`, in bytes; what people know from docker.
const SHARED_MEMORY: u64 = 64 << 20;

/// The memory that a pod's containers share as `/dev/shm`.
pub fn share_memory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    in_memory(path, Some(SHARED_MEMORY), "1777")
}

/// Memory that all containers of the pod share. It goes with the pod's directory.
fn in_memory(path: &Path, limit: Option<u64>, mode: &str) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let size = limit.map(|limit| format!(",size={limit}")).unwrap_or_default();
    let options = std::ffi::CString::new(format!("mode={mode}{size}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", path, "tmpfs", flags, options.as_c_str())?)
}

/// Whether something is mounted at a directory.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let outside = path.parent().map(fs::metadata).transpose()?;
    Ok(outside.is_some_and(|it| fs::metadata(path).is_ok_and(|inside| inside.dev() != it.dev())))
}

/// Unmounts all that is mounted below a directory, so that it can be removed.
///
/// # Errors
/// When the table of mounts cannot be read, or something cannot be unmounted.
pub fn unmount_below(directory: &Path) -> io::Result<()> {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    // The last mounted first.
    let below = mount_points()?.into_iter().rev().filter(|place| place.starts_with(&directory));
    below.into_iter().try_for_each(|place| Ok(unmount(&place, UnmountFlags::DETACH)?))
}

/// Where something is mounted, as the table says it, which asks nothing of what is mounted there.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    // The fifth field is where. Names may be any bytes, blanks and the like in octal.
    let lines = table.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped).collect())
}

/// A path as the table of mounts writes it.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The files of a volume that is made from objects; nothing for other volumes.
async fn gather(
    shared: &Shared,
    pod: &Pod,
    volume: &Volume,
    directory: &PodDirectory,
    facts: &Facts,
) -> Result<Option<Files>, Cause> {
    let client = &shared.client;
    let namespace = pod.namespace().unwrap_or_default();
    let mut files = Files::default();
    if let Some(source) = &volume.config_map {
        let optional = source.optional.unwrap_or(false);
        let map = config_map(client, &namespace, &source.name, optional).await?;
        files.add_config_map((&namespace, &source.name), map, source.items.as_deref(), optional)?;
        files.mode = source.default_mode;
    } else if let Some(source) = &volume.secret {
        let optional = source.optional.unwrap_or(false);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = secret(client, &namespace, name, optional).await?;
        files.add_secret((&namespace, name), secret, source.items.as_deref(), optional)?;
        files.mode = source.default_mode;
    } else if let Some(source) = &volume.downward_api {
        add_downward(&mut files, source.items.as_deref().unwrap_or_default(), pod, facts)?;
        files.mode = source.default_mode;
    } else if let Some(source) = &volume.projected {
        files.mode = source.default_mode;
        project(shared, pod, &volume.name, source, directory, facts, &mut files).await?;
    } else {
        return Ok(None);
    }
    Ok(Some(files))
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
            let map = config_map(client, &namespace, &source.name, optional).await?;
            let place = (namespace.as_str(), source.name.as_str());
            files.add_config_map(place, map, source.items.as_deref(), optional)?;
        } else if let Some(source) = &part.secret {
            let optional = source.optional.unwrap_or(false);
            let secret = secret(client, &namespace, &source.name, optional).await?;
            let place = (namespace.as_str(), source.name.as_str());
            files.add_secret(place, secret, source.items.as_deref(), optional)?;
        } else if let Some(source) = &part.downward_api {
            add_downward(files, source.items.as_deref().unwrap_or_default(), pod, facts)?;
        } else if let Some(source) = &part.service_account_token {
            let place = directory.volume(volume);
            let token = shared.tokens.project(client, pod, directory, &place, source).await?;
            files.put(&source.path, token, None)?;
        } else {
            return Err(Cause::config(format!(
                "volume `{volume}` projects a source this node does not support yet"
            )));
        }
    }
    Ok(())
}

/// Fields of the pod, and what its containers may use.
fn add_downward(
    files: &mut Files,
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    facts: &Facts,
) -> Result<(), Cause> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path, facts)?
        } else if let Some(field) = &item.resource_field_ref {
            resource_value(pod, None, field)?
        } else {
            let path = &item.path;
            return Err(Cause::config(format!("`{path}` is made from nothing this node knows")));
        };
        files.put(&item.path, value.into_bytes(), item.mode)?;
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
        // What is there is looked at and not opened: a pipe would wait for a writer.
        "FileOrCreate" if path.exists() && !path.is_file() => return Err(wrong("a file")),
        "FileOrCreate" => {
            fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        }
        "Directory" | "File" => {}
        kind @ ("Socket" | "CharDevice" | "BlockDevice") => {
            let (is, name): (fn(&fs::FileType) -> bool, _) = match kind {
                "Socket" => (FileTypeExt::is_socket, "a socket"),
                "CharDevice" => (FileTypeExt::is_char_device, "a character device"),
                _ => (FileTypeExt::is_block_device, "a block device"),
            };
            if !fs::metadata(&path).is_ok_and(|found| is(&found.file_type())) {
                return Err(wrong(name));
            }
        }
        other => return Err(Cause::config(format!("host path type `{other}` is not known"))),
    }
    Ok(path)
}

/// The PersistentVolume of a claim, which must belong to `owner` if there is one.
async fn claimed(
    client: &Client,
    namespace: &str,
    name: &str,
    owner: Option<&Pod>,
) -> Result<(String, PersistentVolumeSpec), Cause> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let failed = |error: kube::Error| {
        Cause::config(format!("cannot read claim `{name}`: {}", crate::status::chain(&error)))
    };
    let claim = claims.get_opt(name).await.map_err(failed)?;
    let claim = claim
        .ok_or_else(|| Cause::config(format!("there is no PersistentVolumeClaim `{name}`")))?;
    if let Some(pod) = owner
        && claim.owner_references().iter().all(|it| Some(&it.uid) != pod.metadata.uid.as_ref())
    {
        let why = format!("PersistentVolumeClaim `{name}` was not created for this pod");
        return Err(Cause::config(why));
    }
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    let volume = named
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Cause::config(format!("PersistentVolumeClaim `{name}` is not bound yet")))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let spec = volumes.get(&volume).await.map_err(failed)?.spec.unwrap_or_default();
    bound(&claim, name, &spec, &volume)?;
    Ok((volume, spec))
}

/// Whether a claim and a volume are each other's. A claim names what volume its author likes, and a pod its node, so that nobody may
/// have looked at either before.
fn bound(
    claim: &PersistentVolumeClaim,
    name: &str,
    spec: &PersistentVolumeSpec,
    volume: &str,
) -> Result<(), Cause> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Bound") {
        let why = format!("PersistentVolumeClaim `{name}` is not bound yet");
        return Err(Cause::config(why));
    }
    let uid = claim.uid();
    let of_claim = spec.claim_ref.as_ref().and_then(|it| it.uid.clone());
    if uid.is_none() || of_claim != uid {
        let why = format!("PersistentVolume `{volume}` is not bound to the claim `{name}`");
        return Err(Cause::config(why));
    }
    Ok(())
}

/// How deep a volume's directories are given to a group.
const DEEPEST: usize = 200;

/// `fsGroup`: the group may read and write, and new files inherit it. Not always done where the top is already so. Containers may be
/// changing what is there: everything is opened first and no link is followed.
fn give_to_group(path: &Path, group: u32, always: bool) -> io::Result<()> {
    let top = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&top)?;
    if !always && found.st_gid == group && found.st_mode & 0o2060 == 0o2060 {
        return Ok(());
    }
    give_folder(top, group, 0)
}

fn give_folder(folder: OwnedFd, group: u32, depth: usize) -> io::Result<()> {
    let inner =
        openat(&folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::new(inner)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(&folder, name, flags, Mode::empty()) {
            Ok(found) => found,
            // It went meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let mode = fstat(&found)?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Directory if depth < DEEPEST => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&found, ".", flags, Mode::empty()) {
                    Ok(inner) => give_folder(inner, group, depth + 1)?,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            FileType::RegularFile => {
                chownat(&found, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
                set_mode(&found, mode & 0o7777 | 0o060)?;
            }
            _ => chownat(&found, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?,
        }
    }
    let mode = fstat(&folder)?.st_mode;
    chownat(&folder, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    set_mode(&folder, mode & 0o7777 | 0o2770)
}

/// Sets the mode of what is open, which nobody can exchange.
fn set_mode(what: &OwnedFd, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", what.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
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
        let source_of = volumes
            .get(&mount.name)
            .ok_or_else(|| Cause::config(format!("there is no volume `{}`", mount.name)))?;
        let below = mount
            .sub_path_expr
            .as_ref()
            .map(|path| expand(path, &known))
            .or(mount.sub_path.clone())
            .filter(|path| !path.is_empty());
        let (path, ours) = match source_of {
            Source::Path(path) | Source::ReadOnly(path) => (path, false),
            Source::Files(path) => (path, true),
            Source::Block(_) => {
                return Err(Cause::config(format!(
                    "volume `{}` has volumeMode Block, but is specified in volumeMounts",
                    mount.name
                )));
            }
            Source::Layers(layers) => {
                let normal = |path: &String| {
                    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
                };
                if let Some(below) = below.as_ref().filter(|below| !normal(below)) {
                    let why = format!("`{below}` is not a path within its volume");
                    return Err(Cause::config(why));
                }
                mounted.push(Mounted {
                    source: PathBuf::new(),
                    layers: layers.clone(),
                    inside: below,
                    destination: PathBuf::from(&mount.mount_path),
                    readonly: true,
                    propagation: Propagation::Private,
                });
                continue;
            }
        };
        let (source, inside) = match below {
            None => (path.clone(), None),
            Some(below) if ours => (made_path(path, &below)?, None),
            Some(below) => (path.clone(), Some(sub_path(path, &below)?)),
        };
        mounted.push(Mounted {
            source,
            layers: vec![],
            inside,
            destination: PathBuf::from(&mount.mount_path),
            // What is made from objects is nobody's to change.
            readonly: ours
                || matches!(source_of, Source::ReadOnly(_))
                || mount.read_only.unwrap_or(false),
            propagation: propagation(container, mount)?,
        });
    }
    Ok(mounted)
}

fn propagation(container: &Container, mount: &VolumeMount) -> Result<Propagation, Cause> {
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged).unwrap_or(false);
    match mount.mount_propagation.as_deref().unwrap_or("None") {
        "None" => Ok(Propagation::Private),
        "HostToContainer" => Ok(Propagation::Slave),
        "Bidirectional" if privileged => Ok(Propagation::Shared),
        "Bidirectional" => Err(Cause::config(format!(
            "mount `{}`: mountPropagation Bidirectional is for privileged containers only",
            mount.name
        ))),
        other => Err(Cause::config(format!("mount propagation `{other}` is not known"))),
    }
}

/// A path within a volume that only this agent writes: its links may be followed.
fn made_path(volume: &Path, below: &str) -> Result<PathBuf, Cause> {
    let inside = Path::new(below).components().all(|part| matches!(part, Component::Normal(_)));
    let found = volume.join(below).canonicalize().ok().zip(volume.canonicalize().ok());
    match found {
        Some((path, root)) if inside && path.starts_with(&root) => Ok(path),
        _ => Err(Cause::config(format!("there is no `{below}` in its volume"))),
    }
}

/// A path within a volume, made where it is not there. A pod may have filled the volume with links that lead outside, and may be
/// doing so now: each step is taken from the directory that was opened before, and no link is followed.
fn sub_path(volume: &Path, below: &str) -> Result<String, Cause> {
    let wrong = || Cause::config(format!("`{below}` is not a path within its volume"));
    let failed = |error: rustix::io::Errno| disk(below, &error.into());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = open(volume, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
    let mut names = Vec::new();
    for part in Path::new(below).components() {
        let Component::Normal(part) = part else { return Err(wrong()) };
        names.push(part.to_str().ok_or_else(wrong)?);
        let found = match openat(&folder, part, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                // Who may write to the volume may write here.
                let mode = Mode::from_raw_mode(fstat(&folder).map_err(failed)?.st_mode);
                match mkdirat(&folder, part, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                let flags = flags - OFlags::PATH;
                let made = openat(&folder, part, flags | OFlags::DIRECTORY, Mode::empty());
                let made = made.map_err(|_| wrong())?;
                fchmod(&made, mode).map_err(failed)?;
                made
            }
            // There is something that is no directory, and something behind it is wanted.
            Err(Errno::NOTDIR) => return Err(wrong()),
            found => found.map_err(failed)?,
        };
        let kind = FileType::from_raw_mode(fstat(&found).map_err(failed)?.st_mode);
        if kind == FileType::Symlink {
            return Err(wrong());
        }
        folder = found;
    }
    Ok(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_opened_by_its_own_claim_alone() {
        let claim = |phase: &str, uid: &str| -> PersistentVolumeClaim {
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "mine", "uid": uid }, "spec": { "volumeName": "pv" },
                "status": { "phase": phase },
            }))
            .unwrap()
        };
        let volume = |more: serde_json::Value| -> PersistentVolumeSpec {
            serde_json::from_value(more).unwrap()
        };
        let of_one = volume(serde_json::json!({ "claimRef": { "name": "mine", "uid": "one" } }));
        assert!(bound(&claim("Bound", "one"), "mine", &of_one, "pv").is_ok());
        for (claim, volume) in [
            (claim("Pending", "one"), of_one.clone()),
            (claim("Lost", "one"), of_one.clone()),
            (claim("Bound", "two"), of_one),
            (claim("Bound", "one"), volume(serde_json::json!({}))),
            (claim("Bound", "one"), volume(serde_json::json!({ "claimRef": { "name": "mine" } }))),
        ] {
            assert!(bound(&claim, "mine", &volume, "pv").is_err(), "{claim:?} {volume:?}");
        }
    }

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
        for bad in ["../x", "/etc", "link", "link/passwd", "a/../../b"] {
            assert!(sub_path(directory.path(), bad).is_err(), "{bad}");
        }
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(sub_path(directory.path(), "file/x").is_err());
        assert_eq!(sub_path(directory.path(), "file").unwrap(), "file");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        assert_eq!(sub_path(directory.path(), "c//./d").unwrap(), "c/d");
        let made = fs::metadata(directory.path().join("c/d")).unwrap();
        assert_eq!((made.is_dir(), made.mode() & 0o7777), (true, 0o2770));
    }

    #[test]
    fn made_files_are_found_through_their_links_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::default();
        files.put("a/key", b"value".to_vec(), None).unwrap();
        files.write(directory.path(), None).unwrap();
        let path = made_path(directory.path(), "a/key").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"value");
        for bad in ["b", "../x", "/etc/passwd", "a/../a/key"] {
            assert!(made_path(directory.path(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mount_points_have_any_name() {
        let path = unescaped(b"/a\\040b\\134\xff\\9");
        assert_eq!(path.into_os_string().into_vec(), b"/a b\\\xff\\9");
    }

    #[test]
    fn memory_is_mounted_once_and_goes_with_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b");
        fs::create_dir(&path).unwrap();
        in_memory(&path, Some(1 << 20), "777").unwrap();
        fs::write(path.join("file"), "kept").unwrap();
        in_memory(&path, Some(1 << 20), "777").unwrap();
        assert_eq!(fs::read(path.join("file")).unwrap(), b"kept");
        assert!(fs::write(path.join("large"), vec![0; 2 << 20]).is_err(), "it has a limit");
        unmount_below(directory.path()).unwrap();
        assert!(!path.join("file").exists());
    }
}
