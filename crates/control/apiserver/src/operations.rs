//! What an administrator may have the server do, beside the Kubernetes API: `POST /berth/v1/<name>`.
//!
//! The rights are those of a path that is no resource, so a role can give them; the default roles give them to nobody but
//! administrators.

use std::sync::Arc;

use berth_objects::Status;
use futures::future::BoxFuture;
use http::{Method, Response};
use serde_json::Value;

use crate::Body;
use crate::service::json;

/// What happens when an operation is asked for: the answer, or why it failed.
pub type Outcome = Result<Value, String>;

/// The operations of a server.
pub trait Operations: Send + Sync + 'static {
    /// Begins the operation of that name; nothing when there is none.
    fn begin(&self, name: &str) -> Option<BoxFuture<'static, Outcome>>;
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
    let begun =
        operations.begin(&parts.get(2..).unwrap_or_default().join("/")).ok_or_else(not_found)?;
    begun.await.map(|answer| json(200, &answer)).map_err(Status::internal)
}
