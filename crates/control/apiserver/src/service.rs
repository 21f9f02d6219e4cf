//! The door: from an HTTP request to an HTTP response, for one identity.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_objects::{Status, Subresource};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;

use berth_access::{Attributes, Verdict};

use crate::audit::{Reason, Trail};
use crate::call::{Call, not_allowed};
use crate::path::{self, Query, Target};
use crate::server::Shared;
use crate::{
    Body, BoxError, Identity, aggregation, authenticate, body, compress, discovery, impersonate,
    operations, output, peers, reviews,
};

/// The API for one identity, as a tower service.
#[derive(Clone)]
pub struct ApiService {
    shared: Arc<Shared>,
    identity: Option<Identity>,
    peer: Option<SocketAddr>,
}

impl ApiService {
    pub(crate) fn new(
        shared: Arc<Shared>,
        identity: Option<Identity>,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self { shared, identity, peer }
    }
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let (shared, identity) = (Arc::clone(&self.shared), self.identity.clone());
        let peer = self.peer;
        Box::pin(async move { Ok(answer(shared, identity, peer, request).await) })
    }
}

async fn answer(
    shared: Arc<Shared>,
    identity: Option<Identity>,
    peer: Option<SocketAddr>,
    request: Request<Body>,
) -> Response<Body> {
    let (id, received) = (uuid::Uuid::new_v4().to_string(), shared.now());
    let (parts, body) = request.into_parts();
    let (yaml, gzip) = (output::prefers_yaml(&parts.headers), compress::accepted(&parts.headers));
    let who = who(&shared, identity, &parts.headers).await;
    let mut parts = parts;
    strip(&mut parts);
    let is_peer = matches!(&who, Ok((asker, None)) if peers::is_peer(asker));
    if !is_peer {
        peers::forget(&mut parts.headers);
    }
    let nobody = Identity::default();
    let people = match &who {
        Ok((asker, acting)) => (asker, acting.as_ref()),
        Err(refused) => (refused.asker.as_ref().unwrap_or(&nobody), None),
    };
    let mut trail =
        shared.options.audit.as_ref().and_then(|audit| {
            Trail::begin(audit, &shared.kinds, &parts, &id, received, peer, people)
        });
    let request = Request::from_parts(parts, body);
    let outcome = match who {
        Ok((asker, acting)) => {
            serve(&shared, acting.unwrap_or(asker), trail.as_mut(), request).await
        }
        Err(refused) => Err(refused.status),
    };
    let mut response = outcome.unwrap_or_else(|status| refusal(&status));
    if let Some(trail) = trail {
        response = trail.end(response, shared.now()).await;
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("audit-id", id);
    }
    let headers = response.headers_mut();
    headers
        .entry(http::header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    if yaml {
        output::as_yaml(&mut response);
    }
    if gzip { compress::squeeze(response).await } else { response }
}

/// Takes away what only this door needs: a request may be handed on to a node, which must not learn whose token it was.
fn strip(parts: &mut http::request::Parts) {
    let headers = &mut parts.headers;
    headers.remove(http::header::AUTHORIZATION);
    // This server has no cookies; what is behind a proxy may have.
    let cookies = headers.get_all(http::header::COOKIE).iter().cloned().collect();
    headers.remove(http::header::COOKIE);
    parts.extensions.insert(Cookies(cookies));
    aggregation::strip(headers);
    let acting = headers.keys().filter(|name| name.as_str().starts_with("impersonate-"));
    for name in acting.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// What a client keeps for a server behind this one; travels in the extensions of a request.
#[derive(Debug, Clone)]
pub(crate) struct Cookies(pub Vec<HeaderValue>);

async fn serve(
    shared: &Arc<Shared>,
    identity: Identity,
    trail: Option<&mut Trail>,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    request.extensions_mut().insert(identity.clone());
    if let Some(trail) = trail {
        request = trail.take_request(request).await?;
    }
    route(shared, &identity, request).await
}

/// A request nobody answers for: whose it was, where that is known, and why it is refused.
struct Refused {
    asker: Option<Identity>,
    status: Status,
}

/// Who asks: the certificate's holder, or else the token's; and as whom, if they act as another.
async fn who(
    shared: &Shared,
    certified: Option<Identity>,
    headers: &HeaderMap,
) -> Result<(Identity, Option<Identity>), Refused> {
    let unauthorized =
        || Refused { asker: None, status: Status::new(401, "Unauthorized", "Unauthorized") };
    let identity = match certified {
        Some(identity) => identity,
        None => match authenticate::bearer(shared, headers).await {
            Some(Ok(identity)) => identity,
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a token is not good");
                return Err(unauthorized());
            }
            None => return Err(unauthorized()),
        },
    };
    match impersonate::identity(shared, &identity, headers).await {
        Ok(acting) => Ok((identity, acting)),
        Err(status) => Err(Refused { asker: Some(identity), status }),
    }
}

/// A Status as a response.
pub(crate) fn refusal(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.to_value());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A JSON response.
pub(crate) fn json(code: u16, value: &serde_json::Value) -> Response<Body> {
    raw(code, "application/json", value.to_string())
}

/// Any response with a whole body.
pub(crate) fn raw(code: u16, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() =
        http::StatusCode::from_u16(code).expect("codes in here are valid by construction");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The verb of a request for a resource.
pub(crate) fn verb_of(method: &Method, named: bool, watch: bool) -> Option<&'static str> {
    Some(match (method.as_str(), named) {
        ("GET" | "HEAD", _) if watch => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    })
}

async fn route(
    shared: &Arc<Shared>,
    identity: &Identity,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query());
    if let Some((remote, parts)) = aggregation::of_path(&shared.kinds, &path) {
        return elsewhere(shared, identity, &remote, &parts, request).await;
    }
    let target = match path::parse(&path, &shared.kinds)? {
        Target::Other(parts) => {
            let method = request.method().as_str().to_lowercase();
            let attributes = Attributes { verb: &method, path: &path, ..Attributes::default() };
            let turn = shared.flow.admit(shared, identity, &attributes).await?;
            let reason = check(shared, identity, &attributes).await?;
            if matches!(parts.as_slice(), [a, b, c] if a == "openid" && b == "v1" && c == "jwks") {
                let keys = shared.options.tokens.key_set().to_string();
                return Ok(raw(200, "application/jwk-set+json", keys));
            }
            let mut response = match &shared.options.operations {
                Some(operations) if parts.first().is_some_and(|first| first == "berth") => {
                    operations::answer(&**operations, &parts, request.method()).await?
                }
                _ => discovery::answer(&shared.kinds.served(), &parts, &request)?,
            };
            turn.note(&mut response);
            response.extensions_mut().insert(Reason(reason));
            return Ok(response);
        }
        Target::Resource(target) => target,
    };
    let proxied = matches!(target.subresource, Some(Subresource::Proxy(_)));
    // The query of a proxy's request is the other server's.
    let watch = !proxied && (target.watch || query.flag("watch"));
    let verb = verb_of(request.method(), !target.name.is_empty(), watch);
    let verb =
        verb.or_else(|| (proxied && request.method() == Method::OPTIONS).then_some("options"));
    let verb = verb.ok_or_else(not_allowed)?;
    // Who asks for all objects of one name asks for one object.
    let selected = match (verb, target.name.as_str()) {
        ("list" | "watch" | "deletecollection", "") => named(&query),
        _ => String::new(),
    };
    let resource = target.handle.get();
    let attributes = Attributes {
        verb,
        group: resource.group,
        resource: resource.plural,
        subresource: target.subresource.map_or("", berth_objects::Subresource::name),
        namespace: match (resource.group, resource.kind) {
            // A namespace is judged as if it were inside itself, so that a role in it may show it.
            ("", "Namespace") => &target.name,
            _ => &target.namespace,
        },
        name: if selected.is_empty() { &target.name } else { &selected },
        path: &path,
    };
    let mut turn = shared.flow.admit(shared, identity, &attributes).await?;
    if lasts(verb, target.subresource) {
        // What goes on for as long as the client likes had its turn when it began.
        turn.seat = None;
    }
    let reason = check(shared, identity, &attributes).await?;
    let decides = resource.group == berth_access::GROUP && verb_writes(verb);
    let defines = resource.group == berth_custom::GROUP && verb_writes(verb);
    let aggregates = resource.group == aggregation::GROUP && verb_writes(verb);
    let call = Call::new(Arc::clone(shared), identity.clone(), target, query, request.headers())?;
    let mut response = call.run(verb, request).await;
    turn.note(&mut response);
    response.extensions_mut().insert(Reason(reason));
    if decides {
        // Whoever is told that a role was written may count on it.
        shared.access.caught_up(shared.store.current()).await;
    }
    if defines {
        // And who defines a kind may use it.
        shared.kinds.caught_up(shared.store.current()).await;
    }
    if aggregates {
        aggregation::caught_up(shared, shared.store.current()).await;
    }
    Ok(response)
}

