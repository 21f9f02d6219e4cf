//! The images of a project: built or pulled, and described for the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_build::BuildRequest;
use berth_compose::{Build, Project, PullPolicy, Service, ServiceImage};

use super::UpArguments;
use crate::arguments::Pull;
use crate::failure::{Doing, Failure};
use crate::host::Host;
use crate::images::{self, Images};
use crate::screen;

/// Brings every service's image into the store.
pub async fn prepare(
    project: &Project,
    chosen: &BTreeSet<String>,
    arguments: &UpArguments,
    data: &Path,
    host: &Arc<dyn Host>,
) -> Result<BTreeMap<String, ServiceImage>, Failure> {
    let images = Images::open(data, &arguments.registry)?;
    let mut prepared = BTreeMap::new();
    for (key, service) in &project.services {
        if !chosen.contains(key) {
            // Its objects are planned and then left out, so any image does.
            let reference = service.image.clone().unwrap_or_else(|| built_name(project, service));
            prepared.insert(key.clone(), ServiceImage { reference, ..ServiceImage::default() });
            continue;
        }
        let name = service.image.clone().unwrap_or_else(|| built_name(project, service));
        let image = match &service.build {
            Some(build) if builds(service, &name, &images, arguments) => {
                let context = Context { key, service, build, name: &name, arguments };
                context.build(&images, data, host).await?
            }
            Some(_) => images.ensure(&name, Pull::Never).await.map_err(|failure| {
                failure.hint(format!("leave `--no-build` away to build service `{key}`"))
            })?,
            None => images.ensure(&name, policy(service, arguments)).await?,
        };
        prepared.insert(key.clone(), images::describe(name, &image));
    }
    Ok(prepared)
}

/// What an image is called that the file gives no name.
fn built_name(project: &Project, service: &Service) -> String {
    format!("{}-{}:latest", project.name, service.object_name)
}

/// Whether a service with `build` is built now. Steps that were done are remembered, so building again is how a change of
/// sources is noticed; a pull policy in the file says that the image that is there will do.
fn builds(service: &Service, name: &str, images: &Images, arguments: &UpArguments) -> bool {
    if arguments.no_build {
        return false;
    }
    let settled = matches!(
        service.pull_policy,
        Some(PullPolicy::Missing | PullPolicy::Never | PullPolicy::Always)
    );
    arguments.build || arguments.no_cache || !settled || images.store.resolve(name).is_err()
}

fn policy(service: &Service, arguments: &UpArguments) -> Pull {
    arguments.pull.unwrap_or(match service.pull_policy {
        Some(PullPolicy::Always) => Pull::Always,
        Some(PullPolicy::Never) => Pull::Never,
        Some(PullPolicy::Missing | PullPolicy::Build) | None => Pull::Missing,
    })
}

/// One service to build.
struct Context<'c> {
    key: &'c str,
    service: &'c Service,
    build: &'c Build,
    name: &'c str,
    arguments: &'c UpArguments,
}

impl Context<'_> {
    async fn build(
        &self,
        images: &Images,
        data: &Path,
        host: &Arc<dyn Host>,
    ) -> Result<berth_content::Image, Failure> {
        let position = &self.service.position;
        let context = PathBuf::from(&self.build.context);
        if !context.is_dir() {
            return Err(Failure::new(format!(
                "{position}: the build context `{}` of service `{}` is not a directory",
                self.build.context, self.key
            ))
            .hint("contexts at an address are not supported yet; check the sources out and name the directory"));
        }
        if !self.build.labels.is_empty() {
            screen::note(format!(
                "{position}: warning: `build.labels` of service `{}` have no effect yet",
                self.key
            ));
        }
        // The Dockerfile in the file must outlive the build.
        let inline = self.inline()?;
        let dockerfile = match &inline {
            Some(file) => Some(file.path().to_owned()),
            None => self.build.dockerfile.clone(),
        };
        let pull = match self.arguments.pull {
            Some(Pull::Always) => berth_build::Pull::Always,
            Some(Pull::Never) => berth_build::Pull::Never,
            Some(Pull::Missing) => berth_build::Pull::Missing,
            None if self.build.pull => berth_build::Pull::Always,
            None => berth_build::Pull::Missing,
        };
        let request = BuildRequest {
            context,
            dockerfile,
            target: self.build.target.clone(),
            args: self
                .build
                .args
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            tags: vec![images::reference(self.name)?],
            no_cache: self.arguments.no_cache || self.build.no_cache,
            pull,
            source_date_epoch: None,
        };
        images.build(self.key, request, host.step_runner(data), false).await
    }

    fn inline(&self) -> Result<Option<tempfile::NamedTempFile>, Failure> {
        let Some(text) = &self.build.dockerfile_inline else { return Ok(None) };
        let what = "cannot write down the Dockerfile of the Compose file";
        let file = tempfile::Builder::new().prefix("Dockerfile.").tempfile().doing(what)?;
        std::fs::write(file.path(), text).doing(what)?;
        Ok(Some(file))
    }
}
