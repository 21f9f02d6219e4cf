//! What is different about a static pod: its record says what it is to be, and the API only shows it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;
use tracing::warn;

use super::Worker;
use crate::status::with_foreign;

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

    /// Takes a new version of the pod in: with the status that is known here, to which others may have added in the API; and for
    /// an agent that comes after this one, if the pod is to end.
    pub(super) fn keep_manifest(&mut self, mut pod: Arc<Pod>) -> Arc<Pod> {
        let known = self.last.status.as_ref();
        let status = match &pod.status {
            Some(_) => Some(with_foreign(known, &pod)),
            None => known.cloned(),
        };
        Arc::make_mut(&mut pod).status = status;
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

    /// A status as a change of what the API shows. Other pods that have failed do not run again, and have nothing to take back.
    pub(super) fn as_patch(&self, status: &Value) -> Value {
        let mut patch = status.clone();
        if let (Some(fields), true) = (patch.as_object_mut(), self.is_static()) {
            for field in ["reason", "message"] {
                fields.entry(field).or_insert(Value::Null);
            }
        }
        patch
    }

    fn write(&self) {
        if self.workshop.directory.path().exists()
            && let Err(cause) = self.workshop.save(&self.record)
        {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
    }
}
