//! The machine's images, opened directly: pulled, built, looked up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_build::{BuildError, BuildRequest, Problem, StepRunner};
use berth_content::{ContentStore, Image, Reference};
use berth_registry::{Client, ClientOptions, Credentials, PullOptions, PullPolicy, RegistryError};

use crate::arguments::{Pull, RegistryFlags};
use crate::failure::{Doing, Failure};
use crate::progress::{BuildOutput, Transfer};

/// Store and registries.
#[derive(Clone)]
pub struct Images {
    /// The store.
    pub store: ContentStore,
    insecure: Vec<String>,
}

impl Images {
    /// The store of a data directory.
    pub fn open(data: &Path, flags: &RegistryFlags) -> Result<Self, Failure> {
        let path = data.join("images");
        let store = ContentStore::open(&path)
            .doing(format!("cannot open the image store `{}`", path.display()))?;
        Ok(Self { store, insecure: flags.insecure_registry.clone() })
    }

    /// The way to registries. Made only when it is needed: reading the machine's certificates takes longer than starting a
    /// container.
    pub fn client(&self) -> Result<Client, RegistryError> {
        let credentials = match credentials_file() {
            Some(file) => Credentials::load(&file)?,
            None => Credentials::default(),
        };
        let insecure = self.insecure.clone();
        Client::new(ClientOptions { credentials, insecure, ..ClientOptions::default() })
    }

    /// The image of that name, pulled if the policy says so.
    pub async fn ensure(&self, name: &str, policy: Pull) -> Result<Image, Failure> {
        let reference = reference(name)?;
        if policy != Pull::Always
            && let Some(image) = self.present(&reference, name)
        {
            return Ok(image);
        }
        self.fetch(&reference, policy).await.map_err(|error| unavailable(name, &reference, error))
    }

    fn present(&self, reference: &Reference, name: &str) -> Option<Image> {
        let tagged = self.store.tagged(reference).ok().flatten();
        let image = match tagged {
            Some(manifest) => self.store.image(&manifest).ok(),
            None => self.store.resolve(name).ok(),
        };
        // Incomplete is as good as absent: it is pulled again.
        image.filter(|image| self.store.layer_dirs(image).is_ok())
    }

    async fn fetch(&self, reference: &Reference, policy: Pull) -> Result<Image, RegistryError> {
        let policy = match policy {
            Pull::Always => PullPolicy::Always,
            Pull::Missing => PullPolicy::IfNotPresent,
            Pull::Never => PullPolicy::Never,
        };
        if policy == PullPolicy::Never {
            return Err(RegistryError::NeverPulled(reference.familiar()));
        }
        let client = self.client()?;
        let transfer = Arc::new(Transfer::new("pulling", &reference.familiar()));
        let options =
            PullOptions { policy, progress: transfer.clone(), ..PullOptions::new(client) };
        let outcome = berth_registry::pull(&self.store, reference, &options).await;
        transfer.close(outcome.is_ok());
        outcome
    }

    /// Builds an image. `name` is for messages; `quiet` tells only errors.
    pub async fn build(
        &self,
        name: &str,
        request: BuildRequest,
        runner: Arc<dyn StepRunner>,
        quiet: bool,
    ) -> Result<Image, Failure> {
        let images = self.clone();
        let again = request.pull == berth_build::Pull::Always;
        let runtime = tokio::runtime::Handle::current();
        let output = BuildOutput::new(name);
        let work = move || {
            let fetch = |reference: &Reference| {
                let policy = if again { Pull::Always } else { Pull::Missing };
                runtime.block_on(images.fetch(reference, policy)).map_err(|error| {
                    Box::new(unavailable(&reference.familiar(), reference, error)).into()
                })
            };
            if quiet {
                let silent = berth_build::Silent;
                return berth_build::build(&images.store, &request, &*runner, &fetch, &silent);
            }
            let outcome = berth_build::build(&images.store, &request, &*runner, &fetch, &output);
            output.close();
            outcome
        };
        let built =
            tokio::task::spawn_blocking(work).await.doing("the builder ended unexpectedly")?;
        built.map_err(|error| unbuilt(name, error))
    }
}

/// Reads the name of an image.
pub fn reference(name: &str) -> Result<Reference, Failure> {
    let parsed: Result<Reference, berth_content::ReferenceError> = name.parse();
    parsed.map_err(|error| Failure::usage("cannot use the image name").because(error))
}

fn credentials_file() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    Some(folder.or_else(home)?.join("config.json"))
}

