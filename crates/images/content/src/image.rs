//! Images as the rest of berth sees them: a configuration and a stack of layers.

use berth_unpack::{DiffId, Digest};
use oci_spec::image::{ImageConfiguration, ImageManifest};

use crate::config::DockerConfig;
use crate::error::ContentError;
use crate::reference::Reference;
use crate::store::ContentStore;

/// One image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its manifest; this is its id.
    pub digest: Digest,
    /// The digest of its configuration, which other engines show as the image id.
    pub config_digest: Digest,
    /// What to run, and how it came about.
    pub config: ImageConfiguration,
    /// What docker adds to the configuration beyond the OCI specification.
    pub docker: DockerConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<DiffId>,
    /// The same layers as blobs.
    pub blobs: Vec<LayerBlob>,
}

/// A layer as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Of the compressed bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// As the manifest has it.
    pub media_type: String,
}

/// One line in a list of images.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image.
    pub image: Image,
    /// All names it has here.
    pub references: Vec<Reference>,
    /// Size of its unpacked layers in bytes.
    pub size: u64,
}

impl ContentStore {
    /// The image with this manifest.
    ///
    /// # Errors
    ///
    /// When manifest or configuration are missing, damaged or do not fit together.
    pub fn image(&self, manifest: &Digest) -> Result<Image, ContentError> {
        let document: ImageManifest = self.document("manifest", manifest)?;
        let config_digest: Digest = document.config().digest().to_string().parse()?;
        let config: ImageConfiguration = self.document("configuration", &config_digest)?;
        let docker = DockerConfig::parse(&self.blob(&config_digest)?).map_err(|source| {
            ContentError::Document { what: "configuration", digest: config_digest, source }
        })?;
        let layers = config.rootfs().diff_ids().iter().map(|text| text.parse());
        let layers = layers.collect::<Result<Vec<DiffId>, _>>()?;
        let mut blobs = Vec::new();
        for layer in document.layers() {
            blobs.push(LayerBlob {
                digest: layer.digest().to_string().parse()?,
                size: layer.size(),
                media_type: layer.media_type().to_string(),
            });
        }
        if blobs.len() != layers.len() {
            let (blobs, diffs) = (blobs.len(), layers.len());
            return Err(ContentError::LayerCount { image: *manifest, blobs, diffs });
        }
        Ok(Image { digest: *manifest, config_digest, config, docker, layers, blobs })
    }

    /// All images that have a name, each once, with all their names.
    ///
    /// # Errors
    ///
    /// When the disk fails. An image whose documents are damaged is left out, and said so in the log.
    pub fn images(&self) -> Result<Vec<ImageSummary>, ContentError> {
        let mut summaries: Vec<ImageSummary> = Vec::new();
        for (reference, manifest) in self.tags()? {
            if let Some(known) = summaries.iter_mut().find(|one| one.image.digest == manifest) {
                known.references.push(reference);
                continue;
            }
            match self.image(&manifest) {
                Ok(image) => {
                    let facts = image.layers.iter().filter_map(|layer| self.snapshots.facts(layer));
                    let size = facts.map(|facts| facts.bytes).sum();
                    summaries.push(ImageSummary { image, references: vec![reference], size });
                }
                Err(error) => tracing::warn!(image = %reference, %error, "image left out"),
            }
        }
        Ok(summaries)
    }

    /// The image with this name, or whose id (manifest or configuration digest) begins with these digits.
    ///
    /// # Errors
    ///
    /// When there is none, or several.
    pub fn resolve(&self, name: &str) -> Result<Image, ContentError> {
        if let Ok(reference) = name.parse::<Reference>()
            && let Some(manifest) = self.tagged(&reference)?
        {
            return self.image(&manifest);
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let unknown = || ContentError::Unknown(name.to_owned());
        if prefix.len() < 4 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let fits = |image: &Image| {
            image.digest.hex().starts_with(prefix) || image.config_digest.hex().starts_with(prefix)
        };
        let mut found: Vec<Image> =
            self.images()?.into_iter().map(|one| one.image).filter(fits).collect();
        match (found.pop(), found.len()) {
            (None, _) => Err(unknown()),
            (Some(image), 0) => Ok(image),
            (Some(_), more) => {
                Err(ContentError::Ambiguous { prefix: prefix.to_owned(), count: more + 1 })
            }
        }
    }
}
