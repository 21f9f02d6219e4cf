//! What a pod asks for and this node cannot do. It is refused by the name of the field: a pod that runs without what it asked for
//! is worse than one that does not run.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Client;
use kube::api::Api;

use crate::config::Cause;
use crate::status::chain;

/// Refuses a container for what it or its pod asks for.
///
/// # Errors
/// Names the field.
pub fn check(pod: &Pod, container: &Container) -> Result<(), Cause> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let found = of_pod(spec).or_else(|| of_container(container));
    found.map_or(Ok(()), |what| Err(Cause::config(format!("{what} on this node"))))
}

fn of_pod(spec: &PodSpec) -> Option<String> {
    let unsupported = |field: &str| Some(format!("spec.{field} is not supported"));
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return unsupported("resourceClaims");
    }
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        return Some(format!("spec.os.name: `{}` does not run", os.name));
    }
    let context = spec.security_context.as_ref()?;
    for sysctl in context.sysctls.iter().flatten() {
        if !is_own(spec, &sysctl.name) {
            return Some(format!(
                "spec.securityContext.sysctls: `{}` is not the pod's own",
                sysctl.name
            ));
        }
    }
    None
}

/// The runtimes of this node, as a RuntimeClass names them.
const HANDLERS: [&str; 1] = ["berth"];

/// Refuses a pod whose RuntimeClass means a runtime that is not here.
///
/// # Errors
/// Names the class or the runtime.
pub async fn runtime(client: &Client, class: &str) -> Result<(), Cause> {
    let found = Api::<RuntimeClass>::all(client.clone()).get_opt(class).await.map_err(|error| {
        Cause::create(format!("cannot read RuntimeClass \"{class}\": {}", chain(&error)))
    })?;
    let found =
        found.ok_or_else(|| Cause::config(format!("RuntimeClass \"{class}\" not found")))?;
    if HANDLERS.contains(&found.handler.as_str()) {
        return Ok(());
    }
    Err(Cause::config(format!(
        "no runtime for \"{}\" is configured on this node: it has {}",
        found.handler,
        HANDLERS.join(", ")
    )))
}

/// Whether a setting of the kernel belongs to a namespace that the pod has for itself.
pub fn is_own(spec: &PodSpec, name: &str) -> bool {
    const MESSAGES: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    let name = name.replace('/', ".");
    if name.starts_with("net.") {
        return !spec.host_network.unwrap_or(false);
    }
    MESSAGES.iter().any(|own| name.starts_with(own)) && !spec.host_ipc.unwrap_or(false)
}

fn of_container(container: &Container) -> Option<String> {
    let name = &container.name;
    let unsupported =
        |field: &str| Some(format!("spec.containers[{name}].{field} is not supported"));
    let mut rules = container.restart_policy_rules.iter().flatten();
    if let Some(rule) = rules.find(|rule| rule.action != "Restart") {
        return unsupported(&format!("restartPolicyRules.action: {}", rule.action));
    }
    let resources = container.resources.as_ref();
    if resources.is_some_and(|all| all.claims.as_ref().is_some_and(|claims| !claims.is_empty())) {
        return unsupported("resources.claims");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(spec: Value, container: Value) -> Option<String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        check(&pod, &container).err().map(|cause| cause.message)
    }

    #[test]
    fn refusals_name_the_field() {
        let (pod, main) = (json!({"containers": []}), json!({"name": "main"}));
        assert_eq!(refused(pod.clone(), main.clone()), None);
        for (field, value, wanted) in [
            ("resourceClaims", json!([{"name": "x"}]), "spec.resourceClaims is not supported"),
            ("os", json!({"name": "windows"}), "spec.os.name: `windows` does not run"),
        ] {
            let mut pod = pod.clone();
            pod[field] = value;
            assert_eq!(refused(pod, main.clone()), Some(format!("{wanted} on this node")));
        }
        let mut main = main;
        main["resources"] = json!({"claims": [{"name": "x"}]});
        let wanted = "spec.containers[main].resources.claims is not supported on this node";
        assert_eq!(refused(pod, main).as_deref(), Some(wanted));
    }
}
