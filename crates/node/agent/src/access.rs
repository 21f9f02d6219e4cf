//! The node's HTTP service: logs, exec, attach, port-forward and statistics, on the paths of a kubelet.

use std::convert::Infallible;
use std::fs;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use berth_shim::Shim;
use berth_shim::protocol::Filter;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::directory::{PodDirectory, Record};
use crate::log::{self, LogQuery};
use crate::stats::Document;
use crate::stream;

/// Any error, as HTTP bodies carry them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A response body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A container's configuration, kept for further processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub spec: Spec,
    pub user: Option<String>,
    pub filter: Filter,
    /// Its input ends with that of the first client. A terminal's stays open: whoever comes back can go on.
    #[serde(default)]
    pub input_once: bool,
}

impl Remembered {
    pub fn read(directory: &PodDirectory, instance: &str) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.etc(&format!("{instance}.json"))).ok()?).ok()
    }
}

/// Answers requests about this node's containers.
#[derive(Clone)]
pub struct Access {
    shared: Arc<Shared>,
    closing: CancellationToken,
}

/// A request that cannot be met, for a person to read.
pub(crate) struct Refusal {
    pub code: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn bad(message: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, message: message.into() }
    }

    fn response(self) -> Response<Body> {
        let reason = match self.code {
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::BAD_REQUEST => "BadRequest",
            _ => "InternalError",
        };
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": reason, "code": self.code.as_u16(),
        });
        let mut response = Response::new(full(status.to_string()));
        *response.status_mut() = self.code;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}

/// A body of known content.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A container of a pod that is here.
pub(crate) struct Found {
    pub directory: PodDirectory,
    pub record: Record,
    pub instance: String,
}

/// The longest that pods may take to end when the machine goes down, in seconds.
const LONGEST_SHUTDOWN: u64 = 3600;

