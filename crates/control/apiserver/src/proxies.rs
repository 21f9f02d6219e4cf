//! The subresource `proxy` of pods, Services and nodes: HTTP to what serves there, as if this server were it.
//!
//! A pod or Service is named `[scheme:]name[:port]`. Certificates are not verified where the scheme is `https`: it says how to speak,
//! and nothing says whom to trust. Addresses of the machine itself are refused, because whoever may write endpoints would
//! otherwise reach what listens to this machine alone.

use std::net::{IpAddr, SocketAddr};

use berth_objects::{Object, Status};
use http::header::{COOKIE, HOST, HeaderMap, HeaderValue, LOCATION};
use http::{Method, Request, Response, Uri};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

use crate::admission::Asked;
use crate::call::Call;
use crate::forward::{Handing, forward, upgrades};
use crate::service::Cookies;
use crate::transport::{Connector, Place};
use crate::{Body, body, callout, peers, pods};

/// So many endpoints of a Service are tried, of so many that are looked at.
const TRIES: usize = 3;
const LOOKS: usize = 20;

/// `[scheme:]name[:port]`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    secure: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let secure = match scheme {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { secure, name, port })
    }
}

/// Hands a request on to what the path names, and brings the answer back.
pub(crate) async fn serve(call: &Call, request: Request<Body>) -> Result<Response<Body>, Status> {
    let wrong = || {
        Status::bad_request(format!(
            "invalid {} request \"{}\"",
            call.resource().singular,
            call.name
        ))
    };
    let named = Named::parse(&call.name).ok_or_else(wrong)?;
    // `api/v1/nodes/name`, or `api/v1/namespaces/namespace/pods/name`.
    let names = if call.resource().namespaced() { 6 } else { 4 };
    let path = request.uri().path();
    let (root, inside) = match split(path, names) {
        Some((root, inside)) => (root.to_owned(), inside.to_owned()),
        None if matches!(*request.method(), Method::GET | Method::HEAD)
            && !upgrades(request.headers()) =>
        {
            return redirected(&request);
        }
        None => (path.to_owned(), "/".to_owned()),
    };
    let (_, version, kind) =
        call.subresource.and_then(berth_objects::Subresource::body).unwrap_or_default();
    let options = json!({"kind": kind, "apiVersion": version, "path": inside});
    if !peers::handed_on(&request) {
        Asked::connect(call, options).judge().await?;
    }
    let target = call.shared.fetch(call.resource(), &call.namespace, named.name).await?;
    let (target, _) = target.ok_or_else(|| {
        let mut subject = call.subject();
        named.name.clone_into(&mut subject.name);
        Status::not_found(subject)
    })?;
    let inside = match request.uri().query() {
        Some(query) => format!("{inside}?{query}"),
        None => inside,
    };
    let place = match call.resource().kind {
        "Node" if named.port.is_empty() => {
            let mut request = request;
            *request.uri_mut() = inside.parse().map_err(|_| wrong())?;
            return pods::at_node(
                call,
                named.name,
                &format!("the node \"{}\"", named.name),
                request,
            )
            .await;
        }
        "Node" => Place::At(vec![of_node(&target, named.port)?]),
        "Service" => Place::At(of_service(call, &target, named.port).await?),
        _ => Place::At(vec![of_pod(&target, named.port)?]),
    };
    let connector = if named.secure {
        let tls = berth_tls::unverified_client(None).map_err(Status::internal)?;
        // Nobody verifies the name; it says which of several certificates is wanted.
        let host = ServerName::try_from(named.name.to_owned()).map_err(|_| wrong())?;
        Connector::secure(place, tls, host)
    } else {
        Connector::plain(place)
    };
    let (request, ours) = addressed(request, named.secure, &inside)?;
    let client = connector.abroad().client(0);
    let closing = call.shared.closing.clone();
    let handing = Handing { client: &client, ours, upgrades: None, patience: None, closing };
    let answer = forward(handing, request).await;
    let mut answer = answer.map_err(|error| {
        let message = format!("error trying to reach {}: {error}", call.resource().singular);
        Status::new(503, "ServiceUnavailable", message)
    })?;
    relocate(&mut answer, &root);
    Ok(answer)
}

