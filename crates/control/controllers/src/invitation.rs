//! Bootstrap tokens that have ended: nobody gets in with them any more, and their Secrets go.

use std::time::Duration;

use berth_client::{Key, Mirror, Queue};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tracing::info;

use crate::context::{Context, or_absent};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Removes them until told to stop.
pub(crate) async fn run(context: Context) {
    let secrets: Mirror<Secret> = Mirror::new();
    let queue = Queue::new();
    let to = queue.clone();
    secrets.listen(move |change| to.push(change.object().name_any()));
    let api: Api<Secret> = Api::namespaced(context.client.clone(), NAMESPACE);
    let follow = secrets.run(api, &context.stop);
    let work = async {
        secrets.synced().await;
        queue.serve(1, &context.stop, |name| reconcile(&context, &secrets, name)).await;
    };
    futures::join!(follow, work);
}

/// How long a token is still good; nothing for what is no token or has no end.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    if secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    let text = secret.data.as_ref()?.get("expiration")?;
    let end: Timestamp = std::str::from_utf8(&text.0).ok()?.parse().ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO))
}

async fn reconcile(
    context: &Context,
    secrets: &Mirror<Secret>,
    name: String,
) -> Result<Option<Duration>, kube::Error> {
    let Some(secret) = secrets.get(&Key::new(NAMESPACE, &name)) else { return Ok(None) };
    match left(&secret, Timestamp::now()) {
        None => Ok(None),
        Some(left) if left > Duration::ZERO => Ok(Some(left)),
        Some(_) => {
            info!(secret = %name, "removing a bootstrap token that has ended");
            let api: Api<Secret> = Api::namespaced(context.client.clone(), NAMESPACE);
            let only =
                Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            match or_absent(api.delete(&name, &params).await) {
                // Prolonged meanwhile: the mirror will tell.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                other => other.map(|_| None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_tokens_end_and_only_when_they_say_so() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let secret = |kind: &str, end: &str| -> Secret {
            let end = ByteString(end.as_bytes().to_vec());
            serde_json::from_value(json!({"type": kind, "data": {"expiration": end}})).unwrap()
        };
        assert_eq!(left(&secret(TYPE, "2030-01-01T00:01:00Z"), now), Some(Duration::from_secs(60)));
        assert_eq!(left(&secret(TYPE, "2029-01-01T00:00:00Z"), now), Some(Duration::ZERO));
        assert_eq!(left(&secret(TYPE, "some day"), now), None);
        assert_eq!(left(&secret("Opaque", "2029-01-01T00:00:00Z"), now), None);
        let endless: Secret = serde_json::from_value(json!({"type": TYPE})).unwrap();
        assert_eq!(left(&endless, now), None);
    }
}
