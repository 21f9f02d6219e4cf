//! Names that point at manifests.

use std::fs;
use std::io;
use std::path::Path;

use berth_unpack::Digest;

use crate::error::{ContentError, OnDisk as _};
use crate::reference::Reference;
use crate::store::ContentStore;

impl ContentStore {
    /// Points a name at a manifest that is in the store. An earlier image of that name loses it.
    ///
    /// # Errors
    ///
    /// When the manifest is not here or the disk fails.
    pub fn tag(&self, reference: &Reference, manifest: &Digest) -> Result<(), ContentError> {
        let _shared = self.share()?;
        if self.blob_size(manifest).is_none() {
            return Err(ContentError::MissingBlob(*manifest));
        }
        let path = self.root.join("tags").join(reference.file());
        self.replace(&path, manifest.to_string().as_bytes())
    }

    /// What a name points at.
    ///
    /// # Errors
    ///
    /// When the disk fails or the file is not a digest.
    pub fn tagged(&self, reference: &Reference) -> Result<Option<Digest>, ContentError> {
        let path = self.root.join("tags").join(reference.file());
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().parse()?)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).on_disk("read", path),
        }
    }

    /// Takes a name away; true if there was one. The image goes with the next collection, if nothing else holds it.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn untag(&self, reference: &Reference) -> Result<bool, ContentError> {
        let _shared = self.share()?;
        let path = self.root.join("tags").join(reference.file());
        let noted = self.root.join("pulled").join(reference.file());
        match fs::remove_file(&noted) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).on_disk("remove", noted);
            }
            _ => {}
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            outcome => outcome.on_disk("remove", path).map(|()| true),
        }
    }

    /// Notes that what this name points at came from a registry, and could be had from there again.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn note_pulled(
        &self,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<(), ContentError> {
        let path = self.root.join("pulled").join(reference.file());
        self.replace(&path, manifest.to_string().as_bytes())
    }

    /// Whether what this name points at now came from a registry. What was built or loaded under the same name since did not.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn is_pulled(&self, reference: &Reference) -> Result<bool, ContentError> {
        let path = self.root.join("pulled").join(reference.file());
        let noted = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            outcome => outcome.on_disk("read", path)?,
        };
        let tagged = self.tagged(reference)?;
        Ok(tagged.is_some_and(|tagged| tagged.to_string() == noted.trim()))
    }

    /// All names and what they point at, sorted by name.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn tags(&self) -> Result<Vec<(Reference, Digest)>, ContentError> {
        let mut found = Vec::new();
        let root = self.root.join("tags");
        walk(&root, &root, &mut found)?;
        let mut tags = Vec::new();
        for reference in found {
            // It may have been removed since.
            if let Some(manifest) = self.tagged(&reference)? {
                tags.push((reference, manifest));
            }
        }
        tags.sort();
        Ok(tags)
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Reference>) -> Result<(), ContentError> {
    for entry in fs::read_dir(folder).on_disk("list", folder)? {
        let entry = entry.on_disk("list", folder)?;
        let path = entry.path();
        if entry.file_type().on_disk("look at", &path)?.is_dir() {
            walk(root, &path, found)?;
        } else if let Ok(inside) = path.strip_prefix(root) {
            let parts: Option<Vec<_>> = inside.iter().map(|part| part.to_str()).collect();
            found.extend(parts.and_then(|parts| Reference::from_file(&parts)));
        }
    }
    Ok(())
}
