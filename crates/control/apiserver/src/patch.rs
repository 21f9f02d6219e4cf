//! Patches: JSON, merge and strategic merge; apply has its own way.

use berth_objects::{Object, Status, strategic_merge};
use http::{Request, Response};
use serde_json::Value;

use crate::call::Call;
use crate::{Body, input, write};

/// A patch, parsed.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    /// The patch and the paths of the fields it has twice.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), Status> {
        match media_type {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(bytes).map_err(|error| {
                    Status::bad_request(format!("the patch is no JSON: {error}"))
                })?;
                if patch.0.len() > 10_000 {
                    return Err(Status::new(
                        413,
                        "RequestEntityTooLarge",
                        "The allowed maximum operations in a JSON patch is 10000",
                    ));
                }
                Ok((Self::Json(patch), Vec::new()))
            }
            "application/merge-patch+json" => {
                let (patch, duplicates) = input::parse_json(bytes)?;
                Ok((Self::Merge(patch), duplicates))
            }
            "application/strategic-merge-patch+json" => {
                let (patch, duplicates) = input::parse_json(bytes)?;
                Ok((Self::Strategic(patch), duplicates))
            }
            "application/apply-patch+yaml" => {
                let (configuration, duplicates) = input::parse_yaml(bytes)?;
                Ok((Self::Apply(configuration), duplicates))
            }
            other => Err(unsupported(other, true)),
        }
    }

    /// Applies the patch to an object of the call's kind.
    fn run(&self, call: &Call, object: &mut Value) -> Result<(), Status> {
        let unprocessable = |message: String| Status::new(422, "Invalid", message);
        match self {
            Self::Json(patch) => json_patch::patch(object, patch).map_err(|error| {
                unprocessable(format!(
                    "the server rejected our request due to an error in our request: {error}"
                ))
            }),
            Self::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
            Self::Strategic(patch) => {
                let definition = call.resource().definition().1;
                strategic_merge(definition, object, patch)
                    .map_err(|error| Status::bad_request(error.to_string()))
            }
            Self::Apply(_) => Err(Status::internal("an applied configuration is no patch")),
        }
    }
}

/// 415. Nobody has told how lists of custom resources are merged strategically.
fn unsupported(media_type: &str, strategic: bool) -> Status {
    let strategic = if strategic { "application/strategic-merge-patch+json, " } else { "" };
    let message = format!(
        "the body of the request was in an unknown format - accepted media types \
        include: application/json-patch+json, application/merge-patch+json, \
        {strategic}application/apply-patch+yaml; this was {media_type}"
    );
    Status::new(415, "UnsupportedMediaType", message)
}

pub(crate) async fn patch(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (media_type, bytes) = input::read(request).await?;
    let (patch, duplicates) = Patch::parse(&media_type, &bytes)?;
    if matches!(patch, Patch::Strategic(_)) && call.resource().custom.is_some() {
        return Err(unsupported(&media_type, false));
    }
    call.twice(duplicates);
    if let Patch::Apply(configuration) = patch {
        return crate::apply::apply(call, configuration).await;
    }
    let patched = run(call, &patch).await?;
    Ok(call.respond(200, patched))
}

/// Applies a patch to the object of a call.
pub(crate) async fn run(call: &mut Call, patch: &Patch) -> Result<Value, Status> {
    // Fitting may add warnings, which belong to the call; the retry loop only reads it.
    let mut first = call.read().await?;
    patch.run(call, &mut first)?;
    call.fit(&mut first)?;
    let call = &*call;
    write::change(call, |old| {
        let mut object = old.clone();
        patch.run(call, &mut object)?;
        berth_objects::fit(call.resource(), &mut object)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        object.set(&["apiVersion"], call.resource().api_version());
        object.set(&["kind"], call.resource().kind);
        let wanted = object.resource_version().to_owned();
        write::expect_version(call, &wanted, old)?;
        if object.name() != old.name() {
            return Err(Status::bad_request("metadata.name may not be changed"));
        }
        Ok(object)
    })
    .await
}
