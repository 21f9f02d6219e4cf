//! From directories to layers, and from a finished stage to an image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use berth_content::{
    CachedLayer, DockerConfig, Image, LayerFacts, Reference, Session, encode_config,
};
use berth_unpack::{PackOptions, pack, strip_overlay_traces};
use oci_spec::OciSpecError;
use oci_spec::image::{
    ConfigBuilder, History, HistoryBuilder, ImageConfigurationBuilder, RootFsBuilder,
};
use serde_json::json;

use crate::error::{OnFile as _, Problem};

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a container of the image starts with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub user: String,
    pub env: Vec<(String, String)>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub workdir: String,
    pub labels: BTreeMap<String, String>,
    pub ports: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    pub stop_signal: Option<String>,
    pub author: Option<String>,
    pub docker: DockerConfig,
}

/// A layer with the media type it has in the manifest.
#[derive(Debug, Clone)]
pub(crate) struct StackLayer {
    pub layer: CachedLayer,
    pub media_type: String,
}

impl Settings {
    /// Those of a base image.
    pub(crate) fn of(image: &Image) -> Self {
        let mut settings = Self { docker: image.docker.clone(), ..Self::default() };
        settings.author = image.config.author().clone();
        let Some(config) = image.config.config() else { return settings };
        settings.user = config.user().clone().unwrap_or_default();
        let env =
            config.env().iter().flatten().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        settings.env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        settings.entrypoint = config.entrypoint().clone();
        settings.cmd = config.cmd().clone();
        settings.workdir = config.working_dir().clone().unwrap_or_default();
        settings.labels = config.labels().clone().unwrap_or_default().into_iter().collect();
        settings.ports = config.exposed_ports().clone().unwrap_or_default().into_iter().collect();
        settings.volumes = config.volumes().clone().unwrap_or_default().into_iter().collect();
        settings.stop_signal = config.stop_signal().clone();
        settings
    }
}

/// Turns a filled directory from `Session::prepare_snapshot` into a layer of the store.
pub(crate) fn layer(
    session: &Session,
    upper: &Path,
    latest: Option<i64>,
) -> Result<CachedLayer, Problem> {
    strip_overlay_traces(upper).on_file("clean up", upper)?;
    let mut blob = session.blob_writer()?;
    let packed = pack(upper, &mut blob, &PackOptions { plain: false, latest })?;
    blob.flush().on_file("write", "layer")?;
    let (digest, size) = blob.commit(Some(packed.digest))?;
    let facts = LayerFacts { bytes: packed.size, entries: packed.entries, ..LayerFacts::default() };
    session.commit_snapshot(upper, &packed.diff_id, facts)?;
    Ok(CachedLayer { diff_id: packed.diff_id, digest, size })
}

/// A line of the image's history.
pub(crate) fn history(created: &str, by: &str, empty: bool) -> Result<History, Problem> {
    let builder = HistoryBuilder::default().created(created.to_owned()).created_by(by.to_owned());
    if empty { builder.empty_layer(true) } else { builder }.build().map_err(encode)
}

/// Writes configuration and manifest, and tags them.
pub(crate) fn image(
    session: &Session,
    layers: &[StackLayer],
    settings: &Settings,
    history: Vec<History>,
    created: &str,
    tags: &[Reference],
) -> Result<Image, Problem> {
    let diff_ids: Vec<String> = layers.iter().map(|one| one.layer.diff_id.to_string()).collect();
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build();
    let mut whole = ImageConfigurationBuilder::default()
        .created(created)
        .architecture("amd64")
        .os("linux")
        .rootfs(rootfs.map_err(encode)?)
        .history(history)
        .config(config(settings).map_err(encode)?);
    if let Some(author) = &settings.author {
        whole = whole.author(author.clone());
    }
    let whole = whole.build().map_err(encode)?;
    let config = encode_config(&whole, &settings.docker).map_err(encode)?;
    let descriptors: Vec<_> = layers
        .iter()
        .map(|one| {
            json!({"mediaType": one.media_type, "digest": one.layer.digest, "size": one.layer.size})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": session.put_blob(&config)?,
            "size": config.len(),
        },
        "layers": descriptors,
    });
    let manifest = session.put_blob(manifest.to_string().as_bytes())?;
    Ok(session.finish(&manifest, tags)?)
}

fn config(settings: &Settings) -> Result<oci_spec::image::Config, OciSpecError> {
    let mut config = ConfigBuilder::default();
    if !settings.env.is_empty() {
        let env = settings.env.iter().map(|(name, value)| format!("{name}={value}"));
        config = config.env(env.collect::<Vec<_>>());
    }
    if !settings.user.is_empty() {
        config = config.user(settings.user.clone());
    }
    if let Some(entrypoint) = &settings.entrypoint {
        config = config.entrypoint(entrypoint.clone());
    }
    if let Some(cmd) = &settings.cmd {
        config = config.cmd(cmd.clone());
    }
    if !settings.workdir.is_empty() {
        config = config.working_dir(settings.workdir.clone());
    }
    if !settings.labels.is_empty() {
        config = config.labels(
            settings.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
    }
    if !settings.ports.is_empty() {
        config = config.exposed_ports(settings.ports.iter().cloned().collect::<Vec<_>>());
    }
    if !settings.volumes.is_empty() {
        config = config.volumes(settings.volumes.iter().cloned().collect::<Vec<_>>());
    }
    if let Some(signal) = &settings.stop_signal {
        config = config.stop_signal(signal.clone());
    }
    config.build()
}

fn encode(error: impl std::fmt::Display) -> Problem {
    Problem::Syntax(format!("the image configuration cannot be written: {error}"))
}

/// RFC 3339 in whole seconds: the given time, or now.
pub(crate) fn timestamp(epoch: Option<i64>) -> String {
    let now = || jiff::Timestamp::now().as_second();
    let second = jiff::Timestamp::from_second(epoch.unwrap_or_else(now));
    second.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Takes out of an upper directory what only stands there because a container ran: empty mount points that
/// the layers below do not have.
pub(crate) fn remove_mount_points(upper: &Path, below: &crate::view::View) -> Result<(), Problem> {
    for name in ["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts", "etc/hostname"] {
        let path = upper.join(name);
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let found = below.find(Path::new(name), false).on_file("look for", name)?;
        if found.node.is_some() {
            continue;
        }
        if meta.is_dir() {
            // Fails if it is not empty, and then it is content.
            let _kept = fs::remove_dir(&path);
        } else if meta.is_file() && meta.len() == 0 {
            fs::remove_file(&path).on_file("remove", &path)?;
        }
    }
    Ok(())
}
