//! From the merged tree to the typed model: projects, networks, volumes, secrets and configs here, services below.
//!
//! What no active service uses is left out, as with Docker.

mod container;
mod mounts;
mod network;
mod service;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::model::{
    Content, FileSource, MountSource, Network, NetworkMode, Project, Service, Volume,
};
use crate::report::Report;
use crate::source::canonical::Base;
use crate::source::interpolate::Variables;
use crate::source::node::{Node, View};
use crate::value::name;

/// The largest secret or config, as in Kubernetes.
const MAX_CONTENT: u64 = 1 << 20;

/// What typing needs besides the tree.
pub(crate) struct Context<'c> {
    pub(crate) directory: &'c Path,
    pub(crate) variables: &'c Variables,
    pub(crate) profiles: &'c [String],
    pub(crate) report: &'c mut Report,
}

/// The project, as far as its values could be read. The report says whether it may be used.
pub(crate) fn project(
    tree: &Node,
    name: String,
    files: Vec<PathBuf>,
    context: &mut Context<'_>,
) -> Project {
    let root = View::new(tree, "");
    let mut services = IndexMap::new();
    let all = root.get("services").map(|services| services.entries(context.report));
    let all = all.unwrap_or_default();
    for (key, view) in &all {
        if view.node.as_mapping().is_none() {
            view.problem(context.report, "a service is a mapping; give it an `image` or a `build`");
            continue;
        }
        if is_active(view, context) {
            services.insert((*key).to_owned(), service::service(key, view, context));
        }
    }
    if all.is_empty() {
        root.problem(context.report, "there are no services; describe them under `services:`");
    }
    let used = Used::of(&services);
    Project {
        name,
        directory: context.directory.to_owned(),
        files,
        networks: networks(&root, &used, context),
        volumes: volumes(&root, &used, context),
        secrets: sources(&root, "secrets", &used.secrets, context),
        configs: sources(&root, "configs", &used.configs, context),
        services,
        findings: Vec::new(),
    }
}

/// A service without profiles always runs, one with profiles when one of them was asked for.
fn is_active(view: &View<'_>, context: &mut Context<'_>) -> bool {
    let Some(profiles) = view.get("profiles") else { return true };
    let profiles = profiles.texts(context.report);
    profiles.is_empty()
        || profiles.iter().any(|profile| context.profiles.contains(profile))
        || context.profiles.iter().any(|profile| profile == "*")
}

/// What the active services refer to.
struct Used {
    networks: HashSet<String>,
    volumes: HashSet<String>,
    secrets: HashSet<String>,
    configs: HashSet<String>,
}

impl Used {
    fn of(services: &IndexMap<String, Service>) -> Self {
        let mut used = Self {
            networks: HashSet::new(),
            volumes: HashSet::new(),
            secrets: HashSet::new(),
            configs: HashSet::new(),
        };
        for service in services.values() {
            if let NetworkMode::Networks(names) = &service.network {
                used.networks.extend(names.iter().cloned());
            }
            used.secrets.extend(service.secrets.iter().map(|mount| mount.source.clone()));
            used.configs.extend(service.configs.iter().map(|mount| mount.source.clone()));
            for mount in &service.mounts {
                if let MountSource::Volume { volume, .. } = &mount.source {
                    used.volumes.insert(volume.clone());
                }
            }
        }
        used
    }
}

/// The entries of a top-level section that are used.
fn section<'n>(
    root: &View<'n>,
    kind: &str,
    used: &HashSet<String>,
    report: &mut Report,
) -> Vec<(&'n str, View<'n>)> {
    let Some(section) = root.get(kind) else { return Vec::new() };
    let mut entries = section.entries(report);
    entries.retain(|(key, _)| used.contains(*key));
    entries
}

/// The name for the cluster, with a finding if it differs from what is written.
pub(crate) fn object_name(key: &str, view: &View<'_>, what: &str, report: &mut Report) -> String {
    let label = name::label(key);
    if label.is_empty() {
        view.problem(
            report,
            format!("no part of `{key}` can name a {what}; use letters and digits"),
        );
    } else if label != key {
        view.note(report, format!("is called `{label}` in the cluster, where names are lower-case letters, digits and `-`"));
    }
    label
}

/// The name: `name:`, `external: {name: …}` or the key.
fn named(key: &str, view: &View<'_>, what: &str, report: &mut Report) -> String {
    let external = view.get("external").filter(|external| external.node.as_mapping().is_some());
    let written = external
        .and_then(|external| external.get("name"))
        .or_else(|| view.get("name"))
        .and_then(|name| name.text(report));
    object_name(written.as_deref().unwrap_or(key), view, what, report)
}

fn is_external(view: &View<'_>, report: &mut Report) -> bool {
    match view.get("external") {
        None => false,
        Some(external) if external.node.as_mapping().is_some() => true,
        Some(external) => external.boolean(report).unwrap_or(false),
    }
}

