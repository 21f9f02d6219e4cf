//! Eviction: a deletion that a disruption budget may refuse.
//!
//! The budget's own controller counts how many pods may go; here one of them is taken, with the same optimistic write as any
//! change, so that two evictions at once cannot both have the last one.

use std::borrow::Cow;

use berth_objects::{Cause, LabelSelector, Object, Resource, Status, Subresource, time};
use berth_store::Range;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::admission::Asked;
use crate::call::Call;
use crate::delete::{self, Options};
use crate::pods::{condition, success};
use crate::registry::Change;
use crate::{Body, input, registry, status};

/// More pods than this are not noted as going at once.
const MOST_NOTED: usize = 2000;

pub(crate) async fn evict(
    call: &mut Call,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let eviction = input::other(request, ("policy", "v1", "Eviction")).await?;
    let name = eviction.name();
    if !name.is_empty() && name != call.name {
        let message = format!(
            "name in URL does not match name in Eviction object: \"{}\" != \"{name}\"",
            call.name
        );
        return Err(Status::bad_request(message));
    }
    let options = eviction.get("deleteOptions").unwrap_or(&Value::Null);
    let options = Options::from_body(call, options)?;
    Asked::create(call, Cow::Borrowed(&eviction)).judge().await?;
    let pod = call.read().await?;
    if !goes_anyway(&pod)
        && let Some(budget) = budget(call, &pod).await?
    {
        take(call, &pod, &budget).await?;
        note(call).await?;
    }
    delete::delete_object(call, &options).await?;
    Ok(success(201))
}

/// A pod that does not run, or is on its way out, disturbs nobody.
fn goes_anyway(pod: &Value) -> bool {
    pod.deleting() || matches!(pod.text(&["status", "phase"]), "Pending" | "Succeeded" | "Failed")
}

fn budgets() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(|| Status::internal("disruption budgets are not served"))
}

/// The budget the pod belongs to. Two are one too many: nobody could say which of them counts.
async fn budget(call: &Call, pod: &Value) -> Result<Option<Value>, Status> {
    let resource = budgets()?;
    let prefix = registry::prefix(resource, &call.namespace).into();
    let page = call.shared.store.range(Range { prefix, ..Range::default() });
    let mut found = None;
    for record in &page.await.map_err(status::store)?.records {
        let budget = registry::decode(resource, record)?;
        let selector = LabelSelector::from_object(budget.at(&["spec", "selector"]));
        if !selector.ok().flatten().is_some_and(|selector| selector.matches(pod.labels())) {
            continue;
        }
        if found.replace(budget).is_some() {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction \
                           subresource does not support.";
            return Err(Status::internal(message));
        }
    }
    Ok(found)
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod.list(&["status", "conditions"]).iter();
    conditions.any(|c| c.text(&["type"]) == "Ready" && c.text(&["status"]) == "True")
}

/// Whether a pod that is not ready may go although it counts for nothing.
fn spares(budget: &Value, pod: &Value) -> bool {
    let number = |name: &str| budget.integer(&["status", name]).unwrap_or(0);
    let (healthy, needed) = (number("currentHealthy"), number("desiredHealthy"));
    let always = budget.text(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    !is_ready(pod) && (always || (needed > 0 && healthy >= needed))
}

/// Takes one disruption from the budget.
async fn take(call: &Call, pod: &Value, budget: &Value) -> Result<(), Status> {
    if spares(budget, pod) {
        return Ok(());
    }
    let own = Call {
        handle: budgets()?.into(),
        name: budget.name().to_owned(),
        subresource: Some(Subresource::Status),
        ..call.beside()
    };
    let now = time::seconds(call.shared.now());
    own.modify(|mut budget| {
        let number = |path: &[&str]| budget.integer(path).unwrap_or(0);
        if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
            let why = format!(
                "The disruption budget {} is still being processed by the server.",
                budget.name()
            );
            // The client's library waits and asks again by itself, which is right here and wrong below.
            return Err(Status { retry_after: Some(10), ..refused(why) });
        }
        let allowed = number(&["status", "disruptionsAllowed"]);
        let noted = budget.map(&["status", "disruptedPods"]).map_or(0, serde_json::Map::len);
        if noted > MOST_NOTED {
            let why =
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
            return Err(Status::forbidden(own.subject(), why));
        }
        if allowed <= 0 {
            let why = format!(
                "The disruption budget {} needs {} healthy pods and has {} currently",
                budget.name(),
                number(&["status", "desiredHealthy"]),
                number(&["status", "currentHealthy"])
            );
            return Err(refused(why));
        }
        budget.set(&["status", "disruptionsAllowed"], allowed - 1);
        budget.set(&["status", "disruptedPods", pod.name()], now.as_str());
        Ok(Change::Put(budget))
    })
    .await?;
    Ok(())
}

fn refused(why: String) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, "TooManyRequests", message);
    status.causes.push(Cause {
        reason: "DisruptionBudget".into(),
        message: why,
        field: String::new(),
    });
    status
}

/// Says on the pod why it goes.
async fn note(call: &Call) -> Result<(), Status> {
    let now = time::seconds(call.shared.now());
    call.modify(|mut pod| {
        condition(
            &mut pod,
            json!({"type": "DisruptionTarget", "status": "True",
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
                "lastTransitionTime": now, "lastProbeTime": null}),
        );
        Ok(Change::Put(pod))
    })
    .await?;
    Ok(())
}
