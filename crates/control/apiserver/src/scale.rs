//! The scale subresource: the number of replicas, alike for every kind that has one.

use berth_objects::{Column, LabelSelector, Object, Resource, Status, time};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::call::Call;
use crate::output::{Form, partial};
use crate::patch::Patch;
use crate::service::json as respond;
use crate::{Body, input, table, write};

/// The number of replicas of an object, as a Scale.
pub(crate) fn of(resource: &Resource<'_>, object: &Value) -> Value {
    let custom = berth_custom::Kind::of(resource).and_then(berth_custom::Kind::scale);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    if let Some(scale) = custom {
        return of_custom(scale, metadata, object);
    }
    // The oldest kind with replicas selects by a plain map.
    let plain = object.text(&["kind"]) == "ReplicationController";
    let selector = if plain {
        Ok(object.map(&["spec", "selector"]).map(LabelSelector::from_map))
    } else {
        LabelSelector::from_object(object.at(&["spec", "selector"]))
    };
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

fn path(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn of_custom(scale: &berth_custom::Scale, metadata: Value, object: &Value) -> Value {
    let number = |names: &[String]| object.integer(&path(names)).unwrap_or(0);
    let mut status = json!({"replicas": number(&scale.present)});
    if let Some(selector) = &scale.selector {
        status["selector"] = object.text(&path(selector)).into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": number(&scale.wanted)},
        "status": status,
    })
}

/// Sets the number of replicas that are wanted.
pub(crate) fn put(resource: &Resource<'_>, object: &mut Value, replicas: i64) {
    match berth_custom::Kind::of(resource).and_then(berth_custom::Kind::scale) {
        Some(scale) => object.set(&path(&scale.wanted), replicas),
        None => object.set(&["spec", "replicas"], replicas),
    }
}

const COLUMNS: [Column; 3] =
    [Column::number("Desired"), Column::number("Available"), Column::text("Age")];

/// A Scale in the form the client asked for.
fn answer(call: &Call, scale: Value) -> Response<Body> {
    let cells = || {
        let count = |path: &[&str]| Value::from(scale.integer(path).unwrap_or(0));
        let born = time::parse(scale.text(&["metadata", "creationTimestamp"]));
        let age = born.map(|born| time::age(born, call.shared.now())).unwrap_or_default();
        vec![count(&["spec", "replicas"]), count(&["status", "replicas"]), age.into()]
    };
    let value = match call.form {
        Form::Whole => scale,
        Form::Metadata => partial(scale),
        Form::Table(include) => {
            let cells = cells();
            table::of_cells(&COLUMNS, cells, scale, include)
        }
    };
    respond(200, &value)
}

pub(crate) async fn get(call: &Call) -> Result<Response<Body>, Status> {
    Ok(answer(call, of(call.resource(), &call.read().await?)))
}

pub(crate) async fn change(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let patch = if request.method() == http::Method::PATCH {
        let (media_type, bytes) = input::read(request).await?;
        Patch::parse(&media_type, &bytes)?.0
    } else {
        Patch::Merge(input::other(request, ("autoscaling", "v1", "Scale")).await?)
    };
    // Everything but the number is the object's own, so that validation and generation work as for any change.
    call.via = call.subresource.take();
    let call = &*call;
    let changed = write::change(call, |old| {
        let mut scale = of(call.resource(), old);
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
        put(call.resource(), &mut object, replicas);
        Ok(object)
    })
    .await?;
    Ok(answer(call, of(call.resource(), &changed)))
}
