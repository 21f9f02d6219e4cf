//! Compression of large answers.
//!
//! Only answers that are there as a whole: a compressor would hold back the events of a watch. Small ones are not worth the
//! time, and on a list the fastest level does nearly all there is to do.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http::{HeaderMap, Response};
use http_body::Body as _;

use crate::forward::Foreign;
use crate::service::header;
use crate::{Body, body};

/// From here on it pays.
const LARGE: u64 = 128 << 10;

/// Whether the client can read gzip.
pub(crate) fn accepted(headers: &HeaderMap) -> bool {
    header(headers, ACCEPT_ENCODING.as_str()).split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let refused = |part: &str| matches!(part.strip_prefix("q="), Some("0" | "0.0"));
        parts.next() == Some("gzip") && !parts.any(refused)
    })
}

/// Compresses an answer if it is large and whole.
pub(crate) async fn squeeze(response: Response<Body>) -> Response<Body> {
    let large = response.body().size_hint().exact().is_some_and(|size| size >= LARGE);
    let foreign = response.extensions().get::<Foreign>().is_some();
    if foreign || !large || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = body::whole(body).await else {
        // Bodies of a known size are in memory; reading them cannot fail.
        return Response::from_parts(parts, body::full(""));
    };
    let squeezed = {
        let bytes = bytes.clone();
        tokio::task::spawn_blocking(move || {
            let mut encoder =
                GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
            encoder.write_all(&bytes)?;
            encoder.finish()
        })
        .await
    };
    let Ok(Ok(squeezed)) = squeezed else {
        return Response::from_parts(parts, body::full(bytes));
    };
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, body::full(squeezed))
}
