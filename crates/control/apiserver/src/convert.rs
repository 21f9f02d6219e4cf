//! Objects of one version as objects of another: by name, or by asking a webhook.

use std::time::Duration;

use berth_custom::{Conversion, Kind};
use berth_objects::{Object, Resource, Status};
use serde_json::{Value, json};

use crate::callout::Server;
use crate::server::Shared;

const TIMEOUT: Duration = Duration::from_secs(30);

/// An object as it lies in the store, as far as that can be told without asking anybody.
pub(crate) fn present(kind: &Kind, resource: &Resource<'_>, object: &mut Value) {
    let version = resource.api_version();
    if *kind.conversion() == Conversion::Rename {
        object.set(&["apiVersion"], version.as_str());
    }
    if object.text(&["apiVersion"]) == version
        && let Some(custom) = resource.custom
    {
        custom.default(object);
    }
}

/// Objects as a resource shows them.
pub(crate) async fn shown(
    shared: &Shared,
    resource: &Resource<'_>,
    objects: &mut [Value],
) -> Result<(), Status> {
    let Some(kind) = Kind::of(resource) else { return Ok(()) };
    let version = resource.api_version();
    ask(shared, resource, kind, &version, objects).await
}

/// An object as it is stored.
pub(crate) async fn stored(
    shared: &Shared,
    resource: &Resource<'_>,
    object: &Value,
) -> Result<Value, Status> {
    let mut objects = [object.clone()];
    if let Some(kind) = Kind::of(resource) {
        let storage = kind.storage();
        match kind.conversion() {
            Conversion::Rename => objects[0].set(&["apiVersion"], storage),
            Conversion::Ask(_) => ask(shared, resource, kind, &storage, &mut objects).await?,
        }
    }
    let [object] = objects;
    Ok(object)
}

/// Has a webhook convert those objects that are of another version.
async fn ask(
    shared: &Shared,
    resource: &Resource<'_>,
    kind: &Kind,
    version: &str,
    objects: &mut [Value],
) -> Result<(), Status> {
    let Conversion::Ask(config) = kind.conversion() else { return Ok(()) };
    let places: Vec<usize> = (0..objects.len())
        .filter(|place| objects[*place].text(&["apiVersion"]) != version)
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let failed = |why: String| {
        let message =
            format!("conversion webhook for {version}, Kind={} failed: {why}", resource.kind);
        Status::internal(message)
    };
    let server = Server::of_config(config).map_err(|error| failed(error.to_string()))?;
    let id = uuid::Uuid::new_v4().to_string();
    let originals: Vec<Value> = places.iter().map(|place| objects[*place].clone()).collect();
    let question = json!({
        "kind": "ConversionReview",
        "apiVersion": "apiextensions.k8s.io/v1",
        "request": {"uid": id, "desiredAPIVersion": version, "objects": originals},
    });
    let answer = shared.callouts.post(&server, TIMEOUT, &question).await;
    let mut answer = answer.map_err(|error| failed(error.to_string()))?;
    let converted = read(&mut answer, &id, version, &originals).map_err(failed)?;
    for (place, mut object) in places.into_iter().zip(converted) {
        if object.text(&["apiVersion"]) == resource.api_version()
            && let Some(custom) = resource.custom
        {
            custom.prune(&mut object);
            custom.default(&mut object);
        }
        objects[place] = object;
    }
    Ok(())
}

/// The objects of an answer, if it is one to the question.
fn read(
    answer: &mut Value,
    id: &str,
    version: &str,
    originals: &[Value],
) -> Result<Vec<Value>, String> {
    let kind = (answer.text(&["apiVersion"]), answer.text(&["kind"]));
    if kind != ("apiextensions.k8s.io/v1", "ConversionReview") {
        return Err(format!("the answer is no ConversionReview of v1, but {} {}", kind.0, kind.1));
    }
    let mut response = answer["response"].take();
    if response.text(&["uid"]) != id {
        return Err(format!("expected response.uid {id}, got \"{}\"", response.text(&["uid"])));
    }
    match response.text(&["result", "status"]) {
        "Success" => {}
        _ => {
            return Err(match response.text(&["result", "message"]) {
                "" => "the webhook gave no reason".to_owned(),
                message => message.to_owned(),
            });
        }
    }
    let Value::Array(objects) = response["convertedObjects"].take() else {
        return Err("response.convertedObjects is missing".to_owned());
    };
    if objects.len() != originals.len() {
        let (wanted, got) = (originals.len(), objects.len());
        return Err(format!("expected {wanted} converted objects, got {got}"));
    }
    let check = |(original, mut object): (&Value, Value)| {
        if object.text(&["apiVersion"]) != version {
            let got = object.text(&["apiVersion"]);
            return Err(format!("expected converted objects of {version}, got \"{got}\""));
        }
        if object.text(&["kind"]) != original.text(&["kind"]) {
            return Err("a converted object has another kind".to_owned());
        }
        for field in ["name", "namespace", "uid"] {
            if object.text(&["metadata", field]) != original.text(&["metadata", field]) {
                return Err(format!("a converted object has another metadata.{field}"));
            }
        }
        // Of the metadata only labels and annotations are the webhook's to change.
        let mut metadata = original["metadata"].clone();
        for field in ["labels", "annotations"] {
            match object.at(&["metadata", field]) {
                Some(value) => metadata.set(&[field], value.clone()),
                None => drop(metadata.unset(&[field])),
            }
        }
        object["metadata"] = metadata;
        Ok(object)
    };
    originals.iter().zip(objects).map(check).collect()
}
