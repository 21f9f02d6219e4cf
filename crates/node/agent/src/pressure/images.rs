//! Images that nobody uses go when the disk gets full, the longest unused first.
//!
//! Only what was pulled can be pulled again: an image that was built, loaded or made here stays until somebody removes it.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use berth_content::{ContentError, ContentStore, Digest, Retention};

use tracing::warn;

use crate::limits::ImageLimits;
use crate::status::chain;

/// An image that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Manifest.
    pub digest: Digest,
    /// A name of it.
    pub name: String,
    /// Since when it is known to be here.
    pub first: Instant,
    /// When it was last in use, as far as is known.
    pub last: Instant,
}

/// What is remembered of images: when each was seen first and in use last.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<Digest, (Instant, Instant)>);

/// What a collection came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Names of images that went.
    pub removed: Vec<String>,
    /// Bytes they took.
    pub bytes: u64,
}

impl Seen {
    /// Looks which images are here and which are in use; those that are neither in use nor to be kept, the longest unused first.
    ///
    /// # Errors
    /// When the store cannot be read: what is in use is then unknown.
    pub fn look(
        &mut self,
        store: &ContentStore,
        now: Instant,
    ) -> Result<Vec<Unused>, ContentError> {
        let leases = store.leases()?;
        let used: HashSet<Digest> =
            leases.into_iter().flat_map(|(_, lease)| lease.images).collect();
        let images = store.images()?;
        self.0.retain(|known, _| images.iter().any(|image| image.image.digest == *known));
        let mut unused = Vec::new();
        for summary in images {
            let digest = summary.image.digest;
            let (first, last) = self.0.entry(digest).or_insert((now, now));
            if used.contains(&digest) {
                *last = now;
                continue;
            }
            let mut pulled = true;
            for reference in &summary.references {
                pulled &= store.is_pulled(reference)?;
            }
            if pulled {
                let name = summary
                    .references
                    .first()
                    .map_or_else(|| digest.to_string(), |it| it.familiar());
                unused.push(Unused { digest, name, first: *first, last: *last });
            }
        }
        unused.sort_by_key(|image| (image.last, image.first));
        Ok(unused)
    }

    /// Removes unused images that are old enough until `enough` says so, and layers and build steps that nothing needs.
    /// Blocks.
    ///
    /// # Errors
    /// When the store cannot be read, or when the disk fails and no image could be removed.
    pub fn collect(
        &mut self,
        store: &ContentStore,
        limits: &ImageLimits,
        retention: Retention,
        mut enough: impl FnMut() -> bool,
    ) -> Result<Outcome, ContentError> {
        let now = Instant::now();
        let mut outcome = Outcome::default();
        let unused = self.look(store, now)?;
        let mut failure = None;
        let mut failed = |error: ContentError| {
            warn!(error = %chain(&error), "not all that nobody uses was removed");
            failure.get_or_insert(error);
        };
        if !enough() {
            match store.collect(retention) {
                Ok(collected) => outcome.bytes += collected.bytes,
                Err(error) => failed(error),
            }
        }
        for image in unused {
            let expired =
                limits.oldest.is_some_and(|oldest| now.duration_since(image.last) > oldest);
            let young = now.duration_since(image.first) < limits.youngest;
            if young || !expired && enough() {
                continue;
            }
            // A pod may have come for it meanwhile; then it is in use, and stays.
            match store.remove(&image.digest.to_string(), false) {
                Ok(collected) => {
                    outcome.bytes += collected.bytes;
                    outcome.removed.push(image.name);
                }
                Err(ContentError::InUse { .. }) => {}
                // Somebody else removed it.
                Err(ContentError::Unknown(_)) => {}
                // The next one may go nevertheless, and make the room that this one lacked.
                Err(error) => failed(error),
            }
        }
        failure.filter(|_| outcome.removed.is_empty()).map_or(Ok(outcome), Err)
    }
}

/// Build steps that are kept however full the disk is: what is being built just now.
pub const UNDER_PRESSURE: Retention =
    Retention { grace: Duration::ZERO, cache: Duration::from_secs(600) };

#[cfg(test)]
mod tests {
    use super::*;
    use berth_content::{Durability, Image, LeaseName, Reference};
    use serde_json::json;

    /// An image without layers, which differs by its comment.
    fn image(store: &ContentStore, name: &str, pulled: bool) -> Image {
        let session = store.session().unwrap();
        let config = json!({"architecture": "amd64", "os": "linux", "author": name,
                            "rootfs": {"type": "layers", "diff_ids": []}});
        let config = config.to_string();
        let digest = session.put_blob(config.as_bytes()).unwrap();
        let manifest = json!({
            "schemaVersion": 2, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": digest, "size": config.len()},
        });
        let manifest = session.put_blob(manifest.to_string().as_bytes()).unwrap();
        let tag: Reference = name.parse().unwrap();
        let image = session.finish(&manifest, std::slice::from_ref(&tag)).unwrap();
        if pulled {
            store.note_pulled(&tag, &manifest).unwrap();
        }
        image
    }

    #[test]
    fn images_go_that_nobody_uses_and_that_can_be_had_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path().join("images")).unwrap();
        let store = store.with_durability(Durability::ThisBoot);
        let limits = |youngest: u64, oldest: Option<Duration>| ImageLimits {
            high: 90,
            low: 85,
            youngest: Duration::from_secs(youngest),
            oldest,
        };
        let used = image(&store, "used:1", true);
        let lease = LeaseName::parse("pod.main").unwrap();
        store.lease(&lease, &[&used]).unwrap();
        image(&store, "first:1", true);
        image(&store, "built:1", false);
        // Built anew under the name of one that was pulled.
        image(&store, "again:1", true);
        let session = store.session().unwrap();
        let built = image(&store, "again:2", false);
        session.finish(&built.digest, &["again:1".parse().unwrap()]).unwrap();
        drop(session);
        let mut seen = Seen::default();
        let mut collect = |limits: &ImageLimits, enough: bool| {
            let done = seen.collect(&store, limits, UNDER_PRESSURE, || enough).unwrap();
            done.removed.join(" ")
        };
        assert_eq!(collect(&limits(60, None), false), "", "too young");
        assert_eq!(collect(&limits(0, None), true), "", "there is room");
        assert_eq!(collect(&limits(0, None), false), "first:1");
        store.release(&lease).unwrap();
        assert_eq!(collect(&limits(0, Some(Duration::ZERO)), true), "used:1", "too old");
        assert_eq!(collect(&limits(0, None), false), "");
        assert!(store.resolve("built:1").is_ok() && store.resolve("again:1").is_ok());
        assert!(store.resolve("used:1").is_err());
    }
}
