//! Images as tar files.
//!
//! What we write is an OCI layout with docker's `manifest.json` beside it: one file that `docker load`, `podman load`,
//! `skopeo copy oci-archive:` and `docker-archive:` all read. We read both kinds, and docker's older layout with
//! one folder per layer.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use berth_unpack::{Digest, EntryKind, EntryPath, TarLimits, TarReader};
use oci_spec::image::{ImageIndex, ImageManifest, MediaType};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{ContentError, OnDisk as _};
use crate::image::Image;
use crate::reference::Reference;
use crate::session::{LayerExpectation, Session};
use crate::store::ContentStore;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image in docker's `manifest.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ContentStore {
    /// Writes images, each with all names given for it, as one tar file. Blocks.
    ///
    /// # Errors
    ///
    /// When a blob is missing or damaged, or `to` fails; what was written is then no archive.
    pub fn save(
        &self,
        images: &[(&Image, Vec<Reference>)],
        to: impl Write,
    ) -> Result<(), ContentError> {
        let mut tar = TarWriter { to };
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut manifests = Vec::new();
        let mut entries = Vec::new();
        let mut written: Vec<Digest> = Vec::new();
        for (image, references) in images {
            let documents = [image.digest, image.config_digest].map(|digest| (digest, None));
            let layers = image.blobs.iter().map(|blob| (blob.digest, Some(blob.size)));
            for (digest, size) in documents.into_iter().chain(layers) {
                if !written.contains(&digest) {
                    self.save_blob(&mut tar, digest, size)?;
                    written.push(digest);
                }
            }
            let size = self.blob(&image.digest)?.len();
            let mut descriptor =
                json!({"mediaType": OCI_MANIFEST, "digest": image.digest, "size": size});
            for reference in references {
                descriptor["annotations"] = json!({NAME: reference.to_string()});
                manifests.push(descriptor.clone());
            }
            if references.is_empty() {
                manifests.push(descriptor);
            }
            entries.push(DockerEntry {
                config: place(&image.config_digest),
                repo_tags: Some(references.iter().map(Reference::familiar).collect()),
                layers: image.blobs.iter().map(|blob| place(&blob.digest)).collect(),
            });
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        tar.file("index.json", index.to_string().as_bytes())?;
        tar.file("manifest.json", &encode(&entries)?)?;
        tar.to.write_all(&[0; 1024]).and_then(|()| tar.to.flush()).on_disk("write", "archive")
    }

    fn save_blob<W: Write>(
        &self,
        tar: &mut TarWriter<W>,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<(), ContentError> {
        let Some(size) = size else { return tar.file(&place(&digest), &self.blob(&digest)?) };
        let mut source = berth_unpack::Hashing::new(self.open_blob(&digest)?);
        tar.stream(&place(&digest), size, &mut source)?;
        let (found, length, _) = source.finish();
        if (found, length) == (digest, size) { Ok(()) } else { Err(ContentError::Damaged(digest)) }
    }

    /// Reads an archive that this store, docker, podman or skopeo wrote, and tags what it names. Blocks.
    ///
    /// # Errors
    ///
    /// When it is no image archive, or damaged. Images before the bad one stay.
    pub fn load(&self, from: impl Read) -> Result<Vec<(Image, Vec<Reference>)>, ContentError> {
        let session = self.session()?;
        let files = Files::unpack(from, &session)?;
        if files.has("index.json") {
            return files.load_oci(&session);
        }
        if files.has("manifest.json") {
            return files.load_docker(&session);
        }
        Err(ContentError::Archive("it has neither index.json nor manifest.json".to_owned()))
    }
}

fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, ContentError> {
    serde_json::to_vec(value).map_err(io::Error::from).on_disk("encode", "archive")
}

struct TarWriter<W> {
    to: W,
}

impl<W: Write> TarWriter<W> {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ContentError> {
        self.stream(name, bytes.len() as u64, &mut &bytes[..])
    }

    fn stream(&mut self, name: &str, size: u64, from: &mut impl Read) -> Result<(), ContentError> {
        let mut write = || -> io::Result<()> {
            let mut header = tar::Header::new_ustar();
            header.set_path(name)?;
            header.set_size(size);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            self.to.write_all(header.as_bytes())?;
            let copied = io::copy(&mut from.take(size), &mut self.to)?;
            if copied != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
            self.to.write_all(&[0; 512][..padding])
        };
        write().on_disk("write", "archive")
    }
}

/// The files of an archive, by the names they have in it. On disk they are numbered.
struct Files {
    files: HashMap<PathBuf, PathBuf>,
    links: HashMap<PathBuf, PathBuf>,
}

impl Files {
    fn unpack(from: impl Read, session: &Session) -> Result<Self, ContentError> {
        let folder = session.scratch()?;
        let mut files = Self { files: HashMap::new(), links: HashMap::new() };
        let mut reader = TarReader::new(from, TarLimits::default());
        let bad = |error: berth_unpack::TarError| ContentError::Archive(error.to_string());
        while let Some(entry) = reader.next_entry().map_err(bad)? {
            let name = entry.path.as_path().to_owned();
            match entry.kind {
                EntryKind::File { segments: None, .. } => {
                    let path = folder.join(files.files.len().to_string());
                    let mut file = File::create(&path).on_disk("create", &path)?;
                    io::copy(&mut reader, &mut file).on_disk("write", &path)?;
                    files.files.insert(name, path);
                }
                // Docker's older layout shares layers through relative links.
                EntryKind::Symlink(target) => {
                    let whole = name.parent().unwrap_or(Path::new("")).join(target);
                    let whole = EntryPath::parse(whole.as_os_str().as_encoded_bytes());
                    let whole = whole.map_err(|error| ContentError::Archive(error.to_string()))?;
                    files.links.insert(name, whole.as_path().to_owned());
                }
                EntryKind::HardLink(target) => {
                    files.links.insert(name, target.as_path().to_owned());
                }
                _ => {}
            }
        }
        Ok(files)
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(Path::new(name))
    }

    fn open(&self, name: &Path) -> Result<File, ContentError> {
        let name = self.links.get(name).map_or(name, PathBuf::as_path);
        let path = self.files.get(name);
        let path =
            path.ok_or_else(|| ContentError::Archive(format!("it lacks {}", name.display())))?;
        File::open(path).on_disk("open", path)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        self.open(Path::new(name))?.read_to_end(&mut bytes).on_disk("read", name)?;
        Ok(bytes)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T, ContentError> {
        let bytes = self.read(name)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ContentError::Archive(format!("{name}: {error}")))
    }

    fn load_oci(&self, session: &Session) -> Result<Vec<(Image, Vec<Reference>)>, ContentError> {
        let index: ImageIndex = self.parse("index.json")?;
        let names = self.docker_names()?;
        let mut loaded: Vec<(Image, Vec<Reference>)> = Vec::new();
        for descriptor in index.manifests() {
            let annotations = descriptor.annotations().clone().unwrap_or_default();
            // skopeo writes a whole name or only a tag here; only a whole name is of use.
            let name = annotations
                .get(NAME)
                .or_else(|| annotations.get(REF_NAME).filter(|name| name.contains(['/', ':'])));
            let mut references: Vec<Reference> =
                name.and_then(|name| name.parse().ok()).into_iter().collect();
            let digest: Digest = descriptor.digest().to_string().parse()?;
            let digest = self.platform(descriptor.media_type(), digest)?;
            let manifest: ImageManifest = self.parse(&place(&digest))?;
            let config: Digest = manifest.config().digest().to_string().parse()?;
            for name in names.get(&place(&config)).into_iter().flatten() {
                if !references.contains(name) {
                    references.push(name.clone());
                }
            }
            let layers = manifest.layers().iter().map(|layer| layer.digest().to_string().parse());
            let layers: Vec<Digest> = layers.collect::<Result<_, _>>()?;
            let files: Vec<PathBuf> = layers.iter().map(|layer| place(layer).into()).collect();
            let digests: Vec<_> = layers.into_iter().map(Some).collect();
            let config = self.read(&place(&config))?;
            self.add_layers(session, &config, &files, &digests)?;
            session.put_blob(&config)?;
            session.put_blob(&self.read(&place(&digest))?)?;
            let image = session.finish(&digest, &references)?;
            match loaded.iter_mut().find(|(known, _)| known.digest == image.digest) {
                Some((_, known)) => {
                    references.retain(|reference| !known.contains(reference));
                    known.extend(references);
                }
                None => loaded.push((image, references)),
            }
        }
        Ok(loaded)
    }

    /// The manifest for this machine, when the archive holds an index of several.
    fn platform(&self, kind: &MediaType, digest: Digest) -> Result<Digest, ContentError> {
        let kind = kind.to_string();
        if !kind.contains("index") && !kind.contains("manifest.list") {
            return Ok(digest);
        }
        let index: ImageIndex = self.parse(&place(&digest))?;
        let fits = index.manifests().iter().find(|one| {
            one.platform().as_ref().is_some_and(|platform| {
                platform.os().to_string() == "linux"
                    && platform.architecture().to_string() == "amd64"
            })
        });
        let fits = fits
            .ok_or_else(|| ContentError::Archive("it has no image for linux/amd64".to_owned()))?;
        Ok(fits.digest().to_string().parse()?)
    }

    fn docker_names(&self) -> Result<BTreeMap<String, Vec<Reference>>, ContentError> {
        if !self.has("manifest.json") {
            return Ok(BTreeMap::new());
        }
        let entries: Vec<DockerEntry> = self.parse("manifest.json")?;
        Ok(entries.into_iter().map(|entry| (entry.config.clone(), names(&entry))).collect())
    }

    fn load_docker(&self, session: &Session) -> Result<Vec<(Image, Vec<Reference>)>, ContentError> {
        let entries: Vec<DockerEntry> = self.parse("manifest.json")?;
        let mut loaded = Vec::new();
        for entry in entries {
            let config = self.read(&entry.config)?;
            let files: Vec<PathBuf> = entry.layers.iter().map(PathBuf::from).collect();
            let unknown = vec![None; files.len()];
            let blobs = self.add_layers(session, &config, &files, &unknown)?;
            let layers: Vec<_> = blobs
                .iter()
                .map(|(digest, size)| {
                    let kind = "application/vnd.oci.image.layer.v1.tar";
                    json!({"mediaType": kind, "digest": digest, "size": size})
                })
                .collect();
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {
                    "mediaType": OCI_CONFIG,
                    "digest": session.put_blob(&config)?,
                    "size": config.len(),
                },
                "layers": layers,
            });
            let digest = session.put_blob(&encode(&manifest)?)?;
            let references = names(&entry);
            loaded.push((session.finish(&digest, &references)?, references));
        }
        Ok(loaded)
    }

    /// Adds the layers of one image; each must be what the configuration says.
    fn add_layers(
        &self,
        session: &Session,
        config: &[u8],
        files: &[PathBuf],
        digests: &[Option<Digest>],
    ) -> Result<Vec<(Digest, u64)>, ContentError> {
        let config: oci_spec::image::ImageConfiguration = serde_json::from_slice(config)
            .map_err(|error| ContentError::Archive(format!("configuration: {error}")))?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != files.len() {
            return Err(ContentError::Archive("layers and configuration do not match".to_owned()));
        }
        let mut blobs = Vec::new();
        for ((file, digest), diff_id) in files.iter().zip(digests).zip(diff_ids) {
            let expected = LayerExpectation { digest: *digest, diff_id: Some(diff_id.parse()?) };
            let unpacked = session.add_layer(self.open(file)?, expected)?;
            blobs.push((unpacked.digest, unpacked.compressed));
        }
        Ok(blobs)
    }
}

fn names(entry: &DockerEntry) -> Vec<Reference> {
    entry.repo_tags.iter().flatten().filter_map(|name| name.parse().ok()).collect()
}
