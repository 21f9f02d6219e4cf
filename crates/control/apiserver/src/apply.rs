//! Server-side apply, and the note of who manages which fields.

use berth_objects::Status;
use http::Response;
use serde_json::Value;

use crate::Body;
use crate::call::Call;

impl Call {
    /// Notes this call's manager as the owner of what it changed.
    pub fn track(&self, _object: &mut Value, _old: Option<&Value>) {}
}

pub(crate) async fn apply(
    _call: &mut Call,
    _configuration: Value,
) -> Result<Response<Body>, Status> {
    Err(Status::new(415, "UnsupportedMediaType", "server-side apply is not served yet"))
}
