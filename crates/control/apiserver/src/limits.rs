//! Limit ranges: what containers, pods and claims of a namespace ask for when they do not say, and how little and much they
//! may ask for.

use berth_objects::{Object, Quantity, Status, Subject};
use berth_rules::usage::pod_resources;
use serde_json::{Map, Value};

use crate::call::Call;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const FIELDS: [&str; 2] = ["initContainers", "containers"];

/// What of limit ranges is about one type of thing.
async fn items(call: &Call, kind: &str) -> Result<Vec<Value>, Status> {
    let resource = berth_rules::find("", "v1", "limitranges")
        .ok_or_else(|| Status::internal("limit ranges are not served"))?;
    let ranges = call.shared.list(resource, &call.namespace).await?;
    let all = ranges.iter().flat_map(|range| range.list(&["spec", "limits"]));
    Ok(all.filter(|item| item.text(&["type"]) == kind).cloned().collect())
}

/// Gives containers of a new pod the namespace's usual requests and limits where they have none.
pub(crate) async fn fill(call: &Call, pod: &mut Value) -> Result<(), Status> {
    let items = items(call, "Container").await?;
    if items.is_empty() {
        return Ok(());
    }
    let mut said = Vec::new();
    for field in FIELDS {
        let containers = pod.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            for (source, which, word) in
                [("defaultRequest", "requests", "request"), ("default", "limits", "limit")]
            {
                let filled = fill_one(container, &items, source, which);
                if !filled.is_empty() {
                    let kind = if field == "containers" { "container" } else { "init container" };
                    let name = container.text(&["name"]);
                    said.push(format!("{} {word} for {kind} {name}", filled.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        pod.set(&["metadata", "annotations", ANNOTATION], text);
    }
    Ok(())
}

fn fill_one(container: &mut Value, items: &[Value], source: &str, which: &str) -> Vec<String> {
    let mut filled = Vec::new();
    for (name, amount) in items.iter().flat_map(|item| item.map(&[source])).flatten() {
        if container.at(&["resources", which, name]).is_none() {
            container.set(&["resources", which, name], amount.clone());
            filled.push(name.clone());
        }
    }
    filled.sort();
    filled
}

/// Refuses what asks for less or more than the namespace's limit ranges say.
pub(crate) async fn check(call: &Call, object: &Value) -> Result<(), Status> {
    let mut errors = Vec::new();
    match (call.resource().group, call.resource().kind) {
        ("", "Pod") => {
            let containers = items(call, "Container").await?;
            for item in &containers {
                for container in FIELDS.iter().flat_map(|field| object.list(&["spec", field])) {
                    let of = |which| container.map(&["resources", which]).cloned();
                    judge(
                        item,
                        &of("requests").unwrap_or_default(),
                        &of("limits").unwrap_or_default(),
                        &mut errors,
                    );
                }
            }
            for item in items(call, "Pod").await? {
                let of = |which| -> Map<String, Value> {
                    let all = pod_resources(object, which).into_iter();
                    all.map(|(name, amount)| (name, amount.to_string().into())).collect()
                };
                judge(&item, &of("requests"), &of("limits"), &mut errors);
            }
        }
        ("", "PersistentVolumeClaim") => {
            let asked = object.map(&["spec", "resources", "requests"]).cloned().unwrap_or_default();
            for item in items(call, "PersistentVolumeClaim").await? {
                judge(&item, &asked, &asked, &mut errors);
            }
        }
        _ => return Ok(()),
    }
    errors.dedup();
    let why = match errors.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let subject = Subject { name: object.name().to_owned(), ..call.subject() };
    Err(Status::forbidden(subject, &why))
}

fn read(amounts: &Map<String, Value>, name: &str) -> Option<Quantity> {
    amounts.get(name).and_then(Value::as_str)?.parse().ok()
}

/// What one item has against these amounts.
fn judge(
    item: &Value,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
    errors: &mut Vec<String>,
) {
    let kind = item.text(&["type"]);
    let bounds = |field: &str| {
        let all = item.map(&[field]).cloned().unwrap_or_default();
        all.into_iter().filter_map(|(name, bound)| {
            let quantity: Quantity = bound.as_str()?.parse().ok()?;
            Some((name, quantity))
        })
    };
    for (name, bound) in bounds("min") {
        let says = format!("minimum {name} usage per {kind} is {bound}");
        match (read(requests, &name), read(limits, &name)) {
            (None, _) => errors.push(format!("{says}.  No request is specified")),
            (Some(asked), _) if asked < bound => {
                errors.push(format!("{says}, but request is {asked}"))
            }
            (_, Some(limit)) if limit < bound => {
                errors.push(format!("{says}, but limit is {limit}"))
            }
            _ => {}
        }
    }
    for (name, bound) in bounds("max") {
        let says = format!("maximum {name} usage per {kind} is {bound}");
        match (read(requests, &name), read(limits, &name)) {
            (_, None) => errors.push(format!("{says}.  No limit is specified")),
            (_, Some(limit)) if limit > bound => {
                errors.push(format!("{says}, but limit is {limit}"))
            }
            (Some(asked), _) if asked > bound => {
                errors.push(format!("{says}, but request is {asked}"))
            }
            _ => {}
        }
    }
    for (name, bound) in bounds("maxLimitRequestRatio") {
        let says = format!("{name} max limit to request ratio per {kind} is {bound}");
        match (read(requests, &name), read(limits, &name)) {
            (None, _) => {
                errors.push(format!("{says}, but no request is specified or request is 0"))
            }
            (Some(asked), _) if asked.is_zero() => {
                errors.push(format!("{says}, but no request is specified or request is 0"));
            }
            (_, None) => errors.push(format!("{says}, but no limit is specified or limit is 0")),
            (Some(asked), Some(limit)) => {
                let ratio = limit.over(asked);
                let one = Quantity::from_milli(1000);
                if ratio > bound.over(one) {
                    errors.push(format!("{says}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}
