//! When containers are started again: by their own policy and rules, and for another size.

use berth_objects::FieldError;
use serde_json::json;

use super::{Errors, Place};

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
/// Most rules of a container, and most exit codes of a rule.
const RULES: usize = 20;
const CODES: usize = 255;

/// Looks at all containers of a pod.
pub(crate) fn check(spec: &Place<'_>, errors: &mut Errors) {
    let never = spec.field("restartPolicy").text() == "Never";
    for field in ["initContainers", "containers"] {
        for container in spec.field(field).items() {
            resizes(&container, never, errors);
            policy(&container, errors);
        }
    }
}

/// A container that nothing starts again is not ended to be given another size.
fn resizes(container: &Place<'_>, never: bool, errors: &mut Errors) {
    let policies = container.field("resizePolicy");
    for policy in policies.items() {
        let name = policy.field("resourceName");
        if name.required(errors) {
            name.one_of(&["cpu", "memory"], errors);
        }
        let restart = policy.field("restartPolicy");
        if restart.required(errors) {
            restart.one_of(&["NotRequired", "RestartContainer"], errors);
        }
        if never && restart.text() == "RestartContainer" {
            restart.invalid("must be 'NotRequired' when `restartPolicy` is 'Never'", errors);
        }
    }
    policies.unique("resourceName", errors);
}

fn policy(container: &Place<'_>, errors: &mut Errors) {
    let own = container.field("restartPolicy");
    own.one_of(&POLICIES, errors);
    let rules = container.field("restartPolicyRules");
    if rules.is_empty() {
        return;
    }
    if own.is_empty() {
        let why = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(&own.path, why));
    }
    let count = rules.items().count();
    if count > RULES {
        errors.push(FieldError::too_many(&rules.path, count, RULES));
    }
    for rule in rules.items() {
        let action = rule.field("action");
        if action.required(errors) {
            action.one_of(&["Restart", "RestartAllContainers"], errors);
        }
        let codes = rule.field("exitCodes");
        if codes.value.is_null() {
            errors.push(FieldError::required(&codes.path, "must be specified"));
            continue;
        }
        let operator = codes.field("operator");
        if operator.required(errors) {
            operator.one_of(&["In", "NotIn"], errors);
        }
        let values = codes.field("values");
        match values.items().count() {
            0 => {
                let why = "must specify at least one value";
                errors.push(FieldError::invalid(&values.path, &json!([]), why));
            }
            count if count > CODES => {
                errors.push(FieldError::too_many(&values.path, count, CODES));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn found(of_pod: &str, main: Value) -> String {
        let mut container = json!({"name": "a", "image": "x"});
        container.as_object_mut().unwrap().extend(main.as_object().unwrap().clone());
        let spec = json!({"restartPolicy": of_pod, "containers": [container]});
        let mut errors = Errors::new();
        check(&Place::root(&spec), &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nobody_asks_for_what_cannot_be() {
        let resize = |resource: &str, restart: &str| json!({"resizePolicy": [{"resourceName": resource, "restartPolicy": restart}]});
        let rules = |rules: Value| json!({"restartPolicy": "Never", "restartPolicyRules": rules});
        let codes = |operator: &str, values: Value| json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": values}}]);
        let many: Vec<i32> = (0..256).collect();
        for (policy, main) in [
            ("Always", resize("memory", "RestartContainer")),
            ("OnFailure", resize("cpu", "RestartContainer")),
            ("Never", resize("cpu", "NotRequired")),
            ("Always", json!({"restartPolicy": "Never"})),
            ("Never", rules(codes("NotIn", json!([1])))),
        ] {
            assert_eq!(found(policy, main.clone()), "", "{policy} {main}");
        }
        for (policy, main, wanted) in [
            (
                "Never",
                resize("cpu", "RestartContainer"),
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            ),
            ("Always", resize("disk", "NotRequired"), "resourceName: Unsupported value: \"disk\""),
            ("Always", resize("cpu", "Maybe"), "restartPolicy: Unsupported value: \"Maybe\""),
            (
                "Always",
                json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}),
                "resizePolicy[1]",
            ),
            (
                "Always",
                json!({"restartPolicy": "Sometimes"}),
                "containers[0].restartPolicy: Unsupported",
            ),
            (
                "Always",
                json!({"restartPolicyRules": codes("In", json!([1]))}),
                "must specify restartPolicy when restart rules are used",
            ),
            (
                "Always",
                rules(json!([{"action": "Dance", "exitCodes": {"operator": "In", "values": [1]}}])),
                "action: Unsupported",
            ),
            ("Always", rules(json!([{"action": "Restart"}])), "exitCodes: Required value"),
            ("Always", rules(codes("Near", json!([1]))), "operator: Unsupported"),
            ("Always", rules(codes("In", json!([]))), "at least one value"),
            ("Always", rules(codes("In", json!(many))), "Too many"),
            ("Always", rules(json!(vec![codes("In", json!([1]))[0].clone(); 21])), "Too many"),
        ] {
            let found = found(policy, main.clone());
            assert!(found.contains(wanted), "{wanted}: {found:?} for {main}");
        }
    }
}
