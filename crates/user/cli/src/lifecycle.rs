//! `berth stop`, `start`, `restart` and `rm`.
//!
//! For a container of `berth run`, stopping ends its process and keeps its record: the node agent acts on an annotation,
//! and the pod stays as one that has ended. Starting it again makes a new pod of the same name from that record; what the
//! old one wrote outside volumes is gone. A service is stopped by having no containers.

use std::path::Path;
use std::time::Duration;

use berth_client::One;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::arguments::{ProjectFlag, duration};
use crate::cluster::{self, MANAGER, RUN, RUN_NAME, STOP};
use crate::failure::{Asking, Doing, Failure};
use crate::session::Session;
use crate::{locate, scale, screen, words};

/// Remembers how many containers a stopped service had.
const BEFORE_STOP: &str = "berth.dev/replicas-before-stop";
/// Time on top of a pod's own until the node must have ended it.
const SLACK: Duration = Duration::from_secs(10);

/// Flags of `berth stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    /// Containers of `berth run`, or services
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub project: ProjectFlag,
}

/// Flags of `berth start`.
#[derive(Debug, Args)]
pub struct StartArguments {
    /// Containers of `berth run`, or services
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub project: ProjectFlag,
}

/// Flags of `berth restart`.
#[derive(Debug, Args)]
pub struct RestartArguments {
    /// Services, or containers of `berth run`
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// How long to wait until a service is ready again
    #[arg(long, default_value = "180s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub project: ProjectFlag,
}

/// Flags of `berth rm`.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// Those that run, too; they are killed
    #[arg(short, long)]
    pub force: bool,
    /// Containers of `berth run`
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// What a name stands for here.
enum Target {
    Run(Box<Pod>),
    Service(Box<Deployment>),
}

async fn target(client: &Client, name: &str, project: Option<&str>) -> Result<Target, Failure> {
    if project.is_none()
        && let Some(pod) = run_pod(client, name).await?
    {
        return Ok(Target::Run(Box::new(pod)));
    }
    match locate::find_workload(client, name, project).await? {
        Some(deployment) => Ok(Target::Service(Box::new(deployment))),
        None => Err(Failure::new(format!("there is no container or service called `{name}`"))
            .hint("`berth ps -a` lists what there is")),
    }
}

/// The pod of a container that `berth run` made.
async fn run_pod(client: &Client, name: &str) -> Result<Option<Pod>, Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), crate::run::NAMESPACE);
    let pod = api.get_opt(name).await.asking(format!("cannot look for `{name}`"))?;
    Ok(pod
        .filter(|pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(RUN))))
}

/// Ends containers and keeps their records.
pub async fn stop(arguments: StopArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    for name in &arguments.names {
        match target(&session.client, name, arguments.project.project.as_deref()).await? {
            Target::Run(pod) => stop_run(&session.client, &pod).await?,
            Target::Service(deployment) => stop_service(&session, &deployment).await?,
        }
        screen::line(name);
    }
    Ok(0)
}

async fn stop_run(client: &Client, pod: &Pod) -> Result<(), Failure> {
    if words::finished(pod) {
        return Ok(());
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    cluster::annotate(client, pod, STOP, &now).await.asking(format!("cannot stop `{name}`"))?;
    let spec = pod.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let patience = Duration::from_secs(u64::try_from(grace).unwrap_or(0)) + SLACK;
    let late = |_| {
        Failure::new(format!(
            "`{name}` has not ended within {}",
            humantime::format_duration(patience)
        ))
        .hint(format!("`berth rm -f {name}` kills and removes it"))
    };
    tokio::time::timeout(patience, finished(client, pod)).await.map_err(late)?
}

/// Waits until a pod has ended or is gone.
async fn finished(client: &Client, pod: &Pod) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), crate::run::NAMESPACE);
    let mut changes = One::after(api, pod);
    while let Some(pod) = changes.next().await.doing("cannot watch the container")? {
        if words::finished(&pod) {
            break;
        }
    }
    Ok(())
}

async fn stop_service(session: &Session, deployment: &Deployment) -> Result<(), Failure> {
    let before = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    if before > 0 {
        let patch = json!({
            "metadata": { "annotations": { BEFORE_STOP: before.to_string() } },
            "spec": { "replicas": 0 },
        });
        let stopped = change(&session.client, deployment, patch).await?;
        cluster::rolled_out(&session.client, &stopped).await?;
    }
    Ok(())
}

async fn change(
    client: &Client,
    deployment: &Deployment,
    patch: serde_json::Value,
) -> Result<Deployment, Failure> {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&name, &params, &Patch::Merge(patch)).await.asking(format!("cannot change `{name}`"))
}

/// Starts what was stopped.
pub async fn start(arguments: StartArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    for name in &arguments.names {
        match target(&session.client, name, arguments.project.project.as_deref()).await? {
            Target::Run(pod) if !words::finished(&pod) => {}
            Target::Run(pod) => again(&session.client, &pod).await?,
            Target::Service(deployment) => start_service(&session, &deployment).await?,
        }
        screen::line(name);
    }
    Ok(0)
}

