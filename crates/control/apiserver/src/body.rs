//! Bodies of requests and responses.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::Frame;
use tokio::time::error::Elapsed;

use berth_objects::Status;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every request and response in here.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Large enough for a Secret of a full mebibyte in base64, as clients may send it.
const LARGEST: usize = 3 << 20;

/// The longest a body takes to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// The bytes of an answer of our own making.
pub(crate) async fn whole(body: Body) -> Result<Bytes, BoxError> {
    Ok(body.collect().await?.to_bytes())
}

/// Reads an answer of another server, of at most so many bytes. Boxed, as below.
pub(crate) fn up_to(body: Body, largest: usize) -> BoxFuture<'static, Result<Bytes, BoxError>> {
    Limited::new(body, largest).collect().map(|read| Ok(read?.to_bytes())).boxed()
}

/// Reads a whole body. Boxed, because the compiler cannot follow the body's error into the callers' futures.
pub(crate) fn collect(body: Body) -> BoxFuture<'static, Result<Bytes, Status>> {
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, LARGEST).collect());
    whole
        .map(|outcome| match outcome.unwrap_or_else(|slow| Err(slow.into())) {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<Elapsed>() => Err(Status::new(
                408,
                "Timeout",
                format!("the body did not arrive within {} seconds", PATIENCE.as_secs()),
            )),
            Err(error) if error.is::<LengthLimitError>() => Err(Status::new(
                413,
                "RequestEntityTooLarge",
                format!("Request entity too large: limit is {LARGEST}"),
            )),
            Err(error) => Err(Status::bad_request(format!("cannot read the body: {error}"))),
        })
        .boxed()
}
