//! What the RuntimeClass of a new pod adds to it: what its runtime itself uses, and where it can run.

use berth_objects::{Object, Quantity, Status};
use serde_json::{Map, Value, json};

use crate::call::Call;

/// Fills in the overhead, the node selector and the tolerations of the class a pod names.
///
/// # Errors
/// When there is no such class, or the pod says something else than the class.
pub(crate) async fn resolve(call: &Call, pod: &mut Value) -> Result<(), Status> {
    let name = pod.text(&["spec", "runtimeClassName"]).to_owned();
    let given = pod.map(&["spec", "overhead"]).filter(|given| !given.is_empty()).cloned();
    let refused = |why: &str| Err(Status::forbidden(call.subject(), why));
    if name.is_empty() {
        return match given {
            Some(_) => refused(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            None => Ok(()),
        };
    }
    let resource = berth_rules::find("node.k8s.io", "v1", "runtimeclasses")
        .ok_or_else(|| Status::internal("runtime classes are not served"))?;
    let Some((class, _)) = call.shared.fetch(resource, "", &name).await? else {
        return refused(&format!("pod rejected: RuntimeClass \"{name}\" not found"));
    };
    let of_class = class.map(&["overhead", "podFixed"]).filter(|of_class| !of_class.is_empty());
    match (given, of_class) {
        (Some(given), of_class) if !of_class.is_some_and(|of_class| is_same(&given, of_class)) => {
            return refused(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            );
        }
        (None, Some(of_class)) => {
            pod.set(&["spec", "overhead"], Value::Object(of_class.clone()));
        }
        _ => {}
    }
    for (label, value) in class.map(&["scheduling", "nodeSelector"]).into_iter().flatten() {
        match pod.at(&["spec", "nodeSelector", label]) {
            Some(own) if own != value => {
                return refused(&format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{label}] and pod.spec.nodeSelector[{label}] differ"
                ));
            }
            Some(_) => {}
            None => pod.set(&["spec", "nodeSelector", label], value.clone()),
        }
    }
    let tolerated = class.at(&["scheduling", "tolerations"]).and_then(Value::as_array);
    let Some(tolerated) = tolerated.filter(|all| !all.is_empty()) else { return Ok(()) };
    let mut all = pod.at(&["spec", "tolerations"]).and_then(Value::as_array).cloned();
    let all = all.get_or_insert_default();
    for toleration in tolerated {
        if !all.contains(toleration) {
            all.push(toleration.clone());
        }
    }
    pod.set(&["spec", "tolerations"], json!(all));
    Ok(())
}

/// Whether two sets of amounts are the same, however they are written.
fn is_same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let amount = |value: &Value| value.as_str()?.parse::<Quantity>().ok();
    one.len() == other.len()
        && one.iter().all(|(name, value)| {
            let known = other.get(name);
            known == Some(value)
                || amount(value).is_some() && amount(value) == known.and_then(amount)
        })
}
