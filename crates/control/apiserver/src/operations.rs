//! What an administrator may have the server do, beside the Kubernetes API: `POST /berth/v1/<name>`.
//!
//! The rights are those of a path that is no resource, so a role can give them; the default roles give them to nobody but
//! administrators.

use std::sync::Arc;

use berth_objects::Status;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;

use crate::service::json;
use crate::{Body, BoxError};

/// What happens when an operation is asked for: the answer, or why it failed.
pub type Outcome = Result<Value, String>;

/// The operations of a server.
pub trait Operations: Send + Sync + 'static {
    /// Begins the operation of that name; nothing when there is none.
    fn begin(&self, name: &str) -> Option<BoxFuture<'static, Outcome>>;

    /// Begins an operation of that name whose answer is bytes; nothing when there is none. An error ends the answer in the
    /// middle, so that the client notices.
    fn stream(&self, _name: &str) -> Option<BoxStream<'static, Result<Bytes, BoxError>>> {
        None
    }
}

/// A shared set of operations.
pub type SharedOperations = Arc<dyn Operations>;

pub(crate) async fn answer(
    operations: &dyn Operations,
    parts: &[String],
    method: &Method,
) -> Result<Response<Body>, Status> {
    let not_found =
        || Status::new(404, "NotFound", "the server could not find the requested resource");
    if parts.get(1).is_none_or(|version| version != "v1") || *method != Method::POST {
        return Err(not_found());
    }
    let name = parts.get(2..).unwrap_or_default().join("/");
    if let Some(bytes) = operations.stream(&name) {
        let frames = bytes.map(|piece| piece.map(Frame::data));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return Ok(response);
    }
    let begun = operations.begin(&name).ok_or_else(not_found)?;
    begun.await.map(|answer| json(200, &answer)).map_err(Status::internal)
}
