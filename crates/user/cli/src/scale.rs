//! `berth scale`: how many containers a service has.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::arguments::{ProjectFlag, duration};
use crate::cluster::{self, MANAGER};
use crate::failure::{Asking, Failure};
use crate::locate;
use crate::screen;
use crate::session::Session;

/// Flags of `berth scale`.
#[derive(Debug, Args)]
pub struct ScaleArguments {
    /// A service and how many containers it shall have
    #[arg(required = true, value_name = "SERVICE=NUMBER", value_parser = wanted)]
    pub services: Vec<(String, u32)>,
    /// How long to wait until they are ready
    #[arg(long, default_value = "180s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub project: ProjectFlag,
}

fn wanted(text: &str) -> Result<(String, u32), String> {
    let wrong = || {
        format!("write a service and a number, as `{}=3`", text.split('=').next().unwrap_or("web"))
    };
    let (service, number) = text.split_once('=').ok_or_else(wrong)?;
    if service.is_empty() {
        return Err("write a service and a number, as `web=3`".to_owned());
    }
    Ok((service.to_owned(), number.parse().map_err(|_| wrong())?))
}

/// Changes the numbers and waits until they hold.
pub async fn scale(arguments: ScaleArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    let project = arguments.project.project.as_deref();
    let mut found = Vec::new();
    for (service, number) in &arguments.services {
        found.push((locate::workload(&session.client, service, project).await?, *number));
    }
    let mut changed = Vec::new();
    for (deployment, number) in found {
        changed.push(set(&session, &deployment, number).await?);
    }
    for deployment in changed {
        let wait = cluster::rolled_out(&session.client, &deployment);
        let name = deployment.metadata.name.clone().unwrap_or_default();
        let late = || {
            Failure::new(format!(
                "service `{name}` is not ready after {}",
                humantime::format_duration(arguments.timeout)
            ))
            .hint(format!(
                "`berth ps` shows its containers and `berth logs {name}` what they write"
            ))
        };
        tokio::time::timeout(arguments.timeout, wait).await.map_err(|_| late())??;
        let number = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        screen::line(format!("{name}: {number} running"));
    }
    Ok(0)
}

/// Writes the number and returns the workload as it is then.
pub async fn set(
    session: &Session,
    deployment: &Deployment,
    number: u32,
) -> Result<Deployment, Failure> {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(session.client.clone(), &namespace);
    let patch = Patch::Merge(json!({ "spec": { "replicas": number } }));
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&name, &params, &patch).await.asking(format!("cannot scale `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn a_wanted_number_is_checked() {
        assert_eq!(wanted("web=3"), Ok(("web".to_owned(), 3)));
        assert!(wanted("web").unwrap_err().contains("web=3"));
        assert!(wanted("web=-1").is_err());
        assert!(wanted("=1").is_err());
    }
}
