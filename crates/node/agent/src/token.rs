//! Tokens of service accounts in volumes: asked for when a container starts, renewed long before they end.
//!
//! What was asked for is written beside the pod's files, so that an agent that takes over knows when to renew. One task
//! serves all pods; it sleeps until the earliest token is due and wakes its pod, which makes the volume anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::Cause;
use crate::directory::PodDirectory;
use crate::status::chain;
use crate::volume::Sources;

/// The file in the pod's directory that says which tokens it has.
const RECORD: &str = "tokens.json";
/// Upstream's figures: renewal at 80 % of the life, and after a day at the latest.
const SHARE: (i64, i64) = (4, 5);
const LONGEST: i64 = 24 * 3600;
const USUAL: i64 = 3600;
/// Pause after a refusal.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What a token is asked for with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Want {
    namespace: String,
    account: String,
    pod: String,
    uid: String,
    audience: Option<String>,
    seconds: i64,
}

/// A token in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    want: Want,
    file: PathBuf,
    due: Timestamp,
    /// The token, until the next agent: what is in the file may be an older one.
    #[serde(skip)]
    token: Option<Vec<u8>>,
    /// When it was given.
    #[serde(default)]
    since: Timestamp,
    /// Its pod was woken for it, and is left alone until then.
    #[serde(skip)]
    woken: Option<Timestamp>,
}

impl Held {
    /// When its pod is to be woken.
    fn next(&self) -> Timestamp {
        self.woken.map_or(self.due, |woken| woken.max(self.due))
    }
}

/// All tokens of this node's pods.
#[derive(Debug, Default)]
pub struct Tokens {
    held: Mutex<BTreeMap<PathBuf, Held>>,
    changed: Notify,
}

/// When a token that was given now and ends then is to be renewed.
fn due(now: Timestamp, end: Timestamp) -> Timestamp {
    let life = end.duration_since(now).as_secs();
    let pause = (life * SHARE.0 / SHARE.1).clamp(1, LONGEST);
    now.checked_add(SignedDuration::from_secs(pause)).unwrap_or(end)
}

