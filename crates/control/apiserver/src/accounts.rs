//! Service accounts: tokens on request, and what a pod gets from its account.

use std::borrow::Cow;

use berth_access::{Attributes, node_of};
use berth_authority::LONGEST_TOKEN;
use berth_objects::{Object, Status, Subject, time};
use http::{Request, Response};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::admission::Asked;
use crate::authenticate::ISSUER;
use crate::call::Call;
use crate::{Body, input};

/// Where a pod finds the token, the certificate and its namespace.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A little more than an hour, so that a client that thinks in hours always has a good one.
const POD_TOKEN_SECONDS: i64 = 3607;
const SHORTEST: i64 = 600;
const USUAL: i64 = 3600;

/// A token for the account of a call.
pub(crate) async fn token(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let mut wanted = input::other(request, ("authentication.k8s.io", "v1", "TokenRequest")).await?;
    let account = call.read().await?;
    if wanted.list(&["spec", "audiences"]).is_empty() {
        wanted.set(&["spec", "audiences"], json!([ISSUER]));
    }
    wanted = Asked::create(call, Cow::Owned(wanted)).settle().await?;
    let longest = i64::try_from(LONGEST_TOKEN.as_secs()).unwrap_or(i64::MAX);
    let seconds = wanted.integer(&["spec", "expirationSeconds"]).unwrap_or(USUAL);
    if seconds < SHORTEST {
        let why = "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes";
        return Err(Status::new(422, "Invalid", why));
    }
    let seconds = seconds.min(longest);
    let bound = bound_to(call, &wanted).await?;
    if let Some(node) = node_of(&call.identity) {
        node_asks(call, node, &wanted, &bound).await?;
    }
    let now = call.shared.now();
    let end = now.checked_add(SignedDuration::from_secs(seconds)).map_err(Status::internal)?;
    let mut about = json!({
        "namespace": call.namespace,
        "serviceaccount": {"name": account.name(), "uid": account.uid()},
    });
    for (kind, object) in &bound {
        about[kind] = json!({"name": object.name(), "uid": object.uid()});
    }
    let claims = json!({
        "aud": wanted["spec"]["audiences"],
        "exp": end.as_second(),
        "iat": now.as_second(),
        "nbf": now.as_second(),
        "iss": ISSUER,
        "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": about,
        "sub": berth_access::service_account(&call.namespace, account.name()),
    });
    let token = call.shared.options.tokens.sign(&claims).map_err(Status::internal)?;
    wanted.set(&["apiVersion"], "authentication.k8s.io/v1");
    wanted.set(&["kind"], "TokenRequest");
    wanted.set(&["metadata", "name"], account.name());
    wanted.set(&["metadata", "namespace"], call.namespace.as_str());
    wanted.set(&["metadata", "creationTimestamp"], time::seconds(now));
    wanted.set(&["spec", "expirationSeconds"], seconds);
    wanted.set(&["status"], json!({"token": token, "expirationTimestamp": time::seconds(end)}));
    Ok(crate::service::json(201, &wanted))
}

/// What the token ends with: a pod with its node, a Secret, a node.
async fn bound_to(call: &Call, wanted: &Value) -> Result<Vec<(&'static str, Value)>, Status> {
    let Some(reference) = wanted.at(&["spec", "boundObjectRef"]).filter(|it| !it.is_null()) else {
        return Ok(Vec::new());
    };
    let (kind, plural, key) = match reference.text(&["kind"]) {
        "Pod" => ("Pod", "pods", "pod"),
        "Secret" => ("Secret", "secrets", "secret"),
        "Node" => ("Node", "nodes", "node"),
        other => {
            let why = format!("cannot bind token for serviceaccount to object type {other}");
            return Err(Status::bad_request(why));
        }
    };
    let name = reference.text(&["name"]);
    let find = async |plural: &str, namespace: &str, name: &str| {
        let resource = berth_rules::find("", "v1", plural)
            .ok_or_else(|| Status::internal("a kind that tokens are bound to is not served"))?;
        let found = call.shared.fetch(resource, namespace, name).await?;
        Ok::<_, Status>(found.map(|(object, _)| object))
    };
    let space = if kind == "Node" { "" } else { call.namespace.as_str() };
    let object = find(plural, space, name)
        .await?
        .ok_or_else(|| Status::not_found(Subject::new("", plural, name)))?;
    let uid = reference.text(&["uid"]);
    if !uid.is_empty() && uid != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(Subject::new("", plural, name), &why));
    }
    let mut bound = Vec::new();
    if kind == "Pod" {
        if object.text(&["spec", "serviceAccountName"]) != call.name {
            let why = format!(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                call.name
            );
            return Err(Status::bad_request(why));
        }
        if let Some(node) = find("nodes", "", object.text(&["spec", "nodeName"])).await? {
            bound.push(("node", node));
        }
    }
    bound.insert(0, (key, object));
    Ok(bound)
}