/// Why there is no image, and what else could be done.
fn unavailable(name: &str, reference: &Reference, error: RegistryError) -> Failure {
    let here = berth_build::base::BaseImage::named(reference).is_some();
    let local = matches!(error, RegistryError::NeverPulled(_));
    let failure = Failure::new(format!("cannot get image `{name}`")).because(error);
    if here {
        failure
            .hint(format!("`berth image bootstrap {name}` makes it from this machine's packages"))
    } else if local {
        failure.hint(format!("`berth pull {name}` pulls it, `berth build -t {name} .` builds it"))
    } else {
        failure.hint("`berth images` lists what is here")
    }
}

fn unbuilt(name: &str, error: BuildError) -> Failure {
    let hint = match &error {
        BuildError::Read { path, .. } => format!(
            "write a Dockerfile at `{}`, or name another with `dockerfile:` or `-f`",
            path.display()
        ),
        BuildError::At { source, .. } => match &**source {
            Problem::Exit { .. } => {
                "correct the instruction; the steps before it are remembered".to_owned()
            }
            Problem::Fetch { source, .. } => {
                let inner = source.downcast_ref::<Failure>().map(Failure::text).unwrap_or_default();
                let hint = inner.rsplit_once("\nhint: ").map(|(_, hint)| hint.to_owned());
                hint.unwrap_or_else(|| "check the name in FROM".to_owned())
            }
            _ => "correct the instruction and try again".to_owned(),
        },
        BuildError::Request(_) | BuildError::Store(_) => "nothing was changed".to_owned(),
    };
    Failure::new(format!("cannot build `{name}`")).because(error).hint(hint)
}

/// `EXPOSE`, `VOLUME` and `HEALTHCHECK` of an image, in the words of a Compose project.
pub fn describe(reference: String, image: &Image) -> berth_compose::ServiceImage {
    let config = image.config.config().as_ref();
    let exposed = config.and_then(|config| config.exposed_ports().clone()).unwrap_or_default();
    let ports = exposed.iter().filter_map(|port| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        Some((number.parse().ok()?, berth_compose::Protocol::parse(protocol)?))
    });
    berth_compose::ServiceImage {
        reference,
        digest: Some(image.digest.to_string()),
        exposed_ports: ports.collect(),
        volumes: config.and_then(|config| config.volumes().clone()).unwrap_or_default(),
        healthcheck: image.docker.healthcheck.as_ref().and_then(health),
    }
}

fn health(check: &berth_content::Healthcheck) -> Option<berth_compose::HealthCheck> {
    use std::time::Duration;
    let (first, rest) = check.test.split_first()?;
    let command = match first.as_str() {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => ["/bin/sh".to_owned(), "-c".to_owned()]
            .into_iter()
            .chain(rest.iter().cloned())
            .collect(),
        _ => return None,
    };
    let standard = berth_compose::HealthCheck::default();
    let time = |nanoseconds: u64, otherwise: Duration| match nanoseconds {
        0 => otherwise,
        set => Duration::from_nanos(set),
    };
    Some(berth_compose::HealthCheck {
        command: Some(command),
        interval: time(check.interval, standard.interval),
        timeout: time(check.timeout, standard.timeout),
        retries: u32::try_from(check.retries)
            .ok()
            .filter(|retries| *retries > 0)
            .unwrap_or(standard.retries),
        start_period: time(check.start_period, standard.start_period),
        start_interval: (check.start_interval > 0)
            .then(|| Duration::from_nanos(check.start_interval)),
    })
}

/// Reads `NAME=value` build arguments; a name alone takes the value of the environment.
pub fn build_arguments(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut arguments = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("`{text}` is no build argument; write NAME=value")));
        }
        if let Some(value) = value {
            arguments.insert(name.to_owned(), value);
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_keeps_its_times() {
        let check = berth_content::Healthcheck {
            test: vec!["CMD-SHELL".to_owned(), "true".to_owned()],
            interval: 5_000_000_000,
            ..berth_content::Healthcheck::default()
        };
        let read = health(&check).unwrap();
        assert_eq!(read.command.unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!((read.interval.as_secs(), read.timeout.as_secs(), read.retries), (5, 30, 3));
        let none = berth_content::Healthcheck { test: vec!["NONE".to_owned()], ..check };
        assert!(health(&none).is_none());
    }

    #[test]
    fn build_arguments_are_pairs() {
        let read = build_arguments(&["A=1=2".to_owned(), "BERTH_SURELY_UNSET".to_owned()]).unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [("A".to_owned(), "1=2".to_owned())]);
        assert_eq!(build_arguments(&["=x".to_owned()]).unwrap_err().code(), 2);
    }
}
