//! From a registry into the store.

use std::sync::Arc;

use berth_content::{ContentStore, DiffId, Digest, Image, LayerExpectation, Reference, Session};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use reqwest::header::ACCEPT;

use crate::blob::{Blob, pieces};
use crate::client::{Access, Client, unreachable};
use crate::error::RegistryError;
use crate::progress::{LayerProgress, Silent};

const LAYERS_AT_ONCE: usize = 6;
/// Registries must take manifests of 4 MiB; nothing sensible is larger.
const DOCUMENT_LIMIT: usize = 4 << 20;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// When the registry is asked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// If the store does not have the image.
    #[default]
    IfNotPresent,
    /// Every time; layers that are here are not fetched again.
    Always,
    /// Never.
    Never,
}

/// How to pull.
#[derive(Clone)]
pub struct PullOptions {
    /// When.
    pub policy: PullPolicy,
    /// With which client.
    pub client: Client,
    /// Who hears of bytes.
    pub progress: Arc<dyn LayerProgress>,
}

impl PullOptions {
    /// The default policy, silently.
    pub fn new(client: Client) -> Self {
        Self { policy: PullPolicy::default(), client, progress: Arc::new(Silent) }
    }
}

/// Brings an image into the store under its name, and returns it.
///
/// # Errors
///
/// When the registry does not have it, refuses it or cannot be reached, or when its bytes are not what
/// they should be. Layers that arrived whole stay for the next attempt until collection.
pub async fn pull(
    store: &ContentStore,
    image: &Reference,
    options: &PullOptions,
) -> Result<Image, RegistryError> {
    if options.policy != PullPolicy::Always
        && let Some(here) = present(store, image)?
    {
        return Ok(here);
    }
    if options.policy == PullPolicy::Never {
        return Err(RegistryError::NeverPulled(image.familiar()));
    }
    let pull = Pull { session: Arc::new(store.session()?), image, options };
    pull.run().await
}

fn present(store: &ContentStore, image: &Reference) -> Result<Option<Image>, RegistryError> {
    let Some(manifest) = store.tagged(image)? else { return Ok(None) };
    // Damaged or incomplete is as good as absent here: it is pulled again.
    Ok(store.image(&manifest).ok().filter(|image| store.layer_dirs(image).is_ok()))
}

