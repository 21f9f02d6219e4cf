//! One HTTP or gRPC question to a container, for probes and hooks.
//!
//! Each goes over a connection of its own, so that it asks what a new client would get. Certificates are not verified: the question
//! is whether somebody answers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

use crate::status::chain;

/// How much of an answer is read.
const READ: usize = 10 << 10;
/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// What to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// With TLS.
    pub secure: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    headers: HeaderMap,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The beginning of its body.
    pub body: String,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The other side does not speak TLS.
    #[error("cannot speak TLS with {0}: {1}")]
    Tls(String, std::io::Error),
    /// The other side does not speak HTTP.
    #[error("{0}: {1}")]
    Exchange(String, String),
    /// Too many redirects, or one that leads nowhere.
    #[error("{0}")]
    Redirect(String),
}

impl Get {
    /// What an action asks for, from a host that it need not name.
    ///
    /// # Errors
    /// When a header is none.
    pub fn new(action: &HTTPGetAction, host: &str, port: u16, agent: &str) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let wrong = || format!("`{}: {}` is not a header", header.name, header.value);
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| wrong())?;
            let value = HeaderValue::from_str(&header.value).map_err(|_| wrong())?;
            headers.append(name, value);
        }
        if !headers.contains_key(USER_AGENT) {
            let agent = HeaderValue::from_str(agent).map_err(|error| error.to_string())?;
            headers.insert(USER_AGENT, agent);
        }
        match headers.get(ACCEPT) {
            None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
            // Who gives an empty one wants none.
            Some(given) if given.is_empty() => drop(headers.remove(ACCEPT)),
            Some(_) => {}
        }
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(host);
        Ok(Self {
            secure: action.scheme.as_deref() == Some("HTTPS"),
            host: host.to_owned(),
            port,
            path: escape(action.path.as_deref().unwrap_or_default()),
            headers,
        })
    }

    /// The same without TLS.
    pub fn plain(self) -> Self {
        Self { secure: false, ..self }
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        format!("{host}:{}", self.port)
    }

    fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// Asks, following redirects that stay on the host. One that leads elsewhere is itself the answer.
    ///
    /// # Errors
    /// See [`GetError`].
    pub async fn ask(mut self) -> Result<Answer, GetError> {
        for _ in 0..=REDIRECTS {
            let (answer, location) = self.ask_once().await?;
            let Some(location) = location.filter(|_| is_redirect(answer.status)) else {
                return Ok(answer);
            };
            match self.follow(&location)? {
                Some(next) => self = next,
                None => return Ok(answer),
            }
        }
        Err(GetError::Redirect(format!("stopped after {REDIRECTS} redirects")))
    }

    /// Where a redirect leads; `None` when that is another host.
    fn follow(&self, location: &str) -> Result<Option<Self>, GetError> {
        let wrong = || GetError::Redirect(format!("`{location}` is no place to redirect to"));
        let relative = |path: &str| Some(Self { path: escape(path), ..self.clone() });
        let scheme = |text: &str| location.get(..text.len()).is_some_and(|it| it == text);
        if location.starts_with("//") || scheme("http://") || scheme("https://") {
            let full = match location.strip_prefix("//") {
                Some(rest) if self.secure => format!("https://{rest}"),
                Some(rest) => format!("http://{rest}"),
                None => location.to_owned(),
            };
            let uri: Uri = full.parse().map_err(|_| wrong())?;
            let secure = uri.scheme_str() == Some("https");
            let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
            if !host.eq_ignore_ascii_case(&self.host) {
                return Ok(None);
            }
            let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            return Ok(Some(Self { secure, port, path: escape(path), ..self.clone() }));
        }
        if location.starts_with('/') {
            return Ok(relative(location));
        }
        let path = self.path.split('?').next().unwrap_or("/");
        let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
        Ok(relative(&format!("{folder}{location}")))
    }

    async fn ask_once(&self) -> Result<(Answer, Option<String>), GetError> {
        let failed = |error: &dyn std::error::Error| GetError::Exchange(self.url(), chain(error));
        let place = self.authority();
        let stream = crate::lookup::connect(&self.host, self.port)
            .await
            .map_err(|error| GetError::Connect(place.clone(), error))?;
        let stream: Box<dyn Duplex> = if self.secure {
            let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(&error))?;
            let tls = TlsConnector::from(unverified().map_err(|error| failed(&error))?);
            let stream = tls.connect(name, stream).await;
            Box::new(stream.map_err(|error| GetError::Tls(place.clone(), error))?)
        } else {
            Box::new(stream)
        };
        let (mut sender, connection) =
            conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // Its errors are seen by the request.
        let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request =
            Request::get(&self.path).body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if !self.headers.contains_key(HOST) {
            let host = HeaderValue::from_str(&place).map_err(|error| failed(&error))?;
            request.headers_mut().insert(HOST, host);
        }
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, mut body) = response.into_parts();
        let mut text = Vec::new();
        while text.len() < READ
            && let Some(frame) = body.frame().await
        {
            let frame = frame.map_err(|error| failed(&error))?;
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        text.truncate(READ);
        let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let body = String::from_utf8_lossy(&text).into_owned();
        Ok((Answer { status: head.status, body }, location.map(str::to_owned)))
    }
}