/// A path up to `/proxy`, and from there; so many names stand before that word. Nothing, if the path ends there: then the
/// pages' own links would lead elsewhere.
fn split(path: &str, names: usize) -> Option<(&str, &str)> {
    let bytes = path.as_bytes();
    let ends = (1..bytes.len()).filter(|at| bytes[*at] == b'/' && bytes[*at - 1] != b'/');
    Some(path.split_at(ends.into_iter().nth(names)?))
}

/// Sends the client to the same path with a slash behind it.
fn redirected(request: &Request<Body>) -> Result<Response<Body>, Status> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{}/{query}", request.uri().path());
    let response = Response::builder().status(301).header(LOCATION, to).body(body::full(""));
    response.map_err(Status::internal)
}

/// The request as the other server gets it, and headers about where it came from. It still names this server, so that links
/// lead here.
fn addressed(
    mut request: Request<Body>,
    secure: bool,
    inside: &str,
) -> Result<(Request<Body>, HeaderMap), Status> {
    let mut ours = HeaderMap::new();
    let host = request.headers().get(HOST).cloned();
    let host = host.or_else(|| HeaderValue::from_str(request.uri().authority()?.as_str()).ok());
    if let Some(host) = host {
        ours.insert("x-forwarded-host", host.clone());
        ours.insert(HOST, host);
    }
    ours.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Ok(came) = HeaderValue::from_str(request.uri().path()) {
        ours.insert("x-forwarded-uri", came);
    }
    if let Some(Cookies(cookies)) = request.extensions().get::<Cookies>() {
        ours.extend(cookies.iter().map(|cookie| (COOKIE, cookie.clone())));
    }
    let scheme = if secure { "https" } else { "http" };
    let uri: Uri = format!("{scheme}://target{inside}")
        .parse()
        .map_err(|_| Status::bad_request("the path behind `proxy` is no path"))?;
    *request.uri_mut() = uri;
    Ok((request, ours))
}

/// Makes a redirection within the other server one within its path here.
fn relocate(answer: &mut Response<Body>, root: &str) {
    let Some(to) = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    if !to.starts_with('/') || to.starts_with("//") {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&format!("{root}{to}")) {
        answer.headers_mut().insert(LOCATION, value);
    }
}

fn number(port: &str) -> Result<u16, Status> {
    port.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Status::bad_request(format!("invalid port \"{port}\"")))
}

fn unavailable(message: String) -> Status {
    Status::new(503, "ServiceUnavailable", message)
}

fn address(text: &str, port: u16, what: &str) -> Result<SocketAddr, Status> {
    let ip: IpAddr = text.parse().map_err(|_| unavailable(format!("{what} has no address yet")))?;
    Ok(SocketAddr::new(ip, port))
}

fn of_pod(pod: &Value, port: &str) -> Result<SocketAddr, Status> {
    let first = || {
        let containers = pod.list(&["spec", "containers"]).iter();
        let mut ports = containers
            .flat_map(|it| it.list(&["ports"]))
            .filter_map(|it| it.integer(&["containerPort"]));
        ports.next().and_then(|port| u16::try_from(port).ok()).unwrap_or(80)
    };
    let port = if port.is_empty() { first() } else { number(port)? };
    address(pod.text(&["status", "podIP"]), port, &format!("the pod \"{}\"", pod.name()))
}

fn of_node(node: &Value, port: &str) -> Result<SocketAddr, Status> {
    let own = node.list(&["status", "addresses"]).iter();
    let own = own.clone().find(|it| it.text(&["type"]) == "InternalIP");
    let text = own.map_or("", |it| it.text(&["address"]));
    address(text, number(port)?, &format!("the node \"{}\"", node.name()))
}

