//! Whether another server can be asked, and what it serves.

use std::time::Duration;

use berth_objects::Object;
use http::header::ACCEPT;
use http::{Request, Response};
use serde_json::{Value, json};

use super::{Described, Remote, identity};
use crate::callout::{Service, ready};
use crate::forward::forward;
use crate::server::Shared;
use crate::{Body, BoxError, Identity, body};

/// The longest one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Larger descriptions are not read.
const LARGEST: usize = 8 << 20;
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
     application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// What was found out.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub available: bool,
    /// One word for programs.
    pub reason: &'static str,
    pub message: String,
    pub described: Option<Described>,
}

impl Found {
    fn not(reason: &'static str, message: impl Into<String>) -> Self {
        Self { available: false, reason, message: message.into(), described: None }
    }
}

/// Asks a server what it serves.
pub(super) async fn check(shared: &Shared, remote: &Remote) -> Found {
    let service = &remote.spec["service"];
    let (namespace, name) = (service.text(&["namespace"]), service.text(&["name"]));
    let Some(resource) = berth_rules::find("", "v1", "services") else {
        return Found::not("ServiceNotFound", "Services are not served");
    };
    let object = match shared.fetch(resource, namespace, name).await {
        Ok(Some((object, _))) => object,
        Ok(None) => {
            let why = format!("service/{name} in \"{namespace}\" is not present");
            return Found::not("ServiceNotFound", why);
        }
        Err(error) => return Found::not("ServiceAccessError", error.to_string()),
    };
    let port = service.integer(&["port"]).unwrap_or(443);
    if object.list(&["spec", "ports"]).iter().all(|it| it.integer(&["port"]) != Some(port)) {
        let why = format!("service/{name} in \"{namespace}\" is not listening on port {port}");
        return Found::not("ServicePortError", why);
    }
    let place = Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port: u16::try_from(port).unwrap_or(443),
    };
    if let Err(error) = ready(&*shared.store, &place).await {
        let why = format!(
            "endpoints for service/{name} in \"{namespace}\" have no ready addresses: {error}"
        );
        return Found::not("MissingEndpoints", why);
    }
    if remote.client.is_none() {
        let why = "the server cannot be asked: its caBundle holds no certificate that can be used";
        return Found::not("FailedDiscoveryCheck", why);
    }
    match describe(shared, remote).await {
        Ok(described) => Found {
            available: true,
            reason: "Passed",
            message: "all checks passed".to_owned(),
            described: Some(described),
        },
        Err(error) => {
            let (group, version) = (&remote.group, &remote.version);
            let why = format!(
                "failing or missing response from https://{}/apis/{group}/{version}: {error}",
                remote.host
            );
            Found::not("FailedDiscoveryCheck", why)
        }
    }
}

/// What it serves: told at once by newer servers, version by version by others.
async fn describe(shared: &Shared, remote: &Remote) -> Result<Described, BoxError> {
    let (group, version) = (&remote.group, &remote.version);
    let own = format!("/apis/{group}/{version}");
    // This one is asked in any case: it says whether the version is served at all.
    let list = json(ask(shared, remote, &own, "application/json").await?).await?;
    let all = match ask(shared, remote, "/apis", AGGREGATED).await {
        Ok(answer) => json(answer).await.ok(),
        Err(_) => None,
    };
    let resources = all
        .and_then(|all| aggregated(&all, group, version))
        .unwrap_or_else(|| plain(&list, group, version));
    let index = match ask(shared, remote, "/openapi/v3", "application/json").await {
        Ok(answer) => json(answer).await.unwrap_or_default(),
        // Older servers have none; then clients do without.
        Err(_) => Value::Null,
    };
    let path = format!("apis/{group}/{version}");
    let url = index.text(&["paths", &path, "serverRelativeURL"]);
    let edition = url.split_once("hash=").map(|(_, hash)| hash.to_owned());
    let edition =
        edition.or_else(|| (!url.is_empty()).then(|| crate::discovery::tag(url.as_bytes())));
    Ok(Described { resources, edition })
}

async fn ask(
    shared: &Shared,
    remote: &Remote,
    path: &str,
    accept: &str,
) -> Result<Response<Body>, BoxError> {
    let client = remote.client.as_ref().ok_or("it cannot be asked")?;
    let mut request = Request::get(format!("https://{}{path}", remote.host))
        .header(ACCEPT, accept)
        .body(body::full(""))?;
    let own = Identity::new("system:kube-aggregator", &[berth_access::MASTERS]);
    identity::introduce(&own, request.headers_mut());
    let answer = forward(client, request, Some(PATIENCE), shared.closing.clone()).await?;
    if !answer.status().is_success() {
        return Err(format!("bad status from {path}: {}", answer.status().as_u16()).into());
    }
    Ok(answer)
}

async fn json(answer: Response<Body>) -> Result<Value, BoxError> {
    let bytes = tokio::time::timeout(PATIENCE, body::up_to(answer.into_body(), LARGEST)).await??;
    Ok(serde_json::from_slice(&bytes)?)
}

/// The resources of a version in the aggregated form.
fn aggregated(all: &Value, group: &str, version: &str) -> Option<Value> {
    let group = all.list(&["items"]).iter().find(|it| it.name() == group)?;
    let version = group.list(&["versions"]).iter().find(|it| it.text(&["version"]) == version)?;
    Some(version["resources"].clone()).filter(Value::is_array)
}

/// The same from the older form.
fn plain(list: &Value, group: &str, version: &str) -> Value {
    let kind = |it: &Value| {
        let or = |field: &str, other: &str| match it.text(&[field]) {
            "" => other.to_owned(),
            text => text.to_owned(),
        };
        json!({"group": or("group", group), "version": or("version", version), "kind": it.text(&["kind"])})
    };
    let mut resources: Vec<Value> = Vec::new();
    for it in list.list(&["resources"]) {
        if let Some((name, part)) = it.text(&["name"]).split_once('/') {
            let part = json!({"subresource": part, "responseKind": kind(it), "verbs": it["verbs"]});
            if let Some(whole) = resources.iter_mut().find(|whole| whole["resource"] == name) {
                if let Some(parts) = whole["subresources"].as_array_mut() {
                    parts.push(part);
                } else {
                    whole["subresources"] = json!([part]);
                }
            }
            continue;
        }
        let scope = if it["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut whole = json!({"resource": it["name"], "responseKind": kind(it), "scope": scope,
            "singularResource": it.text(&["singularName"]), "verbs": it["verbs"]});
        for field in ["shortNames", "categories"] {
            if it.get(field).is_some() {
                whole[field] = it[field].clone();
            }
        }
        resources.push(whole);
    }
    resources.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_says_the_same() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
             "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        let kind = json!({"group": "g", "version": "v1", "kind": "Flunder"});
        assert_eq!(
            plain(&list, "g", "v1"),
            json!([
                {"resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder",
                 "verbs": ["get"], "shortNames": ["fl"],
                 "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}]},
            ])
        );
    }
}
