//! `berth image`: what is in the store, in and out of it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_build::base::{BaseImage, bootstrap as make};
use berth_content::{ContentError, Image, ImageSummary, Reference, Retention};
use berth_registry::PushOptions;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::arguments::{Pull, RegistryFlags};
use crate::failure::{Doing, Failure};
use crate::images::{self, Images};
use crate::progress::Transfer;
use crate::screen;
use crate::session::privileged;
use crate::table::table;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    Ls(ListArguments),
    /// Pull an image from its registry
    Pull(PullArguments),
    /// Push an image to its registry
    Push(PushArguments),
    /// Remove images
    Rm(RemoveArguments),
    /// Show an image's manifest and configuration as JSON
    Inspect(InspectArguments),
    /// Write images into a file that docker and podman read, too
    Save(SaveArguments),
    /// Read images from such a file
    Load(LoadArguments),
    /// Give an image another name
    Tag(TagArguments),
    /// Remove what no name and no container needs
    Prune,
    /// Make `busybox` or `debian:<suite>` from this machine's packages, without a registry
    Bootstrap(BootstrapArguments),
}

/// Flags of `berth image ls`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Print only digests
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `berth image pull`.
#[derive(Debug, Args)]
pub struct PullArguments {
    /// Its name
    pub image: String,
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Flags of `berth image push`.
#[derive(Debug, Args)]
pub struct PushArguments {
    /// Its name, which says where to
    pub image: String,
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Flags of `berth image rm`.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// Take the name away even while a container uses the image
    #[arg(short, long)]
    pub force: bool,
    /// Names, or the beginnings of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Flags of `berth image inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Names, or the beginnings of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Flags of `berth image save`.
#[derive(Debug, Args)]
pub struct SaveArguments {
    /// The file to write; otherwise standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Names, or the beginnings of digests
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Flags of `berth image load`.
#[derive(Debug, Args)]
pub struct LoadArguments {
    /// The file to read; otherwise standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
}

/// Flags of `berth image tag`.
#[derive(Debug, Args)]
pub struct TagArguments {
    /// Name, or the beginning of a digest
    pub image: String,
    /// The further name
    pub name: String,
}

/// Flags of `berth image bootstrap`.
#[derive(Debug, Args)]
pub struct BootstrapArguments {
    /// `busybox`, or `debian:` and a suite as `bookworm`
    pub image: String,
    /// Further packages to put in; may be repeated
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    pub include: Vec<String>,
    /// Another name for the result
    #[arg(short, long, value_name = "NAME")]
    pub tag: Option<String>,
}

/// Does one of the commands.
pub async fn image(command: ImageCommand, data: &Path) -> Result<u8, Failure> {
    match command {
        ImageCommand::Ls(arguments) => list(arguments, data).await,
        ImageCommand::Pull(arguments) => pull(arguments, data).await,
        ImageCommand::Push(arguments) => push(arguments, data).await,
        ImageCommand::Rm(arguments) => {
            blocking(data, move |images| remove(&images, &arguments)).await
        }
        ImageCommand::Inspect(arguments) => {
            blocking(data, move |images| inspect(&images, &arguments)).await
        }
        ImageCommand::Save(arguments) => {
            blocking(data, move |images| save(&images, &arguments)).await
        }
        ImageCommand::Load(arguments) => {
            blocking(data, move |images| load(&images, &arguments)).await
        }
        ImageCommand::Tag(arguments) => {
            blocking(data, move |images| tag(&images, &arguments)).await
        }
        ImageCommand::Prune => blocking(data, |images| prune(&images)).await,
        ImageCommand::Bootstrap(arguments) => {
            blocking(data, move |images| bootstrap(&images, &arguments)).await
        }
    }
}

/// The store works with files, which must not hold up the other tasks.
async fn blocking(
    data: &Path,
    work: impl FnOnce(Images) -> Result<u8, Failure> + Send + 'static,
) -> Result<u8, Failure> {
    privileged()?;
    let images = Images::open(data, &RegistryFlags::default())?;
    tokio::task::spawn_blocking(move || work(images))
        .await
        .doing("the command ended unexpectedly")?
}

/// Lists images.
pub async fn list(arguments: ListArguments, data: &Path) -> Result<u8, Failure> {
    blocking(data, move |images| {
        let mut all = images.store.images().doing("cannot list images")?;
        all.sort_by_key(|one| one.references.first().map(Reference::familiar));
        if arguments.quiet {
            for one in &all {
                screen::line(one.image.digest);
            }
        } else {
            screen::line(listing(&all, Timestamp::now()));
        }
        Ok(0)
    })
    .await
}

fn listing(all: &[ImageSummary], now: Timestamp) -> String {
    let mut rows = Vec::new();
    for one in all {
        let created = one.image.config.created().as_deref().and_then(berth_objects::time::parse);
        let age = created.map(|created| berth_objects::time::age(created, now)).unwrap_or_default();
        for reference in &one.references {
            let name = reference.familiar();
            let tag = reference.tag().map_or("-", berth_content::Tag::as_str);
            let repository = name.split('@').next().unwrap_or(&name);
            let repository = repository.strip_suffix(&format!(":{tag}")).unwrap_or(repository);
            let digest: String = one.image.digest.hex().chars().take(12).collect();
            rows.push(vec![
                repository.to_owned(),
                tag.to_owned(),
                digest,
                screen::size(one.size),
                age.clone(),
            ]);
        }
    }
    table(&["REPOSITORY", "TAG", "IMAGE ID", "SIZE", "AGE"], &rows)
}

/// Pulls an image, also when there is one of that name.
pub async fn pull(arguments: PullArguments, data: &Path) -> Result<u8, Failure> {
    privileged()?;
    let images = Images::open(data, &arguments.registry)?;
    let image = images.ensure(&arguments.image, Pull::Always).await?;
    screen::line(image.digest);
    Ok(0)
}

/// Pushes an image.
pub async fn push(arguments: PushArguments, data: &Path) -> Result<u8, Failure> {
    privileged()?;
    let images = Images::open(data, &arguments.registry)?;
    let to = images::reference(&arguments.image)?;
    let image = find(&images, &arguments.image)?;
    let client = images.client().doing("cannot prepare the connection to the registry")?;
    let transfer = Arc::new(Transfer::new("pushing", &to.familiar()));
    let options = PushOptions { progress: transfer.clone(), ..PushOptions::new(client) };
    let outcome = berth_registry::push(&images.store, &image, &to, &options).await;
    transfer.close(outcome.is_ok());
    screen::line(outcome.doing(format!("cannot push `{}`", arguments.image))?);
    Ok(0)
}

fn find(images: &Images, name: &str) -> Result<Image, Failure> {
    images.store.resolve(name).map_err(|error| {
        let unknown = matches!(error, ContentError::Unknown(_));
        let failure = Failure::new(format!("cannot find image `{name}`")).because(error);
        if unknown { failure.hint("`berth images` lists what is here") } else { failure }
    })
}

fn remove(images: &Images, arguments: &RemoveArguments) -> Result<u8, Failure> {
    for name in &arguments.images {
        let collected = images.store.remove(name, arguments.force).map_err(|error| {
            let used = matches!(error, ContentError::InUse { .. });
            let failure = Failure::new(format!("cannot remove image `{name}`")).because(error);
            if used {
                failure.hint("remove the container first, or take only the name away with `-f`")
            } else {
                failure.hint("`berth images` lists what is here")
            }
        })?;
        screen::line(format!("removed {name} ({} freed)", screen::size(collected.bytes)));
    }
    Ok(0)
}

fn inspect(images: &Images, arguments: &InspectArguments) -> Result<u8, Failure> {
    let mut shown = Vec::new();
    for name in &arguments.images {
        let image = find(images, name)?;
        let tags = images.store.tags().doing("cannot read the names")?;
        let names: Vec<String> = tags
            .into_iter()
            .filter(|(_, manifest)| *manifest == image.digest)
            .map(|(reference, _)| reference.familiar())
            .collect();
        let configuration =
            images.store.blob(&image.config_digest).doing("cannot read the configuration")?;
        let configuration: serde_json::Value =
            serde_json::from_slice(&configuration).doing("cannot read the configuration")?;
        shown.push(json!({
            "digest": image.digest.to_string(),
            "names": names,
            "configurationDigest": image.config_digest.to_string(),
            "configuration": configuration,
            "layers": image.blobs.iter().zip(&image.layers).map(|(blob, layer)| json!({
                "digest": blob.digest.to_string(),
                "size": blob.size,
                "mediaType": blob.media_type,
                "diffId": layer.to_string(),
            })).collect::<Vec<_>>(),
        }));
    }
    screen::line(serde_json::to_string_pretty(&shown).doing("cannot write JSON")?);
    Ok(0)
}

fn save(images: &Images, arguments: &SaveArguments) -> Result<u8, Failure> {
    let mut chosen = Vec::new();
    for name in &arguments.images {
        let image = find(images, name)?;
        // By its digest it has no name in the archive.
        let names: Vec<Reference> = match name.parse::<Reference>() {
            Ok(reference) if images.store.tagged(&reference).ok().flatten().is_some() => {
                vec![reference]
            }
            _ => Vec::new(),
        };
        chosen.push((image, names));
    }
    let listed: Vec<(&Image, Vec<Reference>)> =
        chosen.iter().map(|(image, names)| (image, names.clone())).collect();
    let Some(path) = &arguments.output else {
        if io::IsTerminal::is_terminal(&io::stdout()) {
            return Err(Failure::usage("an archive is not for a terminal")
                .hint("name a file with `-o FILE`"));
        }
        images
            .store
            .save(&listed, BufWriter::new(io::stdout().lock()))
            .doing("cannot write the archive")?;
        return Ok(0);
    };
    let what = format!("cannot write `{}`", path.display());
    let mut file = BufWriter::new(File::create(path).doing(&what)?);
    let saved = images.store.save(&listed, &mut file).doing(&what);
    let saved = saved.and_then(|()| file.flush().doing(&what));
    if saved.is_err() {
        // Half an archive helps nobody.
        std::fs::remove_file(path).doing(&what)?;
    }
    saved.map(|()| 0)
}

fn load(images: &Images, arguments: &LoadArguments) -> Result<u8, Failure> {
    let loaded = match &arguments.input {
        Some(path) => {
            let file = File::open(path).doing(format!("cannot open `{}`", path.display()))?;
            images.store.load(BufReader::new(file))
        }
        None => images.store.load(io::stdin().lock()),
    };
    for (image, names) in loaded.doing("cannot load the archive")? {
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        let name = if names.is_empty() { image.digest.to_string() } else { names.join(", ") };
        screen::line(format!("loaded {name}"));
    }
    Ok(0)
}

fn tag(images: &Images, arguments: &TagArguments) -> Result<u8, Failure> {
    let image = find(images, &arguments.image)?;
    let name = images::reference(&arguments.name)?;
    images.store.tag(&name, &image.digest).doing(format!("cannot tag `{}`", arguments.image))?;
    Ok(0)
}

fn prune(images: &Images) -> Result<u8, Failure> {
    let collected =
        images.store.collect(Retention::default()).doing("cannot collect what is not needed")?;
    screen::line(format!(
        "{} layers, {} blobs and {} build steps removed, {} freed",
        collected.layers,
        collected.blobs,
        collected.steps,
        screen::size(collected.bytes)
    ));
    Ok(0)
}

fn bootstrap(images: &Images, arguments: &BootstrapArguments) -> Result<u8, Failure> {
    let reference = images::reference(&arguments.image)?;
    let mut base = BaseImage::named(&reference).ok_or_else(|| {
        Failure::usage(format!("`{}` cannot be made from this machine's packages", arguments.image))
            .hint("`busybox` and `debian:<suite>` can, for example `debian:bookworm`")
    })?;
    match &mut base {
        BaseImage::Debian { include, .. } => include.clone_from(&arguments.include),
        BaseImage::Busybox if arguments.include.is_empty() => {}
        BaseImage::Busybox => {
            return Err(Failure::usage("`--include` is for Debian; busybox has no packages"));
        }
    }
    let tag = match &arguments.tag {
        Some(tag) => images::reference(tag)?,
        None => reference,
    };
    let made = make(&images.store, &base, &tag, &mut io::stderr().lock());
    let image = made.map_err(|error| {
        let hint = match &error {
            berth_build::base::BaseError::Program { package, .. } => {
                format!("apt-get install {package}")
            }
            _ => "the output above says more".to_owned(),
        };
        Failure::new(format!("cannot make `{}`", arguments.image)).because(error).hint(hint)
    })?;
    screen::line(image.digest);
    Ok(0)
}
