//! The priority of new pods, from the class they name or the default class.

use berth_objects::{Object, Status};
use serde_json::Value;

use crate::call::Call;

/// Fills in priority and preemption policy. What the client says must be what the class says.
pub(crate) async fn resolve(call: &Call, pod: &mut Value) -> Result<(), Status> {
    let resource = berth_rules::find("scheduling.k8s.io", "v1", "priorityclasses")
        .ok_or_else(|| Status::internal("priority classes are not served"))?;
    let name = pod.text(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        // Where several claim to be the default, the lowest is.
        let classes = call.shared.list(resource, "").await?;
        classes
            .into_iter()
            .filter(|class| class.flag(&["globalDefault"]))
            .min_by_key(|class| class.integer(&["value"]))
    } else {
        let found = call.shared.fetch(resource, "", &name).await?;
        let Some((class, _)) = found else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(Status::forbidden(call.subject(), &why));
        };
        Some(class)
    };
    let value = class.as_ref().and_then(|class| class.integer(&["value"])).unwrap_or(0);
    let policy = class.as_ref().map_or("", |class| class.text(&["preemptionPolicy"]));
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    if pod.integer(&["spec", "priority"]).is_some_and(|given| given != value) {
        let given = pod.integer(&["spec", "priority"]).unwrap_or(0);
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority \
             admission controller computed {value} from the given PriorityClass name"
        );
        return Err(Status::forbidden(call.subject(), &why));
    }
    let given = pod.text(&["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(Status::forbidden(call.subject(), &why));
    }
    if let Some(class) = class.as_ref().filter(|_| name.is_empty()) {
        pod.set(&["spec", "priorityClassName"], class.name());
    }
    pod.set(&["spec", "priority"], value);
    pod.set(&["spec", "preemptionPolicy"], policy);
    Ok(())
}

/// A pod that is replaced by its manifest keeps what was filled in.
pub(crate) fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy", "priorityClassName"] {
        if let Some(value) = old.at(&["spec", field]).cloned()
            && pod.get("spec").is_some_and(Value::is_object)
        {
            pod.set_default(&["spec", field], value);
        }
    }
}