impl Access {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, closing: CancellationToken::new() }
    }

    /// Ends open streams.
    pub fn close(&self) {
        self.closing.cancel();
    }

    fn directory(&self, namespace: &str, pod: &str) -> Result<PodDirectory, Refusal> {
        let pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = pods.get(&(namespace.to_owned(), pod.to_owned())).cloned();
        drop(pods);
        let missing = || Refusal {
            code: StatusCode::NOT_FOUND,
            message: format!("pod `{namespace}/{pod}` is not on this node"),
        };
        Ok(PodDirectory::of(&self.shared.settings.data, &uid.ok_or_else(missing)?))
    }

    fn find(&self, namespace: &str, pod: &str, container: &str) -> Result<Found, Refusal> {
        let directory = self.directory(namespace, pod)?;
        let waiting = || {
            Refusal::bad(format!("container \"{container}\" in pod \"{pod}\" is waiting to start"))
        };
        let record = directory.read().map_err(|_| waiting())?;
        let known = record.containers.get(container).filter(|known| known.starts > 0);
        let instance = known.ok_or_else(waiting)?.instance(container);
        Ok(Found { directory, record, instance })
    }

    fn answer<B>(self, mut request: Request<B>) -> Result<Response<Body>, Refusal>
    where
        B: Send + 'static,
    {
        let path = request.uri().path().trim_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        if let ["portForward", namespace, pod] = parts.as_slice() {
            let directory = self.directory(namespace, pod)?;
            let shim = Shim::at(directory.path());
            return stream::port_forward(shim, &mut request, self.closing);
        }
        let [verb, namespace, pod, container] = parts.as_slice() else {
            return Err(Refusal {
                code: StatusCode::NOT_FOUND,
                message: format!("this node does not serve `/{path}`"),
            });
        };
        let found = self.find(namespace, pod, container)?;
        match *verb {
            "containerLogs" => self.logs(found, container, &query, &mut request),
            "exec" => stream::exec(found, &query, &mut request, self.closing),
            "attach" => stream::attach(found, &query, &mut request, self.closing),
            other => Err(Refusal {
                code: StatusCode::NOT_FOUND,
                message: format!("this node does not serve `{other}`"),
            }),
        }
    }

    /// Ends all pods, since the machine goes down.
    async fn shutdown(self, query: &Query) -> Result<Response<Body>, Refusal> {
        let seconds = |name: &str| {
            let given = query.number::<u64>(name)?;
            given.ok_or_else(|| Refusal::bad(format!("`{name}` is missing: a number of seconds")))
        };
        let (within, critical) = (seconds("within")?, seconds("critical")?);
        if critical > within || within > LONGEST_SHUTDOWN {
            return Err(Refusal::bad(format!(
                "`critical` ({critical}) is to be at most `within` ({within}), and that at most {LONGEST_SHUTDOWN} seconds"
            )));
        }
        let (within, critical) = (Duration::from_secs(within), Duration::from_secs(critical));
        let became = crate::leave::leave(&self.shared, within, critical).await;
        Ok(Response::new(full(became.to_string())))
    }

    fn logs<B>(
        self,
        found: Found,
        container: &str,
        query: &Query,
        request: &mut Request<B>,
    ) -> Result<Response<Body>, Refusal> {
        let mut instance = found.instance.clone();
        if query.flag("previous") {
            let starts = found.record.containers[container].starts;
            if starts < 2 {
                return Err(Refusal::bad(format!(
                    "previous terminated container \"{container}\" not found"
                )));
            }
            instance = format!("{container}.{}", starts - 1);
        }
        let path = found.directory.log(&instance);
        let wanted = LogQuery {
            follow: query.flag("follow"),
            tail: query.number("tailLines")?,
            since: query.since()?,
            timestamps: query.flag("timestamps"),
            limit: query.number("limitBytes")?,
            stream: match query.first("stream") {
                None | Some("" | "All") => None,
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                Some(other) => return Err(Refusal::bad(format!("there is no stream `{other}`"))),
            },
        };
        let directory = found.directory.clone();
        let running = move || directory.path().exists() && directory.exit(&instance).is_none();
        let (sink, lines) = mpsc::channel(64);
        tokio::spawn(log::stream(path, wanted, sink, running));
        let lines = tokio_stream::wrappers::ReceiverStream::new(lines);
        let lines = lines.map(|line| line.map_err(BoxError::from));
        if stream::wants_socket(request) {
            return stream::reader(request, lines, self.closing);
        }
        let lines = lines.map(|line| line.map(Frame::data));
        let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

impl<B> tower::Service<Request<B>> for Access
where
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let access = self.clone();
        Box::pin(async move {
            let query = Query::parse(request.uri().query().unwrap_or_default());
            let path = request.uri().path().trim_matches('/');
            let answer = match Document::of(path, &query) {
                Some(document) => document.answer(access.shared).await,
                None if path == "shutdown" && request.method() == http::Method::POST => {
                    access.shutdown(&query).await
                }
                None => access.answer(request),
            };
            Ok(answer.unwrap_or_else(Refusal::response))
        })
    }
}

/// The query of a request, in order.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let decode = |text: &str| percent(&text.replace('+', " "));
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.first(name), Some("true" | "1"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let wrong = |text: &str| Refusal::bad(format!("`{text}` is not a number for `{name}`"));
        self.first(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }

    fn since(&self) -> Result<Option<Timestamp>, Refusal> {
        if let Some(seconds) = self.number::<i64>("sinceSeconds")? {
            return Ok(Some(Timestamp::now() - SignedDuration::from_secs(seconds)));
        }
        let wrong = |text: &str| Refusal::bad(format!("`{text}` is not a time for `sinceTime`"));
        self.first("sinceTime").map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }
}

/// Decodes `%41`; what is no valid escape stays as it is.
fn percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_in_order() {
        let query =
            Query::parse("command=sh&command=-c&command=echo+a%20%2B%zz&stdin=true&tailLines=x");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a +%zz"]);
        assert!(query.flag("stdin") && !query.flag("tty"));
        assert!(query.number::<usize>("tailLines").is_err());
    }
}