fn networks(root: &View<'_>, used: &Used, context: &mut Context<'_>) -> IndexMap<String, Network> {
    let mut networks = IndexMap::new();
    for (key, view) in section(root, "networks", &used.networks, context.report) {
        let external = is_external(&view, context.report);
        if external {
            view.note(
                context.report,
                "is shared with other projects; a service of another one is reached as `<service>.<project>`",
            );
        }
        let driver = view.get("driver").and_then(|driver| driver.text(context.report));
        if driver.is_some_and(|driver| !matches!(driver.as_str(), "bridge" | "overlay" | "default"))
        {
            view.warn(
                context.report,
                "has a driver that does not exist here; it is an ordinary network",
            );
        }
        let internal = view.get("internal").and_then(|internal| internal.boolean(context.report));
        let object_name = named(key, &view, "network", context.report);
        let network = Network { object_name, external, internal: internal.unwrap_or(false) };
        networks.insert(key.to_owned(), network);
    }
    if used.networks.contains("default") {
        networks.entry("default".to_owned()).or_insert_with(|| Network {
            object_name: "default".to_owned(),
            external: false,
            internal: false,
        });
    }
    networks
}

fn volumes(root: &View<'_>, used: &Used, context: &mut Context<'_>) -> IndexMap<String, Volume> {
    let mut volumes = IndexMap::new();
    for (key, view) in section(root, "volumes", &used.volumes, context.report) {
        let driver = view.get("driver").and_then(|driver| driver.text(context.report));
        if driver.is_some_and(|driver| !matches!(driver.as_str(), "local" | "default" | "")) {
            view.warn(
                context.report,
                "has a volume driver that does not exist here; it is an ordinary volume of the cluster",
            );
        }
        let volume = Volume {
            object_name: named(key, &view, "volume", context.report),
            external: is_external(&view, context.report),
            bind: bound_path(&view, context),
            annotations: labels(&view, context.report),
        };
        volumes.insert(key.to_owned(), volume);
    }
    volumes
}

/// `driver_opts: {type: none, o: bind, device: /path}` is a bind mount with a name.
fn bound_path(view: &View<'_>, context: &mut Context<'_>) -> Option<PathBuf> {
    let options = view.get("driver_opts")?;
    let values = options.pairs(context.report);
    let value = |name: &str| values.get(name).cloned().flatten().unwrap_or_default();
    let bind = value("o").split(',').any(|option| matches!(option, "bind" | "rbind"));
    if bind && !value("device").is_empty() {
        let base = Base { directory: context.directory, variables: context.variables };
        return Some(base.absolute(&value("device")));
    }
    if !values.is_empty() {
        options.warn(
            context.report,
            "are not supported and have no effect, except for `o: bind`; it is an ordinary volume of the cluster",
        );
    }
    None
}

fn labels(view: &View<'_>, report: &mut Report) -> IndexMap<String, String> {
    let Some(labels) = view.get("labels") else { return IndexMap::new() };
    annotations(&labels, report)
}

/// Pairs that a cluster takes as annotations.
fn annotations(view: &View<'_>, report: &mut Report) -> IndexMap<String, String> {
    let mut annotations = IndexMap::new();
    for (key, value) in view.pairs(report) {
        if name::is_qualified(&key) {
            annotations.insert(key, value.unwrap_or_default());
        } else {
            let message = format!(
                "`{key}` cannot be the name of an annotation in a cluster and has no effect"
            );
            view.warn(report, message);
        }
    }
    annotations
}

fn sources(
    root: &View<'_>,
    kind: &str,
    used: &HashSet<String>,
    context: &mut Context<'_>,
) -> IndexMap<String, FileSource> {
    let mut sources = IndexMap::new();
    for (key, view) in section(root, kind, used, context.report) {
        let object_name = named(key, &view, kind.trim_end_matches('s'), context.report);
        let external = is_external(&view, context.report);
        let content = if external { None } else { content(&view, context) };
        sources.insert(key.to_owned(), FileSource { object_name, content });
    }
    sources
}

fn content(view: &View<'_>, context: &mut Context<'_>) -> Option<Content> {
    if let Some(content) = view.get("content") {
        return content.text(context.report).map(|text| Content::new(text.into_bytes()));
    }
    if let Some(variable) = view.get("environment") {
        let name = variable.text(context.report)?;
        let value = context.variables.get(&name);
        if value.is_none() {
            let message =
                format!("the variable `{name}` is not set; set it in the environment or in `.env`");
            variable.problem(context.report, message);
        }
        return value.map(|value| Content::new(value.clone().into_bytes()));
    }
    let Some(file) = view.get("file") else {
        view.problem(
            context.report,
            "has no content; give it a `file`, an `environment` variable or `external: true`",
        );
        return None;
    };
    let path = PathBuf::from(file.text(context.report)?);
    let size = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => {
            file.problem(context.report, format!("`{}` is not a file", path.display()));
            return None;
        }
        Err(error) => {
            let message = format!("cannot read `{}`: {error}; create it", path.display());
            context.report.missing(&file.node.position, &file.path, &path, message);
            return None;
        }
    };
    if size > MAX_CONTENT {
        let message =
            format!("`{}` is larger than {MAX_CONTENT} bytes; use a volume", path.display());
        file.problem(context.report, message);
        return None;
    }
    match std::fs::read(&path) {
        Ok(bytes) => Some(Content::new(bytes)),
        Err(error) => {
            file.problem(context.report, format!("cannot read `{}`: {error}", path.display()));
            None
        }
    }
}
