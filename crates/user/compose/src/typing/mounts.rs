//! What a service mounts: volumes, paths of the node, memory, secrets and configs.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::Context;
use crate::model::{BindKind, FileMount, Mount, MountSource};
use crate::report::Report;
use crate::source::node::View;
use crate::value;

/// Readable by everyone, as with Docker.
const DEFAULT_MODE: u32 = 0o444;

pub(super) fn mounts(view: &View<'_>, context: &mut Context<'_>) -> Vec<Mount> {
    let volumes = view.get("volumes").map(|volumes| volumes.items(context.report));
    let mut mounts: Vec<Mount> =
        volumes.unwrap_or_default().iter().filter_map(|view| mount(view, context.report)).collect();
    let memory = view.get("tmpfs").map(|tmpfs| tmpfs.items(context.report)).unwrap_or_default();
    mounts.extend(memory.iter().filter_map(|view| tmpfs(view, context.report)));
    // Two mounts at one path are refused by every cluster; the later one is meant.
    let mut unique: Vec<Mount> = Vec::new();
    for mount in mounts {
        unique.retain(|other| other.target != mount.target);
        unique.push(mount);
    }
    unique
}

fn mount(view: &View<'_>, report: &mut Report) -> Option<Mount> {
    if view.node.as_mapping().is_none() {
        view.problem(report, "expected `source:target` or a mapping");
        return None;
    }
    let Some(target) = view.get("target") else {
        view.problem(report, "`target` is missing; it is the path in the container");
        return None;
    };
    let target = target.text(report)?;
    if !target.starts_with('/') {
        let message = format!("the path in the container must begin with `/`, not `{target}`");
        view.problem(report, message);
        return None;
    }
    let read_only = view.get("read_only").and_then(|flag| flag.boolean(report)).unwrap_or(false);
    let source = view.get("source").and_then(|source| source.text(report));
    let kind = view.get("type").and_then(|kind| kind.text(report));
    let source = match (kind.as_deref().unwrap_or("volume"), source) {
        ("volume", None) => MountSource::Anonymous,
        ("volume", Some(volume)) => {
            let subpath = view.get("volume").and_then(|options| options.get("subpath"));
            let subpath = subpath.and_then(|subpath| subpath.text(report));
            MountSource::Volume { volume, subpath }
        }
        ("bind", Some(source)) => bind(view, PathBuf::from(source), report)?,
        ("bind", None) => {
            view.problem(report, "`source` is missing; it is the path on the node");
            return None;
        }
        ("tmpfs", _) => {
            let size = view.get("tmpfs").and_then(|options| options.get("size"));
            MountSource::Memory { size: size.and_then(|size| size.bytes(report)) }
        }
        (other @ ("npipe" | "cluster" | "image"), _) => {
            let message =
                format!("of type `{other}` is not supported and has no effect: use a volume");
            view.warn(report, message);
            return None;
        }
        (other, _) => {
            let hint = value::name::suggestion(other, ["volume", "bind", "tmpfs"]);
            view.problem(report, format!("`{other}` is no type of mount{hint}"));
            return None;
        }
    };
    Some(Mount { target, read_only, source })
}

fn bind(view: &View<'_>, path: PathBuf, report: &mut Report) -> Option<MountSource> {
    let options = view.get("bind");
    let create = options
        .as_ref()
        .and_then(|options| options.get("create_host_path"))
        .and_then(|create| create.boolean(report))
        .unwrap_or(true);
    let propagation = options.and_then(|options| options.get("propagation"));
    let propagation =
        propagation.and_then(|propagation| match propagation.text(report)?.as_str() {
            "shared" | "rshared" => Some("Bidirectional"),
            "slave" | "rslave" => Some("HostToContainer"),
            "private" | "rprivate" => Some("None"),
            other => {
                propagation.problem(report, format!("`{other}` is no mount propagation"));
                None
            }
        });
    if path.ends_with("docker.sock") {
        view.warn(
            report,
            "asks for Docker's socket: berth runs no Docker engine, so what the service does with it fails unless one runs on the node as well",
        );
    }
    let kind = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => BindKind::File,
        Ok(metadata) if metadata.file_type().is_socket() => BindKind::Socket,
        Ok(metadata) if metadata.is_dir() && create => BindKind::DirectoryOrCreate,
        Ok(metadata) if metadata.is_dir() => BindKind::Directory,
        Ok(_) => BindKind::Any,
        Err(_) if is_socket_name(&path) => BindKind::Socket,
        Err(_) if create => BindKind::DirectoryOrCreate,
        Err(error) => {
            let message = format!("cannot bind `{}`: {error}; create it", path.display());
            report.missing(&view.node.position, &view.path, &path, message);
            return None;
        }
    };
    Some(MountSource::Bind { path, kind, propagation })
}

/// A directory in the place of a socket would do harm.
fn is_socket_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sock")
}

/// `/path` or `/path:size=64m,mode=1777`.
fn tmpfs(view: &View<'_>, report: &mut Report) -> Option<Mount> {
    let text = view.text(report)?;
    let (target, options) = text.split_once(':').unwrap_or((&text, ""));
    if !target.starts_with('/') {
        view.problem(
            report,
            format!("the path in the container must begin with `/`, not `{target}`"),
        );
        return None;
    }
    let mut size = None;
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", bytes)) => match value::bytes(bytes) {
                Ok(bytes) => size = Some(bytes),
                Err(error) => view.problem(report, error.to_string()),
            },
            None if option == "ro" => read_only = true,
            None if matches!(
                option,
                "rw" | "noexec" | "nosuid" | "nodev" | "exec" | "suid" | "dev"
            ) => {}
            Some(_) | None => view.warn(
                report,
                format!("has the option `{option}`, which is not supported and has no effect"),
            ),
        }
    }
    Some(Mount { target: target.to_owned(), read_only, source: MountSource::Memory { size } })
}

/// Secrets or configs of a service; `folder` is where names without a path go.
pub(super) fn files(
    view: &View<'_>,
    kind: &str,
    folder: &str,
    report: &mut Report,
) -> Vec<FileMount> {
    let Some(files) = view.get(kind) else { return Vec::new() };
    let mut mounts = Vec::new();
    for item in files.items(report) {
        let Some(source) = item.get("source") else {
            item.problem(report, "`source` is missing; name the one to mount");
            continue;
        };
        let Some(source) = source.text(report) else { continue };
        let target = item.get("target").and_then(|target| target.text(report));
        let target = match target {
            Some(path) if path.starts_with('/') => path,
            Some(name) => format!("{folder}/{name}"),
            None => format!("{folder}/{source}"),
        };
        let mode = item.get("mode").and_then(|mode| permissions(&mode, report));
        mounts.push(FileMount { source, target, mode: mode.unwrap_or(DEFAULT_MODE) });
    }
    mounts
}

/// Octal with a leading zero or `0o`, decimal otherwise, as YAML has it.
fn permissions(view: &View<'_>, report: &mut Report) -> Option<u32> {
    let text = view.text(report)?;
    let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    let mode = match digits {
        Some("") => Some(0),
        Some(octal) => u32::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    };
    let mode = mode.filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        view.problem(
            report,
            format!("`{text}` is no file mode; write it in octal, such as `0440`"),
        );
    }
    mode
}
