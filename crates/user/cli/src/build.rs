//! `berth build`: an image from a Dockerfile.

use std::path::{Path, PathBuf};

use berth_build::BuildRequest;
use clap::Args;

use crate::arguments::RegistryFlags;
use crate::failure::{Doing, Failure};
use crate::host::Host;
use crate::images::{self, Images};
use crate::screen;
use crate::session::privileged;

/// Flags of `berth build`.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// Name for the image; may be repeated
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// The Dockerfile; otherwise `Dockerfile` in the context
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The stage to build; otherwise the last
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value for an ARG, as NAME=value; a name alone takes it from the environment; may be repeated
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub build_args: Vec<String>,
    /// Run every step again
    #[arg(long)]
    pub no_cache: bool,
    /// Ask registries for newer base images
    #[arg(long)]
    pub pull: bool,
    /// Print only the image's digest
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// The directory with the files to build from
    #[arg(value_name = "CONTEXT")]
    pub context: PathBuf,
}

/// Builds the image and prints its digest.
pub async fn build(arguments: BuildArguments, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    privileged()?;
    let shown = arguments.context.display().to_string();
    let context =
        arguments.context.canonicalize().doing(format!("cannot open the context `{shown}`"))?;
    if !context.is_dir() {
        return Err(Failure::usage(format!("the context `{shown}` is not a directory")));
    }
    // Unlike in a Compose file, it is relative to the caller's directory.
    let dockerfile = match &arguments.file {
        Some(file) => Some(file.canonicalize().doing(format!("cannot open `{}`", file.display()))?),
        None => None,
    };
    let images = Images::open(data, &arguments.registry)?;
    let tags =
        arguments.tags.iter().map(|tag| images::reference(tag)).collect::<Result<Vec<_>, _>>()?;
    let name = arguments.tags.first().cloned().unwrap_or(shown);
    let request = BuildRequest {
        context,
        dockerfile,
        target: arguments.target,
        args: images::build_arguments(&arguments.build_args)?,
        tags,
        no_cache: arguments.no_cache,
        pull: if arguments.pull { berth_build::Pull::Always } else { berth_build::Pull::Missing },
        source_date_epoch: std::env::var("SOURCE_DATE_EPOCH")
            .ok()
            .and_then(|text| text.parse().ok()),
    };
    let image = images.build(&name, request, host.step_runner(data), arguments.quiet).await?;
    screen::line(image.digest);
    if !arguments.quiet {
        for tag in &arguments.tags {
            screen::note(format!("tagged {tag}"));
        }
    }
    Ok(0)
}
