//! Ephemeral containers: added to a pod that runs, to look into it.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use crate::config::Cause;
use crate::directory::Record;

/// The same as any other container, as far as it is one.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let own = ephemeral.clone();
    Container {
        name: own.name,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        command: own.command,
        args: own.args,
        working_dir: own.working_dir,
        env: own.env,
        env_from: own.env_from,
        resources: own.resources,
        resize_policy: own.resize_policy,
        volume_mounts: own.volume_mounts,
        volume_devices: own.volume_devices,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        tty: own.tty,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        ..Container::default()
    }
}

/// The instance of the container whose processes this one is to see, if it is to see any but its own.
pub fn target(pod: &Pod, name: &str, record: &Record) -> Result<Option<String>, Cause> {
    let mut all = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let own = all.find(|container| container.name == name);
    let Some(target) = own.and_then(|own| own.target_container_name.as_deref()) else {
        return Ok(None);
    };
    match record.containers.get(target).filter(|known| known.starts > 0) {
        Some(known) => Ok(Some(known.instance(target))),
        None => Err(Cause::create(format!("the container `{target}` to look into does not run"))),
    }
}
