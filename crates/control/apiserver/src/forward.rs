//! A client's request, handed on to another server with all it carries.

use std::time::Duration;

use berth_report::chain;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
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

/// Hands a request on and brings the answer back. What it is upgraded to goes on until one side ends it, or `closing` is
/// cancelled. The request's address must be whole.
pub(crate) fn forward(
    client: &HttpClient,
    mut request: Request<Body>,
    patience: Option<Duration>,
    closing: CancellationToken,
) -> BoxFuture<'static, Result<Response<Body>, ForwardError>> {
    let ours = upgrades(request.headers()).then(|| hyper::upgrade::on(&mut request));
    only_end_to_end(request.headers_mut());
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
        if parts.status == StatusCode::SWITCHING_PROTOCOLS
            && let Some(ours) = ours
        {
            let theirs = hyper::upgrade::on(Response::from_parts(parts.clone(), body));
            tokio::spawn(closing.run_until_cancelled_owned(async move {
                if let Err(error) = splice(ours, theirs).await {
                    tracing::debug!(error = &*error, "what a request was upgraded to ended badly");
                }
            }));
            only_end_to_end(&mut parts.headers);
            parts.extensions = http::Extensions::new();
            return Ok(Response::from_parts(parts, crate::body::full("")));
        }
        only_end_to_end(&mut parts.headers);
        parts.extensions = http::Extensions::new();
        parts.version = http::Version::HTTP_11;
        Ok(Response::from_parts(parts, body.map_err(BoxError::from).boxed_unsync()))
    }
    .boxed()
}

async fn splice(
    ours: hyper::upgrade::OnUpgrade,
    theirs: hyper::upgrade::OnUpgrade,
) -> Result<(), BoxError> {
    let (ours, theirs) = tokio::try_join!(ours, theirs)?;
    tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await?;
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
