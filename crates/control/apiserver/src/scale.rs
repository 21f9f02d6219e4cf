//! The scale subresource: the number of replicas, alike for every kind that has one.

use berth_objects::{LabelSelector, Object, Status};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::call::Call;
use crate::patch::Patch;
use crate::service::json as respond;
use crate::{Body, input, write};

fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let selector = LabelSelector::from_object(object.at(&["spec", "selector"]));
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object.integer(&["spec", "replicas"]).unwrap_or(0)},
        "status": {
            "replicas": object.integer(&["status", "replicas"]).unwrap_or(0),
            "selector": selector.ok().flatten().map(|s| s.to_string()).unwrap_or_default(),
        },
    })
}

pub(crate) async fn get(call: &Call) -> Result<Response<Body>, Status> {
    Ok(respond(200, &of(&call.read().await?)))
}

pub(crate) async fn change(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let patch = if request.method() == http::Method::PATCH {
        let (media_type, bytes) = input::read(request).await?;
        Patch::parse(&media_type, &bytes)?
    } else {
        Patch::Merge(input::other(request, ("autoscaling", "v1", "Scale")).await?)
    };
    // Everything but the number is the object's own, so that validation and generation work as for any change.
    call.subresource = None;
    let call = &*call;
    let changed = write::change(call, |old| {
        let mut scale = of(old);
        match &patch {
            Patch::Json(patch) => json_patch::patch(&mut scale, patch)
                .map_err(|error| Status::new(422, "Invalid", error.to_string()))?,
            Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Apply(patch) => {
                json_patch::merge(&mut scale, patch);
            }
        }
        write::expect_version(call, scale.resource_version(), old)?;
        let replicas = scale.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        if i32::try_from(replicas).is_err() {
            return Err(Status::bad_request("spec.replicas is out of range"));
        }
        let mut object = old.clone();
        object.set(&["spec", "replicas"], replicas);
        Ok(object)
    })
    .await?;
    Ok(respond(200, &of(&changed)))
}
