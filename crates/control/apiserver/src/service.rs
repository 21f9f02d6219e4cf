//! The door: from an HTTP request to an HTTP response, for one identity.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_objects::Status;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;

use crate::access::{Attributes, Verdict};
use crate::call::Call;
use crate::path::{self, Query, Target};
use crate::server::Shared;
use crate::{Body, BoxError, Identity, body, compress, discovery, output};

/// The API for one identity, as a tower service.
#[derive(Clone)]
pub struct ApiService {
    shared: Arc<Shared>,
    identity: Option<Identity>,
}

impl ApiService {
    pub(crate) fn new(shared: Arc<Shared>, identity: Option<Identity>) -> Self {
        Self { shared, identity }
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
        Box::pin(async move { Ok(answer(shared, identity, request).await) })
    }
}

async fn answer(
    shared: Arc<Shared>,
    identity: Option<Identity>,
    mut request: Request<Body>,
) -> Response<Body> {
    let (yaml, gzip) =
        (output::prefers_yaml(request.headers()), compress::accepted(request.headers()));
    let outcome = match identity {
        Some(identity) => {
            request.extensions_mut().insert(identity.clone());
            route(&shared, &identity, request).await
        }
        None => Err(Status::new(401, "Unauthorized", "Unauthorized")),
    };
    let mut response = outcome.unwrap_or_else(|status| refusal(&status));
    let id = uuid::Uuid::new_v4().to_string();
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

fn verb(method: &Method, named: bool, watch: bool) -> Option<&'static str> {
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
    let target = match path::parse(&path)? {
        Target::Other(parts) => {
            let method = request.method().as_str().to_lowercase();
            let attributes = Attributes {
                verb: &method,
                group: "",
                resource: "",
                subresource: "",
                namespace: "",
                name: "",
                path: &path,
            };
            // Everyone who is somebody may ask for health, version and what there is.
            let open = ["healthz", "livez", "readyz", "version", "api", "apis", "openapi"];
            let is_open = parts.first().is_some_and(|first| open.contains(&first.as_str()));
            if !is_open {
                check(shared, identity, &attributes)?;
            }
            return discovery::answer(&parts, &request);
        }
        Target::Resource(target) => target,
    };
    let watch = target.watch || query.flag("watch");
    let allowed = || {
        let message = "the server does not allow this method on the requested resource";
        Status::new(405, "MethodNotAllowed", message)
    };
    let verb = verb(request.method(), !target.name.is_empty(), watch).ok_or_else(allowed)?;
    let attributes = Attributes {
        verb,
        group: target.resource.group,
        resource: target.resource.plural,
        subresource: target.subresource.map_or("", berth_objects::Subresource::name),
        namespace: &target.namespace,
        name: &target.name,
        path: &path,
    };
    check(shared, identity, &attributes)?;
    let call = Call::new(Arc::clone(shared), target, query, request.headers())?;
    call.run(verb, request).await
}

fn check(shared: &Shared, identity: &Identity, wanted: &Attributes<'_>) -> Result<(), Status> {
    match shared.options.authorizer.authorize(identity, wanted) {
        Verdict::Allow => Ok(()),
        Verdict::Deny(reason) => {
            let subject = berth_objects::Subject::new(wanted.group, wanted.resource, wanted.name);
            Err(Status::forbidden(subject, &wanted.refusal(identity, &reason)))
        }
    }
}

/// The text of a header, or the empty text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