/// Where a Service's port is served: the port by number or name; the only one, or the one without a name, where neither is
/// said. Only pods of its namespace count: whoever may write a Service and its endpoints must not reach by them what they
/// cannot reach otherwise.
async fn of_service(call: &Call, service: &Value, port: &str) -> Result<Vec<SocketAddr>, Status> {
    let name = service.name();
    let ports = service.list(&["spec", "ports"]);
    let wanted = ports.iter().find(|it| match port {
        "" => ports.len() == 1 || it.text(&["name"]).is_empty(),
        port => {
            it.text(&["name"]) == port
                || it.integer(&["port"]).is_some_and(|it| it.to_string() == port)
        }
    });
    let wanted = wanted.ok_or_else(|| {
        unavailable(format!("no service port \"{port}\" found for service \"{name}\""))
    })?;
    let mut all = Vec::new();
    for slice in callout::slices_of(&*call.shared.store, &call.namespace, name).await? {
        let mut ports = slice.list(&["ports"]).iter();
        let port = ports.find(|it| it.text(&["name"]) == wanted.text(&["name"]));
        let number = port.and_then(|it| it.integer(&["port"]));
        let Some(number) = number.and_then(|port| u16::try_from(port).ok()) else { continue };
        let ready = |it: &&Value| it.at(&["conditions", "ready"]) != Some(&Value::Bool(false));
        for endpoint in slice.list(&["endpoints"]).iter().filter(ready) {
            let addresses = endpoint.list(&["addresses"]).iter().filter_map(Value::as_str);
            let known = addresses.filter_map(|it| Some(SocketAddr::new(it.parse().ok()?, number)));
            all.extend(known.map(|address| (address, endpoint["targetRef"].clone())));
        }
    }
    let first = if all.is_empty() { 0 } else { rand::random_range(0..all.len()) };
    all.rotate_left(first);
    let mut found = Vec::new();
    // A few to try are enough, and each costs a look.
    for (address, target) in all.into_iter().take(LOOKS) {
        if found.len() < TRIES && is_of_pod(call, &target, address.ip()).await? {
            found.push(address);
        }
    }
    if found.is_empty() {
        return Err(unavailable(format!("no endpoints available for service \"{name}\"")));
    }
    Ok(found)
}

/// Whether what an endpoint names is a pod of the namespace that has this address.
async fn is_of_pod(call: &Call, target: &Value, address: IpAddr) -> Result<bool, Status> {
    let namespace = target.text(&["namespace"]);
    if target.text(&["kind"]) != "Pod" || !(namespace.is_empty() || namespace == call.namespace) {
        return Ok(false);
    }
    let pods = berth_rules::find("", "v1", "pods")
        .ok_or_else(|| Status::internal("pods are not served"))?;
    let found = call.shared.fetch(pods, &call.namespace, target.text(&["name"])).await?;
    let has = |text: &str| text.parse() == Ok(address);
    Ok(found.is_some_and(|(pod, _)| {
        let all = pod.list(&["status", "podIPs"]).iter();
        all.map(|it| it.text(&["ip"])).chain([pod.text(&["status", "podIP"])]).any(has)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_schemes_and_ports() {
        let named = |secure, name, port| Some(Named { secure, name, port });
        assert_eq!(Named::parse("web"), named(false, "web", ""));
        assert_eq!(Named::parse("web:8080"), named(false, "web", "8080"));
        assert_eq!(Named::parse("https:web:"), named(true, "web", ""));
        assert_eq!(Named::parse("http:web:main"), named(false, "web", "main"));
        for wrong in ["", ":80", "ftp:web:80", "a:b:c:d"] {
            assert_eq!(Named::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_are_split_at_the_right_place() {
        let path = "/api/v1/namespaces/proxy/pods/proxy/proxy/a/proxy/b";
        let root = "/api/v1/namespaces/proxy/pods/proxy/proxy";
        assert_eq!(split(path, 6), Some((root, "/a/proxy/b")));
        assert_eq!(split("//api/v1/nodes/n/proxy//x", 4), Some(("//api/v1/nodes/n/proxy", "//x")));
        assert_eq!(split("/api/v1/nodes/n/proxy/", 4), Some(("/api/v1/nodes/n/proxy", "/")));
        assert_eq!(split("/api/v1/nodes/n/proxy", 4), None);
    }
}
