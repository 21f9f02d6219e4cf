//! A client's request, handed on to another server with all it carries.

use std::pin::pin;
use std::time::Duration;

use berth_report::chain;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::transport::HttpClient;
use crate::{Body, BoxError};

/// Why the other server did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("{}", chain(.0))]
    Failed(#[from] hyper_util::client::legacy::Error),
    #[error("no answer within {} seconds", .0.as_secs())]
    Late(Duration),
    #[error("it changed to another protocol, which nobody asked for")]
    Unasked,
}

/// Whether a request wants to become something else than HTTP.
pub(crate) fn upgrades(headers: &HeaderMap) -> bool {
    let words = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = words.flat_map(|value| value.split(','));
    headers.contains_key(UPGRADE) && words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Takes away what is between two neighbours only (RFC 9110, section 7.6.1), except that it is an upgrade.
fn only_end_to_end(headers: &mut HeaderMap) {
    let upgrade = upgrades(headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    let always = [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// Marks an answer that somebody else has made: it is neither read to its end here nor changed. Travels in its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreign;

/// How a request is handed on.
pub(crate) struct Handing<'a> {
    pub client: &'a HttpClient,
    /// Headers of our own. Nothing the client says of its connection takes them away.
    pub ours: HeaderMap,
    /// What it may be upgraded to; everything, where that is none.
    pub upgrades: Option<&'static [&'static str]>,
    /// How long the beginning of the answer may take.
    pub patience: Option<Duration>,
    /// Ends what is still going on.
    pub closing: CancellationToken,
}

/// Hands a request on and brings the answer back. What it is upgraded to goes on until one side ends it. The request's address
/// must be whole.
pub(crate) fn forward(
    handing: Handing<'_>,
    mut request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, ForwardError>> {
    let Handing { client, ours, upgrades: allowed, patience, closing } = handing;
    let kind = request.headers().get(UPGRADE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let known = allowed.is_none_or(|all| all.iter().any(|it| it.eq_ignore_ascii_case(kind)));
    if !known {
        request.headers_mut().remove(UPGRADE);
    }
    let here = upgrades(request.headers()).then(|| hyper::upgrade::on(&mut request));
    only_end_to_end(request.headers_mut());
    for name in
        ["forwarded", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
    {
        // What a client says of where it is from.
        request.headers_mut().remove(name);
    }
    for name in ours.keys() {
        request.headers_mut().remove(name);
    }
    request.headers_mut().extend(ours);
    *request.version_mut() = http::Version::HTTP_11;
    let (mut parts, body) = request.into_parts();
    // What was put there for this server alone must not be taken for the other's.
    parts.extensions = http::Extensions::new();
    let asked = client.request(Request::from_parts(parts, body));
    async move {
        let answer = match patience {
            None => asked.await?,
            Some(patience) => {
                let answer = tokio::time::timeout(patience, asked).await;
                answer.map_err(|_| ForwardError::Late(patience))??
            }
        };
        let (mut parts, body) = answer.into_parts();
        let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let body = match here {
            Some(here) if switched => {
                let there = hyper::upgrade::on(Response::from_parts(parts.clone(), body));
                tokio::spawn(closing.run_until_cancelled_owned(async move {
                    if let Err(error) = splice(here, there).await {
                        tracing::debug!(
                            error = &*error,
                            "what a request was upgraded to ended badly"
                        );
                    }
                }));
                crate::body::full("")
            }
            _ if switched => return Err(ForwardError::Unasked),
            _ => until(body, closing),
        };
        only_end_to_end(&mut parts.headers);
        parts.extensions = http::Extensions::new();
        parts.extensions.insert(Foreign);
        parts.version = http::Version::HTTP_11;
        Ok(Response::from_parts(parts, body))
    }
    .boxed()
}

/// A body that ends with this server.
fn until(body: hyper::body::Incoming, closing: CancellationToken) -> Body {
    let frames = BodyStream::new(body).take_until(closing.cancelled_owned());
    StreamBody::new(frames).map_err(BoxError::from).boxed_unsync()
}

/// How long one direction goes on after the other has ended.
const REST: Duration = Duration::from_secs(10);

async fn splice(
    here: hyper::upgrade::OnUpgrade,
    there: hyper::upgrade::OnUpgrade,
) -> Result<(), BoxError> {
    let (here, there) = tokio::try_join!(here, there)?;
    let (mut from_here, mut to_here) = tokio::io::split(TokioIo::new(here));
    let (mut from_there, mut to_there) = tokio::io::split(TokioIo::new(there));
    let out = async {
        tokio::io::copy(&mut from_here, &mut to_there).await?;
        to_there.shutdown().await
    };
    let back = async {
        tokio::io::copy(&mut from_there, &mut to_here).await?;
        to_here.shutdown().await
    };
    let (mut out, mut back) = (pin!(out), pin!(back));
    // Nobody waits for ever for somebody who has not noticed that the other is gone.
    tokio::select! {
        ended = &mut out => { ended?; tokio::time::timeout(REST, back).await??; }
        ended = &mut back => { ended?; tokio::time::timeout(REST, out).await??; }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_between_neighbours_stays_there() {
        let mut all = headers(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("accept", "*/*"),
            ("upgrade", "websocket"),
        ]);
        only_end_to_end(&mut all);
        assert_eq!(all, headers(&[("accept", "*/*")]));
    }

    #[test]
    fn upgrades_go_on() {
        let mut all = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        only_end_to_end(&mut all);
        assert_eq!(all, headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
    }
}
