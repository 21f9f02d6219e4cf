//! The images a container is made from: its own, and those it has as volumes.

use std::collections::BTreeMap;
use std::time::Instant;

use berth_content::Image;
use k8s_openapi::api::core::v1::Container;

use super::Worker;
use crate::config::Cause;
use crate::event::Severity;
use crate::image::{ImageError, PullPolicy};

/// The images of a container.
pub struct Images {
    /// What it runs.
    pub own: Image,
    /// What it has as volumes, by the volume's name.
    pub volumes: BTreeMap<String, Image>,
}

impl Worker {
    /// The images, unless one cannot be had or the pod is deleted meanwhile.
    pub(super) async fn images_of(&mut self, container: &Container) -> Option<Images> {
        let name = container.image.clone().unwrap_or_default();
        let own = self.image(container, &name, container.image_pull_policy.as_deref()).await?;
        let mounted = |volume: &str| {
            container.volume_mounts.iter().flatten().any(|mount| mount.name == volume)
        };
        let pod = self.last.clone();
        let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut volumes = BTreeMap::new();
        for volume in all.filter(|volume| mounted(&volume.name)) {
            let Some(source) = &volume.image else { continue };
            let name = source.reference.clone().unwrap_or_default();
            let image = self.image(container, &name, source.pull_policy.as_deref()).await?;
            volumes.insert(volume.name.clone(), image);
        }
        Some(Images { own, volumes })
    }

    async fn image(
        &mut self,
        container: &Container,
        name: &str,
        policy: Option<&str>,
    ) -> Option<Image> {
        match self.pulled(name, PullPolicy::of(policy, name)).await? {
            Ok(image) => Some(image),
            Err(error) => {
                let message = format!("Failed to pull image \"{name}\": {error}");
                self.event(Severity::Warning, "Failed", message);
                let cause = Cause { reason: error.reason, message: error.message, exit_code: None };
                self.not_started(&container.name, &cause);
                None
            }
        }
    }

    /// Nothing if the pod is deleted or evicted before the image is here.
    async fn pulled(
        &mut self,
        name: &str,
        policy: PullPolicy,
    ) -> Option<Result<Image, ImageError>> {
        let images = self.workshop.shared.images.clone();
        match images.at_hand(name, policy) {
            Ok(Some(image)) => {
                let message = format!("Container image \"{name}\" already present on machine");
                self.event(Severity::Normal, "Pulled", message);
                return Some(Ok(image));
            }
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
        }
        self.event(Severity::Normal, "Pulling", format!("Pulling image \"{name}\""));
        let mut deletion = self.pod.clone();
        let deleted = async {
            loop {
                let gone = deletion
                    .borrow_and_update()
                    .as_ref()
                    .is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
                if gone || deletion.changed().await.is_err() {
                    return;
                }
            }
        };
        let begun = Instant::now();
        let last = self.last.clone();
        let workshop = &self.workshop;
        let work = async {
            let (credentials, wrong) = workshop.credentials(&last).await;
            if !wrong.is_empty() {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    wrong.join(", ")
                );
                let reason = "FailedToRetrieveImagePullSecret";
                workshop.shared.events.post(&last, Severity::Warning, reason, message);
            }
            images.pull(name, policy, credentials).await
        };
        let evictions = &mut self.evictions;
        let evicted = async {
            loop {
                match evictions.recv().await {
                    Some(eviction) if eviction.is_old() => {}
                    Some(eviction) => return eviction,
                    None => std::future::pending().await,
                }
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = deleted => return None,
            eviction = evicted => {
                self.evicted(eviction);
                return None;
            }
        };
        if outcome.is_ok() {
            let seconds = begun.elapsed().as_secs_f64();
            let message = format!("Successfully pulled image \"{name}\" in {seconds:.3}s");
            self.event(Severity::Normal, "Pulled", message);
        }
        Some(outcome)
    }
}
