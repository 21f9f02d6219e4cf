//! Images for containers: present already, or pulled once however many pods wait for them.

use std::collections::HashMap;
use std::sync::Arc;

use berth_content::{ContentError, ContentStore, Image, LeaseName, Reference};
use berth_registry::Credentials;
use k8s_openapi::api::core::v1::Secret;
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

/// The credentials in a Secret for registries.
///
/// # Errors
/// When it is of another type, or what it holds cannot be understood.
pub fn credentials_of(secret: &Secret, name: &str) -> Result<Credentials, String> {
    let (key, parse): (_, fn(&str, &str) -> _) = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => (".dockerconfigjson", Credentials::parse),
        Some("kubernetes.io/dockercfg") => (".dockercfg", Credentials::parse_old),
        _ => return Err(format!("Secret `{name}` is none for registries")),
    };
    let text = secret.data.as_ref().and_then(|data| data.get(key));
    let text = text.ok_or_else(|| format!("Secret `{name}` has no key `{key}`"))?;
    parse(&String::from_utf8_lossy(&text.0), name).map_err(|error| crate::status::chain(&error))
}

/// The node's images.
#[derive(Clone)]
pub struct Images {
    store: Arc<ContentStore>,
    registries: berth_registry::Client,
    options: berth_registry::ClientOptions,
    /// One lock a reference, so that a hundred pods of one image pull it once.
    pulling: Arc<Mutex<HashMap<String, Arc<Mutex<()>>>>>,
}

impl Images {
    /// Images from this store, and from registries for what it lacks.
    ///
    /// # Errors
    /// When no client can be made with these options.
    pub fn new(
        store: ContentStore,
        options: berth_registry::ClientOptions,
    ) -> Result<Self, berth_registry::RegistryError> {
        let registries = berth_registry::Client::new(options.clone())?;
        Ok(Self { store: Arc::new(store), registries, options, pulling: Arc::default() })
    }

    /// A client that says who it is, for those who may see what not everybody may.
    fn client(
        &self,
        credentials: Option<Credentials>,
    ) -> Result<berth_registry::Client, berth_registry::RegistryError> {
        let Some(credentials) = credentials else { return Ok(self.registries.clone()) };
        let options = self.options.clone();
        berth_registry::Client::new(berth_registry::ClientOptions { credentials, ..options })
    }

    /// The store.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// The image under this name if it is here and need not be asked for; nothing if it is to be pulled.
    ///
    /// # Errors
    /// When the name is none, or the image is not here and may not be pulled.
    pub fn at_hand(&self, name: &str, policy: PullPolicy) -> Result<Option<Image>, ImageError> {
        let _checked: Reference = name.parse().map_err(|error| ImageError {
            reason: "InvalidImageName",
            message: crate::status::chain(&error),
        })?;
        match (policy, self.present(name)) {
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => Ok(None),
            (_, Some(image)) => Ok(Some(image)),
            (PullPolicy::Never, None) => Err(ImageError {
                reason: "ErrImageNeverPull",
                message: format!("image `{name}` is not on this node and the pull policy is Never"),
            }),
        }
    }

    /// Pulls the image under this name as somebody with these credentials. Another may have done so meanwhile.
    pub async fn pull(
        &self,
        name: &str,
        policy: PullPolicy,
        credentials: Option<Credentials>,
    ) -> Result<Image, ImageError> {
        let failed = |error: berth_registry::RegistryError| ImageError {
            reason: "ErrImagePull",
            message: crate::status::chain(&error),
        };
        let reference: Reference = name.parse().map_err(|error| ImageError {
            reason: "InvalidImageName",
            message: crate::status::chain(&error),
        })?;
        let lock = self.pulling.lock().await.entry(name.to_owned()).or_default().clone();
        let _turn = lock.lock().await;
        if let Some(image) = self.at_hand(name, policy)? {
            return Ok(image);
        }
        let client = self.client(credentials).map_err(failed)?;
        let mut options = berth_registry::PullOptions::new(client);
        options.policy = berth_registry::PullPolicy::Always;
        let pulled = berth_registry::pull(&self.store, &reference, &options).await;
        match (pulled, self.present(name)) {
            (Ok(image), _) => Ok(image),
            // A registry that cannot be reached does not make an image that is here unusable, unless a digest changed hands.
            (Err(error @ berth_registry::RegistryError::Unreachable { .. }), Some(image)) => {
                tracing::warn!(image = name, error = %error, "registry not reached, the image at hand is used");
                Ok(image)
            }
            (Err(error), _) => Err(failed(error)),
        }
    }

    fn present(&self, name: &str) -> Option<Image> {
        let image = self.store.resolve(name).ok()?;
        self.store.layer_dirs(&image).ok().map(|_| image)
    }
}

/// The lease by which a pod's container keeps its images.
///
/// # Errors
/// When the names are none.
pub fn lease(uid: &str, container: &str) -> Result<LeaseName, ContentError> {
    LeaseName::parse(&format!("{uid}.{container}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_either_type_have_credentials() {
        let secret = |kind: &str, key: &str, text: &str| -> Secret {
            let text = k8s_openapi::ByteString(text.as_bytes().to_vec());
            Secret {
                type_: Some(kind.to_owned()),
                data: Some([(key.to_owned(), text)].into()),
                ..Secret::default()
            }
        };
        let entry = r#"{"r.example": {"username": "u", "password": "p"}}"#;
        let new = format!("{{\"auths\": {entry}}}");
        for (kind, key, text) in [
            ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", new.as_str()),
            ("kubernetes.io/dockercfg", ".dockercfg", entry),
        ] {
            let found = credentials_of(&secret(kind, key, text), "s").unwrap();
            assert_eq!(found.of("r.example").unwrap().username, "u");
            assert!(credentials_of(&secret(kind, "other", text), "s").is_err());
        }
        assert!(credentials_of(&secret("Opaque", ".dockercfg", entry), "s").is_err());
    }

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        assert_eq!(PullPolicy::of(None, "localhost:5000/app"), PullPolicy::Always);
        assert_eq!(PullPolicy::of(None, "localhost:5000/app:latest"), PullPolicy::Always);
        assert_eq!(PullPolicy::of(None, "app:1"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(None, "app@sha256:00"), PullPolicy::IfNotPresent);
        assert_eq!(PullPolicy::of(Some("Never"), "app"), PullPolicy::Never);
    }
}
