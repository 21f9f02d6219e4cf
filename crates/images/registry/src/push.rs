//! From the store to a registry.

use std::sync::Arc;

use berth_content::{ContentStore, Digest, Image, Reference};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use crate::client::{Access, Client};
use crate::error::RegistryError;
use crate::progress::{LayerProgress, Silent};

const BLOBS_AT_ONCE: usize = 4;

/// How to push.
#[derive(Clone)]
pub struct PushOptions {
    /// With which client.
    pub client: Client,
    /// Repositories of the same registry that may have the layers already (the base image's); the registry is
    /// asked to take them from there.
    pub mount_from: Vec<String>,
    /// Who hears of bytes.
    pub progress: Arc<dyn LayerProgress>,
}

impl PushOptions {
    /// No hints, silently.
    pub fn new(client: Client) -> Self {
        Self { client, mount_from: Vec::new(), progress: Arc::new(Silent) }
    }
}

/// Sends an image to the registry and under the name of `to`; returns the digest it has there, which is its own.
///
/// # Errors
///
/// When a layer is not in the store, or the registry refuses or cannot be reached. Blobs that arrived stay
/// there, and are not sent again.
pub async fn push(
    store: &ContentStore,
    image: &Image,
    to: &Reference,
    options: &PushOptions,
) -> Result<Digest, RegistryError> {
    let push = Push { store, to, options };
    let layers = stream::iter(&image.blobs).map(|blob| push.blob(blob.digest, blob.size));
    layers.buffer_unordered(BLOBS_AT_ONCE).try_collect::<Vec<()>>().await?;
    let config = store.blob(&image.config_digest)?;
    push.blob(image.config_digest, config.len() as u64).await?;
    let manifest = store.blob(&image.digest)?;
    let name = to.tag().map_or_else(|| image.digest.to_string(), ToString::to_string);
    let url = options.client.url(to, &format!("manifests/{name}"));
    let kind = media_type(&manifest);
    let request =
        |http: &reqwest::Client| http.put(&url).header(CONTENT_TYPE, &kind).body(manifest.clone());
    options.client.send(to, Access::Push, request).await?;
    Ok(image.digest)
}

/// What the manifest calls itself; older documents do not, and are then docker's.
fn media_type(manifest: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(manifest).ok();
    let own = value.as_ref().and_then(|value| value.get("mediaType")?.as_str());
    own.unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned()
}

struct Push<'a> {
    store: &'a ContentStore,
    to: &'a Reference,
    options: &'a PushOptions,
}

impl Push<'_> {
    async fn blob(&self, digest: Digest, size: u64) -> Result<(), RegistryError> {
        self.options.progress.started(&digest, size);
        let mut attempt = 1;
        while !self.there(&digest).await? {
            // The body is a stream, so a broken upload begins anew as a whole.
            match self.upload(digest, size).await {
                Ok(()) => break,
                Err(RegistryError::Unreachable { .. })
                    if attempt < self.options.client.attempts() =>
                {
                    self.options.client.wait(attempt, None).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.options.progress.finished(&digest);
        Ok(())
    }

    async fn there(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.options.client.url(self.to, &format!("blobs/{digest}"));
        match self.options.client.send(self.to, Access::Push, |http| http.head(&url)).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn upload(&self, digest: Digest, size: u64) -> Result<(), RegistryError> {
        let client = &self.options.client;
        let mut begun = None;
        for from in &self.options.mount_from {
            let url = client.url(self.to, &format!("blobs/uploads/?mount={digest}&from={from}"));
            let answer = client.send(self.to, Access::Push, |http| http.post(&url)).await?;
            if answer.status() == StatusCode::CREATED {
                return Ok(());
            }
            // Not there; the registry has begun an upload instead.
            begun = Some(answer);
        }
        let answer = match begun {
            Some(answer) => answer,
            None => {
                let url = client.url(self.to, "blobs/uploads/");
                client.send(self.to, Access::Push, |http| http.post(&url)).await?
            }
        };
        let mut url = self.location(&answer)?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let file = self.store.open_blob(&digest)?;
        let request = |http: &reqwest::Client| {
            let request = http.put(url.clone()).header(CONTENT_LENGTH, size);
            let request = request.header(CONTENT_TYPE, "application/octet-stream");
            match self.body(&file, digest) {
                Ok(body) => request.body(body),
                // An empty body under a wrong length is refused by the registry and told as such.
                Err(error) => {
                    tracing::warn!(layer = %digest, %error, "layer cannot be read for upload");
                    request.body(Vec::new())
                }
            }
        };
        client.send(self.to, Access::Push, request).await.map(drop)
    }

    /// The blob from its beginning, telling how far it is.
    fn body(&self, file: &std::fs::File, digest: Digest) -> std::io::Result<Body> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        let file = tokio::fs::File::from_std(std::fs::File::open(path)?);
        let progress = self.options.progress.clone();
        let mut sent = 0;
        let stream = ReaderStream::with_capacity(file, 256 * 1024).inspect_ok(move |piece| {
            sent += piece.len() as u64;
            progress.advanced(&digest, sent);
        });
        Ok(Body::wrap_stream(stream))
    }

    /// Where the registry wants the bytes; relative to itself in some.
    fn location(&self, answer: &Response) -> Result<Url, RegistryError> {
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| answer.url().join(location).ok());
        url.ok_or_else(|| RegistryError::Protocol {
            image: self.to.familiar(),
            registry: self.to.registry().to_owned(),
            what: "no place to upload to".to_owned(),
        })
    }
}