async fn start_service(session: &Session, deployment: &Deployment) -> Result<(), Failure> {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    if replicas > 0 {
        return Ok(());
    }
    let annotations = deployment.metadata.annotations.as_ref();
    let before = annotations.and_then(|all| all.get(BEFORE_STOP)?.parse().ok()).unwrap_or(1);
    scale::set(session, deployment, before).await.map(drop)
}

/// Makes the pod anew from its record.
async fn again(client: &Client, pod: &Pod) -> Result<(), Failure> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), crate::run::NAMESPACE);
    let fresh = renewed(pod);
    let gone = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    api.delete(&name, &gone).await.asking(format!("cannot replace `{name}`"))?;
    api.create(&PostParams::default(), &fresh).await.asking(format!("cannot start `{name}`"))?;
    Ok(())
}

/// The record without what belongs to the pod that was.
fn renewed(pod: &Pod) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(STOP);
    let metadata = kube::api::ObjectMeta {
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        labels: pod.metadata.labels.clone(),
        annotations: Some(annotations),
        ..kube::api::ObjectMeta::default()
    };
    let mut spec = pod.spec.clone();
    if let Some(spec) = &mut spec {
        spec.node_name = None;
    }
    Pod { metadata, spec, status: None }
}

/// Starts containers anew: a service one after the other, as its update strategy says.
pub async fn restart(arguments: RestartArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    for name in &arguments.names {
        match target(&session.client, name, arguments.project.project.as_deref()).await? {
            Target::Run(pod) => {
                stop_run(&session.client, &pod).await?;
                again(&session.client, &pod).await?;
            }
            Target::Service(deployment) => {
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let patch = json!({ "spec": { "template": { "metadata": {
                    "annotations": { "kubectl.kubernetes.io/restartedAt": now } } } } });
                let changed = change(&session.client, &deployment, patch).await?;
                let wait = cluster::rolled_out(&session.client, &changed);
                let late = |_| {
                    let time = humantime::format_duration(arguments.timeout);
                    Failure::new(format!("`{name}` is not ready after {time}"))
                        .hint(format!("`berth logs {name}` shows what it writes"))
                };
                tokio::time::timeout(arguments.timeout, wait).await.map_err(late)??;
            }
        }
        screen::line(name);
    }
    Ok(0)
}

/// Removes containers of `berth run` with all that was made for them, except volumes.
pub async fn remove(arguments: RemoveArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    for name in &arguments.names {
        let Some(pod) = run_pod(&session.client, name).await? else {
            return Err(Failure::new(format!(
                "there is no container of `berth run` called `{name}`"
            ))
            .hint("`berth ps -a` lists what there is, and `berth down` removes applications"));
        };
        if !words::finished(&pod) && !arguments.force {
            return Err(Failure::new(format!("`{name}` runs")).hint(format!(
                "`berth stop {name}` ends it; `berth rm -f {name}` kills and removes it"
            )));
        }
        discard_pod(&session.client, name).await?;
        discard_companions(&session.client, name).await?;
        screen::line(name);
    }
    Ok(0)
}

/// Removes a container of `berth run` at once, running or not.
pub async fn discard_pod(client: &Client, name: &str) -> Result<(), Failure> {
    let what = format!("cannot remove `{name}`");
    let pods = cluster::kind("v1", "Pod").ok_or_else(|| Failure::defect(what.clone()))?;
    cluster::delete(&pods.api(client, crate::run::NAMESPACE), name, Some(0)).await.asking(&what)
}

/// Removes what belongs to a container of `berth run` besides its pod.
pub async fn discard_companions(client: &Client, name: &str) -> Result<(), Failure> {
    let what = format!("cannot remove what belongs to `{name}`");
    let selection = kube::api::ListParams::default().labels(&format!("{RUN_NAME}={name}"));
    for (version, kind) in [("v1", "Service"), ("networking.k8s.io/v1", "NetworkPolicy")] {
        let kind = cluster::kind(version, kind).ok_or_else(|| Failure::defect(what.clone()))?;
        let api = kind.api(client, crate::run::NAMESPACE);
        for object in api.list(&selection).await.asking(&what)? {
            let object = object.metadata.name.unwrap_or_default();
            cluster::delete(&api, &object, None).await.asking(&what)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_pod_has_no_past() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "default", "uid": "u", "resourceVersion": "5",
                "labels": { RUN: "true" }, "annotations": { STOP: "now", "x": "y" } },
            "spec": { "nodeName": "n", "containers": [{ "name": "main", "image": "x" }] },
            "status": { "phase": "Failed" },
        }))
        .unwrap();
        assert_eq!(
            serde_json::to_value(renewed(&pod)).unwrap(),
            json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": "a", "namespace": "default", "labels": { RUN: "true" },
                    "annotations": { "x": "y" } },
                "spec": { "containers": [{ "name": "main", "image": "x" }] } })
        );
    }
}
