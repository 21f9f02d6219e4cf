//! Whether another server can be asked, and what it serves.

use std::time::Duration;

use berth_objects::Object;
use http::header::ACCEPT;
use http::{Request, Response};
use serde_json::{Value, json};

use super::{Described, Remote, identity};
use crate::callout::{Service, ready};
use crate::forward::{Handing, forward};
use crate::server::Shared;
use crate::{Body, BoxError, Identity, body};

/// The longest one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Larger descriptions are not read.
const LARGEST: usize = 2 << 20;
/// More resources than this are not told.
const MOST: usize = 2000;
/// The reason of what may pass.
pub(super) const FAILED: &str = "FailedDiscoveryCheck";
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
    if ready(&*shared.store, &place).await.is_err() {
        let why =
            format!("endpoints for service/{name} in \"{namespace}\" have no ready addresses");
        return Found::not("MissingEndpoints", why);
    }
    if remote.client.is_none() {
        let why = "the server cannot be asked: its caBundle holds no certificate that can be used";
        return Found::not(FAILED, why);
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
            Found::not(FAILED, why)
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
    let request = Request::get(format!("https://{}{path}", remote.host))
        .header(ACCEPT, accept)
        .body(body::full(""))?;
    let own = Identity::new("system:kube-aggregator", &[berth_access::MASTERS]);
    let handing = Handing {
        client,
        ours: identity::introduction(&own)?,
        upgrades: Some(&[]),
        patience: Some(PATIENCE),
        closing: shared.closing.clone(),
    };
    let answer = forward(handing, request).await?;
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
    let group_told = all.list(&["items"]).iter().find(|it| it.name() == group)?;
    let versions = group_told.list(&["versions"]).iter();
    let told = versions.clone().find(|it| it.text(&["version"]) == version)?;
    let resources = told["resources"].as_array()?.iter().take(MOST);
    let sound = resources.filter_map(|it| {
        let name = it.text(&["resource"]);
        if name.is_empty() {
            return None;
        }
        let parts = it.list(&["subresources"]).iter().filter_map(|part| {
            let name = part.text(&["subresource"]);
            let kind = kind(&part["responseKind"], group, version);
            (!name.is_empty())
                .then(|| json!({"subresource": name, "responseKind": kind, "verbs": words(&part["verbs"])}))
        });
        let parts: Vec<Value> = parts.collect();
        Some(whole(name, it, kind(&it["responseKind"], group, version), it.text(&["scope"]) == "Namespaced",
            it.text(&["singularResource"]), parts))
    });
    Some(sound.collect())
}

/// The same from the older form.
fn plain(list: &Value, group: &str, version: &str) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    let place =
        |resources: &[Value], name: &str| resources.iter().position(|it| it["resource"] == name);
    for it in list.list(&["resources"]).iter().take(MOST) {
        let (name, namespaced) = (it.text(&["name"]), it["namespaced"] == true);
        let (name, part) = name.split_once('/').unwrap_or((name, ""));
        if name.is_empty() {
            continue;
        }
        let kind = kind(it, group, version);
        if part.is_empty() {
            let mut whole =
                whole(name, it, kind, namespaced, it.text(&["singularName"]), Vec::new());
            match place(&resources, name) {
                // Its parts were listed first.
                Some(at) => {
                    whole["subresources"] = resources[at]["subresources"].take();
                    resources[at] = whole;
                }
                None => resources.push(whole),
            }
            continue;
        }
        let at = place(&resources, name).unwrap_or_else(|| {
            // Parts of something that cannot be had as a whole.
            let nothing = json!({"group": group, "version": version, "kind": ""});
            resources.push(whole(name, &Value::Null, nothing, namespaced, "", Vec::new()));
            resources.len() - 1
        });
        let part = json!({"subresource": part, "responseKind": kind, "verbs": words(&it["verbs"])});
        match resources[at]["subresources"].as_array_mut() {
            Some(parts) => parts.push(part),
            None => resources[at]["subresources"] = json!([part]),
        }
    }
    resources.into()
}

/// A resource made of what is sound of another server's words: one that says something else must not break the whole answer
/// for clients that expect texts.
fn whole(
    name: &str,
    it: &Value,
    kind: Value,
    namespaced: bool,
    singular: &str,
    parts: Vec<Value>,
) -> Value {
    let scope = if namespaced { "Namespaced" } else { "Cluster" };
    let mut whole = json!({"resource": name, "responseKind": kind, "scope": scope,
        "singularResource": singular, "verbs": words(&it["verbs"])});
    for field in ["shortNames", "categories"] {
        let words = words(&it[field]);
        if !words.is_empty() {
            whole[field] = json!(words);
        }
    }
    if !parts.is_empty() {
        whole["subresources"] = parts.into();
    }
    whole
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn kind(it: &Value, group: &str, version: &str) -> Value {
    let or = |field: &str, other: &str| match it.text(&[field]) {
        "" => other.to_owned(),
        text => text.to_owned(),
    };
    json!({"group": or("group", group), "version": or("version", version), "kind": it.text(&["kind"])})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flunder() -> Value {
        json!({"group": "g", "version": "v1", "kind": "Flunder"})
    }

    #[test]
    fn the_older_form_says_the_same() {
        let list = json!({"resources": [
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
             "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "expand", "namespaced": true, "verbs": null},
            {"name": "pods/requests", "namespaced": true, "kind": "Value", "verbs": ["get"]},
        ]});
        let value = json!({"group": "g", "version": "v1", "kind": "Value"});
        let empty = json!({"group": "g", "version": "v1", "kind": ""});
        let expected = json!([
            {"resource": "flunders", "responseKind": flunder(), "scope": "Namespaced", "singularResource": "flunder",
             "verbs": ["get"], "shortNames": ["fl"],
             "subresources": [{"subresource": "status", "responseKind": flunder(), "verbs": ["update"]}]},
            {"resource": "expand", "responseKind": empty, "scope": "Namespaced", "singularResource": "", "verbs": []},
            {"resource": "pods", "responseKind": empty, "scope": "Namespaced", "singularResource": "", "verbs": [],
             "subresources": [{"subresource": "requests", "responseKind": value, "verbs": ["get"]}]},
        ]);
        assert_eq!(plain(&list, "g", "v1"), expected);
    }

    #[test]
    fn what_is_no_text_breaks_nothing() {
        let told = |resources: Value| {
            let all = json!({"items": [{"metadata": {"name": "g"}, "versions": [{"version": "v1", "resources": resources}]}]});
            aggregated(&all, "g", "v1")
        };
        let strange = json!([1, null, {"resource": 5}, {"resource": "flunders", "verbs": "get", "shortNames": "x",
            "scope": 5, "responseKind": [], "singularResource": {}, "subresources": [null, {"subresource": "s", "verbs": null}]}]);
        let empty = json!({"group": "g", "version": "v1", "kind": ""});
        let expected = json!([{"resource": "flunders", "responseKind": empty, "scope": "Cluster", "singularResource": "",
            "verbs": [], "subresources": [{"subresource": "s", "responseKind": empty, "verbs": []}]}]);
        assert_eq!(told(strange).unwrap(), expected);
        assert_eq!(told(json!("none")), None);
        assert_eq!(plain(&json!({"resources": [7, {"name": null}]}), "g", "v1"), json!([]));
    }
}
