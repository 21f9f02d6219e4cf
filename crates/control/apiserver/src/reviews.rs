//! Questions that are answered and not kept: who am I, may I, may they, is this token good.

use berth_access::{Attributes, Identity, Rule, Verdict, node_of};
use berth_objects::{Object, Resource, Status};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::call::Call;
use crate::{Body, input};

pub(crate) async fn answer(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let resource: &Resource = call.resource();
    let kind = (resource.group, resource.version, resource.kind);
    let mut review = input::other(request, kind).await?;
    review.set(&["apiVersion"], resource.api_version());
    review.set(&["kind"], resource.kind);
    let status = match resource.kind {
        "SelfSubjectReview" => json!({"userInfo": call.identity.to_value()}),
        "SelfSubjectRulesReview" => rules(call, &review)?,
        "TokenReview" => token(call, &review).await,
        "SelfSubjectAccessReview" => {
            let identity = call.identity.clone();
            judge(call, &review, &identity).await?
        }
        _ => {
            let identity = subject(call, &review)?;
            judge(call, &review, &identity).await?
        }
    };
    review.set(&["status"], status);
    review.set_default(&["metadata"], json!({}));
    if resource.kind == "TokenReview" {
        // The token was the question; it need not travel back.
        review.unset(&["spec", "token"]);
    }
    Ok(crate::service::json(201, &review))
}

fn invalid(message: &str) -> Status {
    Status::new(422, "Invalid", message)
}

/// Whom a question about somebody else is about.
fn subject(call: &Call, review: &Value) -> Result<Identity, Status> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let identity = Identity {
        user: spec.text(&["user"]).to_owned(),
        uid: spec.text(&["uid"]).to_owned(),
        groups: spec.get("groups").map(texts).unwrap_or_default(),
        extra: spec
            .map(&["extra"])
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), texts(value)))
            .collect(),
    };
    if identity.user.is_empty() && identity.groups.is_empty() {
        return Err(invalid(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    if call.resource().kind == "LocalSubjectAccessReview"
        && review.text(&["spec", "resourceAttributes", "namespace"]) != call.namespace
    {
        return Err(invalid(
            "spec.resourceAttributes.namespace: Invalid value: must match metadata.namespace",
        ));
    }
    Ok(identity)
}

async fn judge(call: &Call, review: &Value, identity: &Identity) -> Result<Value, Status> {
    let (resource, path) = (
        review.at(&["spec", "resourceAttributes"]).filter(|it| !it.is_null()),
        review.at(&["spec", "nonResourceAttributes"]).filter(|it| !it.is_null()),
    );
    let wanted = match (resource, path) {
        (Some(it), None) => Attributes {
            verb: it.text(&["verb"]),
            group: it.text(&["group"]),
            resource: it.text(&["resource"]),
            subresource: it.text(&["subresource"]),
            namespace: it.text(&["namespace"]),
            name: it.text(&["name"]),
            path: "",
        },
        (None, Some(it)) => Attributes {
            verb: it.text(&["verb"]),
            path: it.text(&["path"]),
            ..Attributes::default()
        },
        _ => {
            return Err(invalid(
                "spec: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    let verdict = call.shared.access.judge(&*call.shared.store, identity, &wanted).await;
    let mut status = json!({"allowed": verdict.is_allowed()});
    if !verdict.reason().is_empty() {
        status["reason"] = verdict.reason().into();
    }
    Ok(status)
}

fn rules(call: &Call, review: &Value) -> Result<Value, Status> {
    let namespace = review.text(&["spec", "namespace"]);
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = call.shared.access.policy().rules(&call.identity, namespace);
    let (paths, resources): (Vec<&Rule>, Vec<&Rule>) =
        rules.iter().partition(|rule| !rule.urls.is_empty());
    let values = |rules: Vec<&Rule>| -> Vec<Value> {
        let mut values: Vec<Value> = Vec::new();
        for rule in rules {
            let value = rule.to_value();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    };
    let mut status = json!({
        "resourceRules": values(resources),
        "nonResourceRules": values(paths),
        "incomplete": node_of(&call.identity).is_some(),
    });
    if node_of(&call.identity).is_some() {
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(status)
}

async fn token(call: &Call, review: &Value) -> Value {
    let audiences: Vec<String> = review
        .list(&["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let token = review.text(&["spec", "token"]);
    match crate::authenticate::token(&call.shared, token, &audiences).await {
        Ok((identity, audiences)) => json!({
            "authenticated": true,
            "user": identity.to_value(),
            "audiences": audiences,
        }),
        // Why is nothing for strangers; the server's own log has it.
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a reviewed token is not good"
            );
            json!({"authenticated": false, "error": "invalid bearer token"})
        }
    }
}

/// The answer to `Verdict`, for the door.
pub(crate) fn refused(identity: &Identity, wanted: &Attributes<'_>, verdict: &Verdict) -> Status {
    let subject = berth_objects::Subject::new(wanted.group, wanted.resource, wanted.name);
    Status::forbidden(subject, &wanted.refusal(identity, verdict.reason()))
}