async fn ask(client: &Client, want: &Want) -> Result<(String, Timestamp), kube::Error> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: want.audience.iter().cloned().collect(),
            expiration_seconds: Some(want.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(want.pod.clone()),
                uid: Some(want.uid.clone()),
            }),
        },
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &want.namespace);
    let answer: TokenRequest =
        api.create_subresource("token", &want.account, &PostParams::default(), &request).await?;
    let status = answer
        .status
        .ok_or_else(|| kube::Error::Service("the server's answer holds no token".into()))?;
    let end = status.expiration_timestamp.0;
    Ok((status.token, end))
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for a pod, to be written to `path` within the volume; it is renewed there from now on. One that is there
    /// already and is not due is used again.
    pub async fn project(
        &self,
        client: &Client,
        pod: &Pod,
        directory: &PodDirectory,
        volume: &Path,
        source: &ServiceAccountTokenProjection,
    ) -> Result<Vec<u8>, Cause> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let want = Want {
            namespace: pod.namespace().unwrap_or_default(),
            account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into()),
            pod: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            audience: source.audience.clone().filter(|audience| !audience.is_empty()),
            seconds: source.expiration_seconds.unwrap_or(USUAL),
        };
        let file = volume.join(&source.path);
        let known = self.lock().get(&file).cloned().filter(|known| known.want == want);
        let kept = known.as_ref().and_then(|known| known.token.clone());
        let content = kept.or_else(|| known.as_ref().and_then(|_| std::fs::read(&file).ok()));
        if let Some(content) = &content
            && known.is_some_and(|known| known.due > Timestamp::now())
        {
            return Ok(content.clone());
        }
        let (token, end) = match ask(client, &want).await {
            Ok(answer) => answer,
            Err(error) => {
                let (account, error) = (&want.account, chain(&error));
                // The old one still holds for a while.
                if let Some(content) = content {
                    warn!(pod = %want.pod, namespace = %want.namespace, %error, "cannot renew a token");
                    return Ok(content);
                }
                let why = format!("cannot get a token of service account `{account}`: {error}");
                return Err(Cause::config(why));
            }
        };
        debug!(pod = %want.pod, "got a token");
        let due = due(Timestamp::now(), end);
        let since = Timestamp::now();
        let token = token.into_bytes();
        let held =
            Held { want, file: file.clone(), due, since, token: Some(token.clone()), woken: None };
        self.lock().insert(file, held);
        self.note(directory).map_err(|error| {
            Cause::create(format!("cannot write down the pod's tokens: {error}"))
        })?;
        self.changed.notify_one();
        Ok(token)
    }

    /// A pod is gone with its files.
    pub fn forget(&self, directory: &PodDirectory) {
        self.lock().retain(|file, _| !file.starts_with(directory.path()));
    }

    /// Writes down which tokens a pod has.
    fn note(&self, directory: &PodDirectory) -> io::Result<()> {
        let held = self.lock();
        let own: Vec<&Held> =
            held.values().filter(|held| held.file.starts_with(directory.path())).collect();
        let text = serde_json::to_vec(&own)?;
        let path = directory.etc(RECORD);
        let draft = path.with_extension("new");
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, path)
    }

    /// Takes over what an earlier agent left in a pod's directory.
    pub fn adopt(&self, directory: &PodDirectory) {
        let text = match std::fs::read(directory.etc(RECORD)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                warn!(%error, "cannot read which tokens a pod has");
                return;
            }
        };
        match serde_json::from_slice::<Vec<Held>>(&text) {
            Ok(found) => {
                let mut all = self.lock();
                for mut held in found {
                    // An agent may have ended between the note and the file.
                    let written = std::fs::metadata(&held.file).and_then(|it| it.modified()).ok();
                    let written = written.and_then(|it| Timestamp::try_from(it).ok());
                    if written.is_none_or(|written| written < held.since) {
                        held.due = Timestamp::UNIX_EPOCH;
                    }
                    all.insert(held.file.clone(), held);
                }
            }
            Err(error) => warn!(%error, "cannot read which tokens a pod has"),
        }
    }

    /// Wakes pods whose tokens are due until told to stop.
    pub async fn run(&self, sources: &Sources, stop: &CancellationToken) {
        loop {
            let earliest = self.lock().values().map(Held::next).min();
            let sleep = async {
                match earliest {
                    Some(due) => {
                        let left = due.duration_since(Timestamp::now());
                        tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = sleep => {
                    let now = Timestamp::now();
                    for held in self.lock().values_mut().filter(|held| held.next() <= now) {
                        held.woken = Some(now + RETRY);
                        sources.wake(&held.want.uid);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life_and_within_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        let after = |seconds: i64| now + SignedDuration::from_secs(seconds);
        assert_eq!(due(now, after(1000)), after(800));
        assert_eq!(due(now, after(365 * 24 * 3600)), after(LONGEST));
        assert_eq!(due(now, after(-5)), after(1));
    }

    /// A server that gives tokens of `seconds`.
    fn server(seconds: i64) -> (Client, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            assert_eq!(request.uri().path(), "/api/v1/namespaces/shop/serviceaccounts/bot/token");
            let end = Timestamp::now() + SignedDuration::from_secs(seconds);
            let answer = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "metadata": {}, "spec": {"audiences": []},
                "status": {"token": format!("token {number}"), "expirationTimestamp": end.to_string()},
            });
            let answer = Full::new(bytes::Bytes::from(answer.to_string()));
            async move { Ok::<_, Infallible>(Response::builder().status(201).body(answer).unwrap()) }
        });
        (Client::new(service, "default"), asked)
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [], "serviceAccountName": "bot"},
        }))
        .unwrap()
    }

    /// A pod's directory with a volume, and what is to be in it.
    fn place() -> (tempfile::TempDir, PodDirectory, PathBuf, ServiceAccountTokenProjection) {
        let folder = tempfile::tempdir().unwrap();
        let directory = PodDirectory::of(folder.path(), "u1");
        directory.create().unwrap();
        let volume = directory.volume("v");
        std::fs::create_dir_all(&volume).unwrap();
        let source = ServiceAccountTokenProjection { path: "t".into(), ..Default::default() };
        (folder, directory, volume, source)
    }

    #[tokio::test]
    async fn a_token_is_used_again_and_renewed_in_its_file_also_by_the_next_agent() {
        let (_folder, directory, volume, source) = place();
        let (client, asked) = server(3);
        let first = Tokens::default();
        let project = async |tokens: &Tokens| {
            tokens.project(&client, &pod(), &directory, &volume, &source).await.unwrap()
        };
        let file = volume.join("t");
        let token = project(&first).await;
        std::fs::write(&file, &token).unwrap();
        assert_eq!(project(&first).await, b"token 1");
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        let (second, sources) = (Arc::new(Tokens::default()), Sources::default());
        second.adopt(&directory);
        let wake = sources.wake_of("u1");
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (second, sources, stop) = (second.clone(), sources.clone(), stop.clone());
            async move { second.run(&sources, &stop).await }
        });
        tokio::time::timeout(Duration::from_secs(20), wake.notified()).await.expect("it is due");
        assert_eq!(project(&second).await, b"token 2");
        second.forget(&directory);
        assert!(second.lock().is_empty());
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_renewed_stays() {
        let (_folder, directory, volume, source) = place();
        let tokens = Tokens::default();
        let (good, _) = server(-1);
        let refusing = tower::service_fn(|_: Request<Body>| async {
            let body = Full::new(bytes::Bytes::from("{}"));
            Ok::<_, Infallible>(Response::builder().status(503).body(body).unwrap())
        });
        let bad = Client::new(refusing, "default");
        let project = async |client: &Client| {
            tokens.project(client, &pod(), &directory, &volume, &source).await
        };
        assert!(project(&bad).await.is_err());
        std::fs::write(volume.join("t"), project(&good).await.unwrap()).unwrap();
        // Its time has come.
        tokens.lock().values_mut().for_each(|held| held.due = Timestamp::UNIX_EPOCH);
        assert_eq!(project(&bad).await.unwrap(), b"token 1");
        assert_eq!(project(&good).await.unwrap(), b"token 2");
    }
}
