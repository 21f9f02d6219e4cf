//! `berth attach`: the input and output of a container's own process.

use std::path::Path;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::arguments::ProjectFlag;
use crate::failure::{Asking, Failure};
use crate::session::Session;
use crate::{exec, locate, run, stream};

/// Flags of `berth attach`.
#[derive(Debug, Args)]
pub struct AttachArguments {
    /// Service, pod or container
    pub name: String,
    /// Do not send standard input
    #[arg(long)]
    pub no_stdin: bool,
    #[command(flatten)]
    pub project: ProjectFlag,
}

/// Connects until the process ends; returns its exit code.
pub async fn attach(arguments: AttachArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    let located =
        locate::pods(&session.client, &arguments.name, arguments.project.project.as_deref())
            .await?;
    let pod = located.running(&arguments.name)?.clone();
    let spec = pod.spec.as_ref();
    let container = spec.and_then(|spec| spec.containers.first()).cloned().unwrap_or_default();
    let tty = container.tty.unwrap_or(false);
    let input = !arguments.no_stdin && container.stdin.unwrap_or(false);
    let api: Api<Pod> = Api::namespaced(session.client.clone(), &located.namespace);
    let params = exec::parameters(Some(container.name), input, tty);
    let name = pod.metadata.name.clone().unwrap_or_default();
    let process = api
        .attach(&name, &params)
        .await
        .asking(format!("cannot attach to `{}`", arguments.name))?;
    stream::join(process).await?;
    let ended = run::follow::ended(&api, pod).await?;
    Ok(ended.map_or(0, |ended| ended.code))
}
