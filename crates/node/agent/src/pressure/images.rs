//! Images that nobody uses go when the disk gets full, the longest unused first.
//!
//! Only what was pulled can be pulled again: an image that was built, loaded or made here stays until somebody removes it.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use berth_content::{ContentError, ContentStore, Digest, Retention};

use crate::limits::ImageLimits;

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
    /// When the store cannot be read or the disk fails.
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
        if !enough() {
            outcome.bytes += store.collect(retention)?.bytes;
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
                Err(error) => return Err(error),
            }
        }
        Ok(outcome)
    }
}

/// Build steps that are kept however full the disk is: what is being built just now.
pub const UNDER_PRESSURE: Retention =
    Retention { grace: Duration::ZERO, cache: Duration::from_secs(600) };