/// Has another server answer, if whoever asks may.
async fn elsewhere(
    shared: &Arc<Shared>,
    identity: &Identity,
    remote: &aggregation::Remote,
    parts: &[String],
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query());
    let plain = aggregation::plain_path(parts, request.uri().query(), &query)?;
    let wanted = aggregation::Wanted::parse(parts, request.method(), &query);
    let attributes = wanted.attributes(&path);
    let mut turn = shared.flow.admit(shared, identity, &attributes).await?;
    if wanted.lasts() {
        turn.seat = None;
    }
    let reason = check(shared, identity, &attributes).await?;
    // A refusal of the other server's was allowed here, too.
    let answered = remote.serve(shared, identity, &plain, request).await;
    let mut response = answered.unwrap_or_else(|status| refusal(&status));
    turn.note(&mut response);
    response.extensions_mut().insert(Reason(reason));
    Ok(response)
}

/// Whether the answer may go on without end.
fn lasts(verb: &str, part: Option<Subresource>) -> bool {
    use Subresource::{Attach, Exec, Log, PortForward, Proxy};
    verb == "watch" || matches!(part, Some(Log | Exec | Attach | PortForward | Proxy(_)))
}

fn verb_writes(verb: &str) -> bool {
    !matches!(verb, "get" | "list" | "watch")
}

/// The one name a field selector asks for.
fn named(query: &Query) -> String {
    let selector = berth_objects::FieldSelector::parse(query.text("fieldSelector")).ok();
    selector.and_then(|it| it.exact("metadata.name").map(str::to_owned)).unwrap_or_default()
}

/// Judges a request.
pub(crate) async fn check(
    shared: &Shared,
    identity: &Identity,
    wanted: &Attributes<'_>,
) -> Result<String, Status> {
    match shared.access.judge(&*shared.store, identity, wanted).await {
        Verdict::Allow(reason) => Ok(reason),
        verdict @ Verdict::Deny(_) => Err(reviews::refused(identity, wanted, &verdict)),
    }
}

/// The text of a header, or the empty text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
