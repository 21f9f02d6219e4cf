//! Images for containers: present already, or pulled once however many pods wait for them.

use std::collections::HashMap;
use std::sync::Arc;

use berth_content::{ContentStore, Image, Reference};
use tokio::sync::Mutex;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// Only when the image is not here.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// The policy of a container: what it says, else `Always` for the tag `latest`.
    pub fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None => {
                let name = image.rsplit('/').next().unwrap_or(image);
                let latest =
                    !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
                if latest { Self::Always } else { Self::IfNotPresent }
            }
        }
    }
}

/// Why a container has no image. The reasons are those people know from `kubectl get pods`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`.
    pub reason: &'static str,
    /// The whole chain.
    pub message: String,
}

/// The node's images.
#[derive(Clone)]
pub struct Images {
    store: Arc<ContentStore>,
    registries: berth_registry::Client,
    /// One lock a reference, so that a hundred pods of one image pull it once.
    pulling: Arc<Mutex<HashMap<String, Arc<Mutex<()>>>>>,
}

impl Images {
    /// Images from this store, and from registries for what it lacks.
    pub fn new(store: ContentStore, registries: berth_registry::Client) -> Self {
        Self { store: Arc::new(store), registries, pulling: Arc::default() }
    }

    /// The store.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// The image under this name, pulled if need be.
    pub async fn ensure(&self, name: &str, policy: PullPolicy) -> Result<Image, ImageError> {
        let reference: Reference = name.parse().map_err(|error| ImageError {
            reason: "InvalidImageName",
            message: crate::status::chain(&error),
        })?;
        if policy != PullPolicy::Always
            && let Some(image) = self.present(name)
        {
            return Ok(image);
        }
        if policy == PullPolicy::Never {
            return Err(ImageError {
                reason: "ErrImageNeverPull",
                message: format!("image `{name}` is not on this node and the pull policy is Never"),
            });
        }
        let lock = self.pulling.lock().await.entry(name.to_owned()).or_default().clone();
        let _turn = lock.lock().await;
        if policy != PullPolicy::Always
            && let Some(image) = self.present(name)
        {
            return Ok(image);
        }
        let mut options = berth_registry::PullOptions::new(self.registries.clone());
        options.policy = berth_registry::PullPolicy::Always;
        let pulled = berth_registry::pull(&self.store, &reference, &options).await;
        match (pulled, self.present(name)) {
            (Ok(image), _) => Ok(image),
            // A registry that cannot be reached does not make an image that is here unusable, unless a digest changed hands.
            (Err(error @ berth_registry::RegistryError::Unreachable { .. }), Some(image)) => {
                tracing::warn!(image = name, error = %error, "registry not reached, the image at hand is used");
                Ok(image)
            }
            (Err(error), _) => {
                Err(ImageError { reason: "ErrImagePull", message: crate::status::chain(&error) })
            }
        }
    }

    fn present(&self, name: &str) -> Option<Image> {
        let image = self.store.resolve(name).ok()?;
        self.store.layer_dirs(&image).ok().map(|_| image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        assert_eq!(PullPolicy::of(None, "localhost:5000/app"), PullPolicy::Always);
        assert_eq!(PullPolicy::of(None, "localhost:5000/app:latest"), PullPolicy::Always);
        assert_eq!(PullPolicy::of(None, "app:1"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(None, "app@sha256:00"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(Some("Never"), "app"), PullPolicy::Never);
    }
}