/// A node asks for its pods alone, and only for what they mount.
async fn node_asks(
    call: &Call,
    node: &str,
    wanted: &Value,
    bound: &[(&'static str, Value)],
) -> Result<(), Status> {
    let refuse = |why: &str| Err(Status::forbidden(call.subject(), why));
    let Some((_, pod)) = bound.iter().find(|(kind, _)| *kind == "pod") else {
        return refuse("node requested token not bound to a pod");
    };
    if wanted.text(&["spec", "boundObjectRef", "uid"]).is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    if pod.text(&["spec", "nodeName"]) != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    let mut mounted = vec![ISSUER];
    for volume in pod.list(&["spec", "volumes"]) {
        for source in volume.list(&["projected", "sources"]) {
            mounted.push(source.text(&["serviceAccountToken", "audience"]));
        }
    }
    for audience in wanted.list(&["spec", "audiences"]).iter().filter_map(Value::as_str) {
        if mounted.contains(&audience) {
            continue;
        }
        let attributes = Attributes {
            verb: "request-serviceaccounts-token-audience",
            resource: audience,
            namespace: &call.namespace,
            name: &call.name,
            ..Attributes::default()
        };
        let shared = &call.shared;
        let verdict = shared.access.judge(&*shared.store, &call.identity, &attributes).await;
        if !verdict.is_allowed() {
            let why = format!("audience \"{audience}\" not found in pod spec volume");
            return refuse(&why);
        }
    }
    Ok(())
}

/// Gives a new pod its account, and the account's token as a volume, unless somebody does not want that.
pub(crate) async fn admit(call: &Call, pod: &mut Value) -> Result<(), Status> {
    // It runs already, without an account. Whoever else says so of a pod is refused.
    if berth_rules::is_mirror(pod) {
        return Ok(());
    }
    if pod.text(&["spec", "serviceAccountName"]).is_empty() {
        let older = pod.text(&["spec", "serviceAccount"]).to_owned();
        let name = if older.is_empty() { "default".to_owned() } else { older };
        pod.set(&["spec", "serviceAccountName"], name);
    }
    let name = pod.text(&["spec", "serviceAccountName"]).to_owned();
    pod.set(&["spec", "serviceAccount"], name.as_str());
    let resource = berth_rules::find("", "v1", "serviceaccounts")
        .ok_or_else(|| Status::internal("service accounts are not served"))?;
    let found = call.shared.fetch(resource, &call.namespace, &name).await?;
    let account = match found {
        Some((account, _)) => account,
        // The default account is made with its namespace by a controller, which may need a moment more. Its pods need no
        // more than its name, so nobody has to try again.
        None if name == "default" => json!({}),
        None => {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                call.namespace
            );
            let mut subject = call.subject();
            pod.name().clone_into(&mut subject.name);
            return Err(Status::forbidden(subject, &why));
        }
    };
    if pod.list(&["spec", "imagePullSecrets"]).is_empty()
        && !account.list(&["imagePullSecrets"]).is_empty()
    {
        pod.set(&["spec", "imagePullSecrets"], account["imagePullSecrets"].clone());
    }
    let choice = |object: &Value, path: &[&str]| object.at(path).and_then(Value::as_bool);
    let wanted = choice(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| choice(&account, &["automountServiceAccountToken"]))
        .unwrap_or(true);
    if wanted {
        mount(pod);
    }
    Ok(())
}

fn mount(pod: &mut Value) {
    let name = format!("kube-api-access-{}", crate::write::suffix());
    let mut used = false;
    for field in ["containers", "initContainers"] {
        let containers = pod.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let there =
                container.list(&["volumeMounts"]).iter().any(|it| it.text(&["mountPath"]) == MOUNT);
            if there {
                continue;
            }
            used = true;
            let place = container.place(&["volumeMounts"]);
            if !place.is_array() {
                *place = json!([]);
            }
            if let Some(mounts) = place.as_array_mut() {
                mounts.push(json!({"name": name, "mountPath": MOUNT, "readOnly": true}));
            }
        }
    }
    if !used {
        return;
    }
    let place = pod.place(&["spec", "volumes"]);
    if !place.is_array() {
        *place = json!([]);
    }
    if let Some(volumes) = place.as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": POD_TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

/// The discovery document of the issuer (OpenID Connect Discovery 1.0), and the keys.
pub(crate) fn discovery() -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