struct Pull<'a> {
    session: Arc<Session>,
    image: &'a Reference,
    options: &'a PullOptions,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, RegistryError> {
        let wanted = match (self.image.digest(), self.image.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_string(),
            (None, None) => "latest".to_owned(),
        };
        let mut bytes = self.manifest(&wanted).await?;
        self.check(&bytes, self.image.digest())?;
        if let Some(digest) = self.platform(&bytes)? {
            self.session.put_blob(&bytes)?;
            bytes = self.manifest(&digest.to_string()).await?;
            self.check(&bytes, Some(digest))?;
        }
        let manifest: ImageManifest = self.parse("manifest", &bytes)?;
        let config = self.small_blob(manifest.config()).await?;
        let parsed: ImageConfiguration = self.parse("configuration", &config)?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            return Err(
                self.protocol("a manifest and a configuration with different numbers of layers")
            );
        }
        let mut layers = Vec::new();
        for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let diff_id = diff_id.parse().map_err(|_| self.protocol("a bad diff-id"))?;
            let layer = (self.digest_of(descriptor)?, descriptor.size(), diff_id);
            // The same layer twice is fetched once.
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        let all = stream::iter(layers.into_iter().map(|layer| self.layer(layer)));
        all.buffer_unordered(LAYERS_AT_ONCE).try_collect::<Vec<()>>().await?;
        self.finish(bytes, config).await
    }

    async fn finish(&self, manifest: Vec<u8>, config: Vec<u8>) -> Result<Image, RegistryError> {
        let (session, tag) = (self.session.clone(), self.image.clone());
        let finish = move || -> Result<Image, RegistryError> {
            session.put_blob(&config)?;
            let manifest = session.put_blob(&manifest)?;
            let image = session.finish(&manifest, std::slice::from_ref(&tag))?;
            session.store().note_pulled(&tag, &manifest)?;
            Ok(image)
        };
        blocking(finish).await
    }

    fn protocol(&self, what: &str) -> RegistryError {
        RegistryError::Protocol {
            image: self.image.familiar(),
            registry: self.image.registry().to_owned(),
            what: what.to_owned(),
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        bytes: &[u8],
    ) -> Result<T, RegistryError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.protocol(&format!("a {what} that cannot be read ({error})")))
    }

    fn digest_of(&self, descriptor: &Descriptor) -> Result<Digest, RegistryError> {
        let digest = descriptor.digest().to_string().parse();
        digest.map_err(|_| self.protocol("a digest that is not SHA-256"))
    }

    fn check(&self, bytes: &[u8], expected: Option<Digest>) -> Result<(), RegistryError> {
        let found = Digest::of(bytes);
        match expected {
            Some(expected) if expected != found => {
                let registry = self.image.registry().to_owned();
                Err(RegistryError::Digest { registry, expected, found })
            }
            _ => Ok(()),
        }
    }

    async fn manifest(&self, wanted: &str) -> Result<Vec<u8>, RegistryError> {
        let url = self.options.client.url(self.image, &format!("manifests/{wanted}"));
        self.document(&url, MANIFESTS).await
    }

    /// A small document, with the attempts that a whole one may need.
    async fn document(&self, url: &str, accept: &str) -> Result<Vec<u8>, RegistryError> {
        let client = &self.options.client;
        let mut attempt = 1;
        loop {
            let request = |http: &reqwest::Client| http.get(url).header(ACCEPT, accept);
            let mut answer = client.send(self.image, Access::Pull, request).await?;
            let mut bytes = Vec::new();
            let broken = loop {
                match answer.chunk().await {
                    Ok(Some(piece)) if bytes.len() + piece.len() > DOCUMENT_LIMIT => {
                        return Err(self.protocol("a document of more than 4 MiB"));
                    }
                    Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                    Ok(None) => return Ok(bytes),
                    Err(error) => break error,
                }
            };
            if attempt >= client.attempts() {
                return Err(unreachable(self.image, broken));
            }
            client.wait(attempt, None).await;
            attempt += 1;
        }
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let digest = self.digest_of(descriptor)?;
        if let Ok(bytes) = self.session.store().blob(&digest) {
            return Ok(bytes);
        }
        let url = self.options.client.url(self.image, &format!("blobs/{digest}"));
        let bytes = self.document(&url, "*/*").await?;
        self.check(&bytes, Some(digest))?;
        Ok(bytes)
    }

    /// The manifest for this machine, if `bytes` is an index.
    fn platform(&self, bytes: &[u8]) -> Result<Option<Digest>, RegistryError> {
        let value: serde_json::Value = self.parse("manifest", bytes)?;
        if value.get("manifests").is_none() {
            return Ok(None);
        }
        let index: ImageIndex = self.parse("index", bytes)?;
        let mut has = Vec::new();
        for one in index.manifests() {
            let Some(platform) = one.platform() else { continue };
            let name = format!("{}/{}", platform.os(), platform.architecture());
            if name == "linux/amd64" {
                return self.digest_of(one).map(Some);
            }
            if !has.contains(&name) && name != "unknown/unknown" {
                has.push(name);
            }
        }
        let has = if has.is_empty() { "nothing".to_owned() } else { has.join(", ") };
        Err(RegistryError::Platform { image: self.image.familiar(), has })
    }

    async fn layer(&self, layer: (Digest, u64, DiffId)) -> Result<(), RegistryError> {
        let (digest, size, diff_id) = layer;
        let progress = &*self.options.progress;
        progress.started(&digest, size);
        if !(self.session.want_layer(&diff_id)? && self.session.want_blob(&digest, size)?) {
            let (sender, source) = pieces(size);
            let session = self.session.clone();
            let expected = LayerExpectation { digest: Some(digest), diff_id: Some(diff_id) };
            let unpacking = blocking(move || {
                session.add_layer(source, expected).map(drop).map_err(RegistryError::from)
            });
            let blob = Blob { client: &self.options.client, image: self.image, digest, size };
            // Run both to the end: dropping one half-way would leave the other's error untold.
            let (fetched, unpacked) = tokio::join!(blob.fetch(sender, progress), unpacking);
            fetched?;
            unpacked?;
        }
        progress.finished(&digest);
        Ok(())
    }
}

/// Runs blocking work on tokio's threads for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
