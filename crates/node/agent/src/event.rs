//! Events: what people read first when something is wrong.
//!
//! Posting must never hold up a pod, so events go through a bounded queue to one task; when the queue is full they are
//! counted and the loss is logged.

mod correlate;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::correlate::{Correlator, Verdict};

/// Posts events of this node's pods.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    node: Arc<str>,
}

/// How serious it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// For the record.
    Normal,
    /// Somebody should look.
    Warning,
}

const QUEUE: usize = 1024;

/// The longest message, in bytes; upstream's own bound.
const LONGEST: usize = 1024;

impl Events {
    /// The sender, and the task that posts until `stop`.
    pub fn new(
        client: Client,
        node: &str,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, mut waiting) = mpsc::channel::<Event>(QUEUE);
        let post = async move {
            let mut correlator = Correlator::default();
            loop {
                let event = tokio::select! {
                    event = waiting.recv() => event,
                    () = stop.cancelled() => None,
                };
                let Some(event) = event else { return };
                if let Err(error) = write(&client, &mut correlator, event).await {
                    // A namespace that is being deleted takes no events any more.
                    tracing::debug!(%error, "event not posted");
                }
            }
        };
        (Self { queue, node: node.into() }, post)
    }

    /// Posts an event about a pod.
    pub fn post(&self, pod: &Pod, severity: Severity, reason: &str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: Some(pod.namespace().unwrap_or_default()),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.about(about, severity, reason, message);
    }

    /// Posts an event about this node.
    pub fn post_node(&self, severity: Severity, reason: &str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.to_string()),
            // Where `kubectl describe node` looks for them.
            uid: Some(self.node.to_string()),
            ..ObjectReference::default()
        };
        self.about(about, severity, reason, message);
    }

    fn about(&self, about: ObjectReference, severity: Severity, reason: &str, mut message: String) {
        // What a container says is in it at times.
        message.truncate(message.floor_char_boundary(LONGEST));
        let now = Timestamp::now();
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let event = Event {
            metadata: ObjectMeta { namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: about,
            type_: Some(if severity == Severity::Normal { "Normal" } else { "Warning" }.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource {
                component: Some("berth".to_owned()),
                host: Some(self.node.to_string()),
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            event_time: Some(MicroTime(now)),
            count: Some(1),
            action: Some(reason.to_owned()),
            reporting_component: Some("berth".to_owned()),
            reporting_instance: Some(self.node.to_string()),
            ..Event::default()
        };
        if self.queue.try_send(event).is_err() {
            warn!(reason, "event queue is full, an event is lost");
        }
    }
}

/// Writes an event, or counts it on the object that says the same.
async fn write(
    client: &Client,
    correlator: &mut Correlator,
    mut event: Event,
) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    for _ in 0..2 {
        let of = &event.involved_object;
        let pod = (of.uid.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default());
        let kind = event.type_.as_deref().unwrap_or_default();
        let what = (kind, event.reason.as_deref().unwrap_or_default());
        let message = event.message.clone().unwrap_or_default();
        match correlator.decide(pod, what, message, Timestamp::now()) {
            Verdict::Drop => return Ok(()),
            Verdict::New { name, message } => {
                event.metadata.name = Some(name);
                event.message = Some(message);
                api.create(&PostParams::default(), &event).await?;
                return Ok(());
            }
            Verdict::Again { name, count } => {
                let patch = json!({ "count": count, "lastTimestamp": event.last_timestamp });
                let patched =
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
                match patched {
                    // Events go after a while: then it is told anew.
                    Err(kube::Error::Api(status)) if status.code == 404 => correlator.forget(&name),
                    other => return other.map(|_| ()),
                }
            }
        }
    }
    Ok(())
}
