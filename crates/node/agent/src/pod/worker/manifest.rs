//! What is different about a static pod: its record says what it is to be, and the API only shows it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;
use tracing::warn;

use super::Worker;

impl Worker {
    /// Whether the pod comes from a file of this node. What the API says of it counts for nothing here.
    pub(super) fn is_static(&self) -> bool {
        self.record.manifest.is_some()
    }

    /// The UID of the object that shows the pod, if there is one.
    pub(super) fn shown_as(&self) -> Option<String> {
        if !self.is_static() {
            return Some(self.record.uid.clone());
        }
        self.shared().mirrors.of(&self.last)?.metadata.uid
    }

    /// Takes a new version of the pod in: with the status that is known here, where the API knows none, and for an agent that
    /// comes after this one, if the pod is to end.
    pub(super) fn keep_manifest(&mut self, mut pod: Arc<Pod>) -> Arc<Pod> {
        if pod.status.is_none() {
            Arc::make_mut(&mut pod).status.clone_from(&self.last.status);
        }
        if let Some(manifest) = &mut self.record.manifest {
            let (known, new) = (&mut manifest.pod.metadata, &pod.metadata);
            if known.deletion_timestamp != new.deletion_timestamp {
                known.deletion_timestamp.clone_from(&new.deletion_timestamp);
                known.deletion_grace_period_seconds = new.deletion_grace_period_seconds;
                self.write();
            }
        }
        pod
    }

    /// Keeps the status of a static pod: since when it is ready, or how it failed, is nowhere else while no API answers.
    pub(super) fn keep_status(&mut self, status: &Value) {
        let Some(manifest) = &mut self.record.manifest else { return };
        let status: PodStatus = match serde_json::from_value(status.clone()) {
            Ok(status) => status,
            Err(error) => {
                warn!(pod = %self.record.name, %error, "the pod's status is none");
                return;
            }
        };
        if manifest.pod.status.as_ref() == Some(&status) {
            return;
        }
        manifest.pod.status = Some(status.clone());
        Arc::make_mut(&mut self.last).status = Some(status);
        self.write();
    }

    fn write(&self) {
        if self.workshop.directory.path().exists()
            && let Err(cause) = self.workshop.save(&self.record)
        {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
    }
}
