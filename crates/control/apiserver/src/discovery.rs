//! What the server has: versions, groups, resources, health. The documents change when definitions of kinds do.

use std::collections::BTreeMap;

use berth_objects::{Resource, Scope, Status, Subresource};
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Request, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::Served;
use crate::service::{header, json as respond, raw};
use crate::{Body, VERSION, body, openapi, swagger};

pub(crate) fn answer(
    served: &Served,
    parts: &[String],
    request: &Request<Body>,
) -> Result<Response<Body>, Status> {
    let not_found =
        || Status::new(404, "NotFound", "the server could not find the requested resource");
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(not_found());
    }
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(raw(200, "text/plain", "ok")),
        ["version"] => Ok(respond(200, &version())),
        ["api"] => Ok(aggregated(request, &served.documents().core).unwrap_or_else(|| {
            respond(
                200,
                &json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": []}),
            )
        })),
        ["apis"] => Ok(aggregated(request, &served.documents().groups).unwrap_or_else(|| {
            let all = served.groups();
            let groups: Vec<_> = all
                .iter()
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, versions)| group(name, versions))
                .collect();
            respond(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        })),
        ["api", "v1"] => Ok(respond(200, &resource_list(served, "", "v1"))),
        ["apis", wanted] if !wanted.is_empty() => {
            let all = served.groups();
            let found = all.iter().find(|(name, _)| name == wanted).ok_or_else(not_found)?;
            let mut value = group(found.0, &found.1);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            Ok(respond(200, &value))
        }
        ["apis", name, version] if versions(served, name).contains(version) => {
            Ok(respond(200, &resource_list(served, name, version)))
        }
        [".well-known", "openid-configuration"] => Ok(respond(200, &crate::accounts::discovery())),
        ["openapi", "v2"] => Ok(swagger::answer(served, request.headers())),
        ["openapi", "v3"] => Ok(respond(200, &openapi::index(served))),
        ["openapi", "v3", "api", "v1"] => {
            openapi::answer(served, "", "v1", request).ok_or_else(not_found)
        }
        ["openapi", "v3", "apis", name, version] => {
            openapi::answer(served, name, version, request).ok_or_else(not_found)
        }
        _ => Err(not_found()),
    }
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "35",
        "emulationMajor": "1",
        "emulationMinor": "35",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "34",
        "gitVersion": format!("{VERSION}+berth"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// Resources by group.
pub(crate) fn groups(served: &Served) -> BTreeMap<&str, Vec<&Resource<'_>>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for resource in served.resources() {
        groups.entry(resource.group).or_default().push(resource);
    }
    groups
}

/// The versions of a group, the preferred one first.
pub(crate) fn versions<'a>(served: &'a Served, group: &str) -> Vec<&'a str> {
    let mut versions = Vec::new();
    for resource in served.resources().filter(|resource| resource.group == group) {
        if !versions.contains(&resource.version) {
            versions.push(resource.version);
        }
    }
    versions
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<_> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

fn kind_of<'a>(resource: &Resource<'a>, part: Subresource) -> (&'a str, &'a str, &'a str) {
    part.body().unwrap_or((resource.group, resource.version, resource.kind))
}

fn resource_list(served: &Served, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    let all = groups(served).remove(group).unwrap_or_default();
    for resource in all.into_iter().filter(|resource| resource.version == version) {
        let mut value = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced(),
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        if !resource.short.is_empty() {
            value["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            value["categories"] = json!(resource.categories);
        }
        resources.push(value);
        for part in resource.subresources {
            let (group, version, kind) = kind_of(resource, *part);
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, part.name()),
                "singularName": "",
                "namespaced": resource.namespaced(),
                "kind": kind,
                "verbs": part.verbs(),
            });
            if part.body().is_some() {
                value["group"] = group.into();
                value["version"] = version.into();
            }
            resources.push(value);
        }
    }
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": resources})
}

/// A document in the aggregated form, with its tag.
#[derive(Debug)]
struct Document {
    v2: (String, String),
    v2beta1: (String, String),
}

/// What is told about all kinds, made once for each table of kinds.
#[derive(Debug)]
pub(crate) struct Documents {
    core: Document,
    groups: Document,
    /// The editions of the descriptions of groups and versions.
    pub editions: BTreeMap<(String, String), String>,
}

impl Documents {
    pub fn new(served: &Served) -> Self {
        Self {
            core: Document::new(served, true),
            groups: Document::new(served, false),
            editions: openapi::editions(served),
        }
    }
}

impl Document {
    fn new(served: &Served, core: bool) -> Self {
        let local = groups(served);
        let items: Vec<_> = served
            .groups()
            .into_iter()
            .filter(|(group, _)| group.is_empty() == core)
            .map(|(group, versions)| {
                let own = local.get(group).map(Vec::as_slice).unwrap_or_default();
                let versions: Vec<_> =
                    versions.into_iter().map(|it| told(served, own, group, it)).collect();
                let metadata = if core { json!({}) } else { json!({"name": group}) };
                json!({"metadata": metadata, "versions": versions})
            })
            .collect();
        let render = |version: &str| {
            let text = json!({"kind": "APIGroupDiscoveryList",
                "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
                "items": items})
            .to_string();
            let tag = tag(text.as_bytes());
            (text, tag)
        };
        Self { v2: render("v2"), v2beta1: render("v2beta1") }
    }
}

/// A version of a group with its resources: our own, or what another server told of it.
fn told(served: &Served, own: &[&Resource<'_>], group: &str, version: &str) -> Value {
    if let Some(remote) = served.remote(group, version) {
        let fresh = remote.available == Some(true);
        let resources = remote.described.as_ref().map_or(json!([]), |it| it.resources.clone());
        return json!({"version": version, "resources": resources,
            "freshness": if fresh { "Current" } else { "Stale" }});
    }
    let of_version = own.iter().filter(|resource| resource.version == version);
    let resources: Vec<_> = of_version.copied().map(aggregate).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

/// A short name of some bytes.
pub(crate) fn tag(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

fn aggregate(resource: &Resource<'_>) -> Value {
    let kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let parts: Vec<_> = resource
        .subresources
        .iter()
        .map(|part| {
            json!({"subresource": part.name(), "responseKind": kind(kind_of(resource, *part)),
                "verbs": part.verbs()})
        })
        .collect();
    let scope = if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": kind((resource.group, resource.version, resource.kind)),
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short.is_empty() {
        value["shortNames"] = json!(resource.short);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !parts.is_empty() {
        value["subresources"] = json!(parts);
    }
    value
}

/// The aggregated document, if the client takes it.
fn aggregated(request: &Request<Body>, document: &Document) -> Option<Response<Body>> {
    let accept = header(request.headers(), "accept");
    let wanted = accept.split(',').find_map(|range| {
        let range = range.replace(' ', "");
        if !range.contains("g=apidiscovery.k8s.io") || !range.contains("as=APIGroupDiscoveryList") {
            return None;
        }
        match () {
            () if range.contains("v=v2beta1") => Some(("v2beta1", &document.v2beta1)),
            () if range.contains("v=v2") => Some(("v2", &document.v2)),
            () => None,
        }
    });
    let (version, (text, tag)) = wanted?;
    let quoted = format!("\"{tag}\"");
    let mut response = if header(request.headers(), IF_NONE_MATCH.as_str()) == quoted {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = raw(200, "application/json", text.clone());
        let kind =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let kind = HeaderValue::from_str(&kind).ok()?;
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    };
    response.headers_mut().insert(ETAG, HeaderValue::from_str(&quoted).ok()?);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Some(response)
}
