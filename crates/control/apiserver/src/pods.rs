//! What pods have and nothing else does: binding, and the streams that only their node can serve.

use std::borrow::Cow;

use berth_objects::{Object, Status};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::HeaderValue;
use http::{Request, Response, Uri};
use serde_json::{Value, json};
use tower::ServiceExt;

use berth_objects::Subresource;

use crate::admission::Asked;
use crate::call::{Call, not_allowed};
use crate::forward::Foreign;
use crate::registry::Change;
use crate::service::json as respond;
use crate::{Body, BoxError, NodeService, input, peers};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

pub(crate) fn success(code: u16) -> Response<Body> {
    respond(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "code": code}),
    )
}

/// Whether a call is for the collection of bindings, whose objects are bindings of the pods of their names.
pub(crate) fn is_collection(call: &Call) -> bool {
    (call.resource().group, call.resource().kind) == ("", "Binding")
}

/// Makes a call for the collection of bindings one for the binding of a pod, so that nobody who has a say in one has none in the
/// other. Whose name that pod has stands in the body.
pub(crate) fn of_collection(call: &mut Call) -> Result<(), Status> {
    if !call.name.is_empty() {
        return Err(not_allowed());
    }
    let pods = berth_rules::find("", "v1", "pods")
        .ok_or_else(|| Status::internal("pods are not served"))?;
    call.handle = pods.into();
    call.subresource = Some(Subresource::Binding);
    Ok(())
}

/// The scheduler's choice of a node, once and for all.
pub(crate) async fn bind(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let binding = input::other(request, ("", "v1", "Binding")).await?;
    if call.name.is_empty() {
        binding.name().clone_into(&mut call.name);
    }
    if call.name.is_empty() {
        return Err(Status::bad_request("metadata.name: Required value: the name of the pod"));
    }
    for (what, found, wanted) in
        [("name", binding.name(), &call.name), ("namespace", binding.namespace(), &call.namespace)]
    {
        if !found.is_empty() && found != wanted {
            let message = format!("{what} in URL does not match {what} in Binding object");
            return Err(Status::bad_request(message));
        }
    }
    let binding = Asked::create(call, Cow::Owned(binding)).settle().await?;
    let node = binding.text(&["target", "name"]).to_owned();
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value"));
    }
    if berth_rules::is_mirror(&binding) {
        let why = "a binding makes no mirror of a pod";
        return Err(Status::forbidden(call.subject(), why));
    }
    let now = berth_objects::time::seconds(call.shared.now());
    call.modify(|mut pod| {
        let uid = binding.uid();
        if !uid.is_empty() && uid != pod.uid() {
            return Err(Status::conflict(call.subject(), "the pod was replaced by another"));
        }
        if pod.deleting() {
            let why = format!("pod {} is being deleted, cannot be assigned to a host", call.name);
            return Err(Status::conflict(call.subject(), &why));
        }
        if !pod.list(&["spec", "schedulingGates"]).is_empty() {
            let why = format!("pod {} has non-empty .spec.schedulingGates", call.name);
            return Err(Status::conflict(call.subject(), &why));
        }
        let assigned = pod.text(&["spec", "nodeName"]);
        if !assigned.is_empty() {
            let why = format!("pod {} is already assigned to node \"{assigned}\"", call.name);
            return Err(Status::conflict(call.subject(), &why));
        }
        pod.set(&["spec", "nodeName"], node.as_str());
        for (name, value) in binding.map(&["metadata", "annotations"]).into_iter().flatten() {
            pod.set(&["metadata", "annotations", name], value.clone());
        }
        condition(
            &mut pod,
            json!({"type": "PodScheduled", "status": "True",
            "lastTransitionTime": now, "lastProbeTime": null}),
        );
        Ok(Change::Put(pod))
    })
    .await?;
    Ok(success(201))
}

