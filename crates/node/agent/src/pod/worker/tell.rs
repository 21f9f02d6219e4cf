//! Telling the API the status of a static pod, beside the pod's worker: an API that does not answer holds up no static pod.
//!
//! Only the newest status is told. One that the API does not take is not told again by itself: the worker gives another when
//! it has seen what has changed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::status::chain;

/// How long one attempt may take, and the pause after one that failed.
const ATTEMPT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// How long a pod that has ended waits until that is told.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is to be told: the status, of which object, and as which change of it.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub uid: String,
    pub status: Value,
    pub body: Value,
}

/// Tells what it was given last.
pub(super) struct Teller {
    newest: watch::Sender<(u64, Option<Report>)>,
    answered: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Teller {
    /// One for the pod that the API shows under this name.
    pub(super) fn new(api: Api<Pod>, name: String) -> Self {
        let (newest, given) = watch::channel((0, None));
        let (answers, answered) = watch::channel(0);
        let task = AbortOnDropHandle::new(tokio::spawn(run(api, name, given, answers)));
        Self { newest, answered, _task: task }
    }

    /// Has a status told, unless a newer one comes before.
    pub(super) fn tell(&self, report: Report) {
        self.newest.send_modify(|(number, newest)| {
            *number += 1;
            *newest = Some(report);
        });
    }

    /// Waits a moment for the answer to the newest status. Says whether there was one.
    pub(super) async fn is_answered(&self) -> bool {
        let number = self.newest.borrow().0;
        let mut answered = self.answered.clone();
        let answer = answered.wait_for(|known| *known >= number);
        matches!(timeout(LAST_WORD, answer).await, Ok(Ok(_)))
    }
}

async fn run(
    api: Api<Pod>,
    name: String,
    mut given: watch::Receiver<(u64, Option<Report>)>,
    answers: watch::Sender<u64>,
) {
    let mut told: Option<Report> = None;
    let mut said = String::new();
    while given.changed().await.is_ok() {
        loop {
            let (number, Some(report)) = given.borrow_and_update().clone() else { break };
            let is_told = told
                .as_ref()
                .is_some_and(|told| (&told.uid, &told.status) == (&report.uid, &report.status));
            if !is_told {
                match attempt(&api, &name, &report.body).await {
                    Ok(true) => told = Some(report),
                    Ok(false) => {}
                    Err(why) => {
                        if why != said {
                            warn!(pod = %name, error = %why, "status of a static pod not reported");
                        }
                        said = why;
                        sleep(RETRY).await;
                        continue;
                    }
                }
                said.clear();
            }
            answers.send_replace(number);
            break;
        }
    }
}

/// Says whether the API has taken it.
async fn attempt(api: &Api<Pod>, name: &str, body: &Value) -> Result<bool, String> {
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(body));
    match timeout(ATTEMPT, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409 | 422) => {
            debug!(pod = %name, code = answer.code, "status not taken");
            Ok(false)
        }
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("the API does not answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    type Heard = Arc<Mutex<Vec<String>>>;

    /// A server that gives these answers in turn, at last always the last one, and what it heard. `0` is none at all.
    fn server(answers: &'static [u16]) -> (Teller, Heard) {
        let heard = Heard::default();
        let hears = heard.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let hears = hears.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let number = {
                    let mut heard = hears.lock().unwrap();
                    heard.push(String::from_utf8(body.to_vec()).unwrap());
                    heard.len()
                };
                let code = answers.get(number - 1).or(answers.last()).copied().unwrap();
                if code == 0 {
                    std::future::pending::<()>().await;
                }
                let answer = if code == 200 {
                    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}})
                } else {
                    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code})
                };
                let answer = Full::new(bytes::Bytes::from(answer.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        let api = Api::namespaced(Client::new(service, "default"), "default");
        (Teller::new(api, "web".to_owned()), heard)
    }

    fn report(word: &str) -> Report {
        Report { uid: "1".to_owned(), status: json!(word), body: json!(word) }
    }

    fn heard(heard: &Heard) -> String {
        heard.lock().unwrap().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_tells_waits_for_nobody_and_the_newest_is_told_at_last() {
        let (teller, hears) = server(&[0, 503, 200]);
        teller.tell(report("a"));
        assert!(!teller.is_answered().await, "it is not waited for without bound");
        teller.tell(report("b"));
        teller.tell(report("c"));
        let began = tokio::time::Instant::now();
        while !teller.is_answered().await {
            assert!(began.elapsed() < 3 * ATTEMPT, "{}", heard(&hears));
        }
        assert_eq!(heard(&hears), r#""a" "c" "c""#);
        teller.tell(report("c"));
        assert!(teller.is_answered().await);
        assert_eq!(heard(&hears), r#""a" "c" "c""#, "it is told once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_told_again_when_it_is_given_again() {
        let (teller, hears) = server(&[409, 200]);
        teller.tell(report("a"));
        assert!(teller.is_answered().await);
        sleep(60 * RETRY).await;
        assert_eq!(heard(&hears), r#""a""#);
        teller.tell(report("a"));
        assert!(teller.is_answered().await);
        assert_eq!(heard(&hears), r#""a" "a""#);
    }
}