/// A connection, with TLS or without.
trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn unverified() -> Result<Arc<ClientConfig>, berth_tls::TlsError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(known) = CONFIG.get() {
        return Ok(known.clone());
    }
    let made = Arc::new(berth_tls::unverified_client(None)?);
    Ok(CONFIG.get_or_init(|| made).clone())
}

/// A path that begins with a slash and has no letters that a request cannot carry.
fn escape(path: &str) -> String {
    let mut escaped = String::from(if path.starts_with('/') { "" } else { "/" });
    for byte in path.bytes() {
        let plain = byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
        if plain {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Asks `grpc.health.v1.Health/Check` about a service; the error is what to tell people.
///
/// # Errors
/// When the service does not say that it serves.
pub async fn grpc_health(host: &str, port: u16, service: &str, agent: &str) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| chain(error);
    let stream = crate::lookup::connect(host, port).await;
    let stream = stream.map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(USER_AGENT, agent)
        .body(Full::new(question(service)))
        .map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("the answer is not gRPC but has the status {}", head.status));
    }
    let (mut message, mut status) = (Vec::new(), grpc_status(&head.headers));
    while message.len() < READ
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| text(&error))?;
        message.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if let Some(trailers) = frame.trailers_ref() {
            status = status.or(grpc_status(trailers));
        }
    }
    match status {
        Some((0, _)) => {}
        Some((12, why)) => {
            return Err(format!("the server does not implement grpc.health.v1.Health: {why}"));
        }
        Some((5, _)) => return Err(format!("the server does not know the service `{service}`")),
        Some((code, why)) => {
            return Err(format!("the health check failed with code {code}: {why}"));
        }
        None => return Err("the answer has no gRPC status".to_owned()),
    }
    match serving_status(&message) {
        Some(1) => Ok(()),
        Some(code) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let name = usize::try_from(code).ok().and_then(|code| name.get(code));
            Err(format!("service unhealthy (responded with \"{}\")", name.unwrap_or(&"UNKNOWN")))
        }
        None => Err("the answer is not a HealthCheckResponse".to_owned()),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<(u32, String)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().ok()?;
    Some((code, text("grpc-message").unwrap_or_default().to_owned()))
}

/// `HealthCheckRequest { string service = 1; }`, behind the mark "not compressed" and its length.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; an absent field is zero.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    let message = message.get(..usize::try_from(length).ok()?).filter(|_| head[0] == 0)?;
    match message {
        [] => Some(0),
        // All values of the enumeration fit into one byte.
        [0x08, status, ..] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