pub(crate) fn condition(pod: &mut Value, wanted: Value) {
    let place = pod.place(&["status", "conditions"]);
    if !place.is_array() {
        *place = json!([]);
    }
    if let Some(conditions) = place.as_array_mut() {
        conditions.retain(|known| known["type"] != wanted["type"]);
        conditions.push(wanted);
    }
}

/// Hands the request on to the pod's node, upgrades and all.
pub(crate) async fn stream(
    call: &Call,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let pod = call.read().await?;
    let node = pod.text(&["spec", "nodeName"]);
    if node.is_empty() {
        let message = format!("pod {} does not have a host assigned", call.name);
        return Err(Status::bad_request(message));
    }
    let action = match call.subresource {
        Some(Subresource::Log) => "containerLogs",
        Some(Subresource::Exec) => "exec",
        Some(Subresource::Attach) => "attach",
        _ => "portForward",
    };
    let mut path = format!("/{action}/{}/{}", call.namespace, call.name);
    if action != "portForward" {
        path = format!("{path}/{}", container(call, &pod)?);
    }
    if call.subresource != Some(Subresource::Log) {
        Asked::connect(call, options(call)).judge().await?;
    }
    if let Some(query) = request.uri().query() {
        path = format!("{path}?{query}");
    }
    let uri: Uri =
        path.parse().map_err(|_| Status::bad_request("the container's name is no name"))?;
    *request.uri_mut() = uri;
    let what = format!("the node \"{node}\" of pod \"{}\"", call.name);
    at_node(call, node, &what, request).await
}

/// Has a node answer a request, whose address is the node's own.
pub(crate) async fn at_node(
    call: &Call,
    node: &str,
    what: &str,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let unreachable = || {
        let message = format!("{what} cannot be reached");
        let mut status = Status::new(503, "ServiceUnavailable", message);
        status.retry_after = Some(1);
        status
    };
    let service = peers::node(&call.shared, node).await?.ok_or_else(unreachable)?;
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_static("node"));
    let mut answer = ask(service, request).await.map_err(|error| {
        tracing::warn!(node, error = &*error as &dyn std::error::Error, "could not reach a node");
        unreachable()
    })?;
    answer.extensions_mut().insert(Foreign);
    Ok(answer)
}

/// What the query asks of a stream, as an object.
fn options(call: &Call) -> Value {
    let Some((_, version, kind)) = call.subresource.and_then(Subresource::body) else {
        return Value::Null;
    };
    let mut options = json!({"kind": kind, "apiVersion": version});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.contains(name) {
            options[name] = call.query.flag(name).into();
        }
    }
    if !call.query.text("container").is_empty() {
        options["container"] = call.query.text("container").into();
    }
    if !call.query.all("command").is_empty() {
        options["command"] = json!(call.query.all("command"));
    }
    let ports: Vec<u16> = call.query.all("ports").iter().filter_map(|it| it.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    options
}

/// Boxed, because the compiler cannot follow the service's type into the callers' futures.
pub(crate) fn ask(
    service: NodeService,
    request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, BoxError>> {
    service.oneshot(request).boxed()
}

/// The container that is meant: the one named, the default one, or the only one.
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        pod.list(&["spec", field]).iter().map(|container| container.text(&["name"])).collect()
    };
    let containers = names("containers");
    let all = [containers.clone(), names("initContainers"), names("ephemeralContainers")].concat();
    let asked = call.query.text("container");
    if !asked.is_empty() {
        if all.contains(&asked) {
            return Ok(asked.to_owned());
        }
        let message = format!("container {asked} is not valid for pod {}", call.name);
        return Err(Status::bad_request(message));
    }
    if let Some(default) = pod.annotation(DEFAULT_CONTAINER)
        && all.contains(&default)
    {
        return Ok(default.to_owned());
    }
    match containers.as_slice() {
        [] => Err(Status::bad_request(format!("pod {} has no containers", call.name))),
        [only] => Ok((*only).to_owned()),
        [first, ..] if call.subresource != Some(Subresource::Log) => Ok((*first).to_owned()),
        many => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            call.name,
            many.join(" ")
        ))),
    }
}
