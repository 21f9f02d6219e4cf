//! `berth down`: the end of a project. Volumes stay unless asked, and then the namespace stays to hold them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_client::Follow;
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Service};
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;

use crate::arguments::{ProjectFlag, duration};
use crate::cluster::{self, PROJECT};
use crate::failure::{Asking, Doing, Failure};
use crate::host::Host;
use crate::input::{self, Input};
use crate::screen;
use crate::session::Session;

/// What a project has besides volumes, in the order of removal: first what makes others.
const KINDS: [(&str, &str); 6] = [
    ("apps/v1", "Deployment"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
];

/// Flags of `berth down`.
#[derive(Debug, Args)]
pub struct DownArguments {
    /// Compose file or Kubernetes manifests
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub project: ProjectFlag,
    /// Remove named volumes and what is in them, too
    #[arg(short, long)]
    pub volumes: bool,
    /// How long to wait until everything is gone
    #[arg(short, long, default_value = "120s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    /// More files
    #[arg(value_name = "FILE")]
    pub more: Vec<PathBuf>,
}

/// Removes a project.
pub async fn down(arguments: DownArguments, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    crate::session::privileged()?;
    let files: Vec<PathBuf> = arguments.files.into_iter().chain(arguments.more).collect();
    if !files.is_empty()
        && arguments.project.project.is_none()
        && let Input::Manifests(objects) = input::read(files.clone(), None, vec!["*".to_owned()])?
    {
        let session = Session::start(data, host).await?;
        return remove_manifests(&session.client, &objects, arguments.timeout).await;
    }
    let project = input::project_name(arguments.project.project, files)?;
    let session = Session::start(data, host).await?;
    let work = remove(&session.client, &project, arguments.volumes);
    let late = |_| {
        let time = humantime::format_duration(arguments.timeout);
        Failure::new(format!("project `{project}` is not gone after {time}")).hint(format!(
            "`berth ps -a -p {project}` shows what is left; `berth down -p {project}` waits again"
        ))
    };
    tokio::time::timeout(arguments.timeout, work).await.map_err(late)??;
    Ok(0)
}

async fn remove(client: &Client, project: &str, volumes: bool) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_opt(project).await.asking("cannot look for the project")?;
    let ours = namespace.as_ref().is_some_and(|namespace| {
        namespace.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROJECT))
    });
    if !ours {
        screen::line(format!("project {project} has nothing to remove"));
        return Ok(());
    }
    let selector = format!("{PROJECT}={project}");
    let selection = ListParams::default().labels(&selector);
    for (version, kind) in KINDS {
        let what = format!("cannot remove each {kind} of `{project}`");
        let known = cluster::kind(version, kind).ok_or_else(|| Failure::defect(what.clone()))?;
        let api = known.api(client, project);
        for object in api.list(&selection).await.asking(&what)? {
            // Pods of a Deployment go with it.
            if object.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty()) {
                continue;
            }
            let name = object.metadata.name.unwrap_or_default();
            cluster::delete(&api, &name, None).await.asking(&what)?;
            screen::line(format!("{} {name} removed", kind.to_ascii_lowercase()));
        }
    }
    gone::<Pod>(client, project, &selector).await?;
    gone::<Service>(client, project, &selector).await?;
    let claims: Vec<PersistentVolumeClaim> = cluster::list(client, Some(project), "").await?;
    if !volumes && !claims.is_empty() {
        let names: Vec<&str> =
            claims.iter().filter_map(|claim| claim.metadata.name.as_deref()).collect();
        screen::line(format!(
            "kept volumes: {} (`berth down -p {project} --volumes` removes them)",
            names.join(", ")
        ));
        return Ok(());
    }
    let claim = cluster::kind("v1", "PersistentVolumeClaim")
        .ok_or_else(|| Failure::defect("no volumes"))?;
    let api = claim.api(client, project);
    for name in claims.iter().filter_map(|claim| claim.metadata.name.as_deref()) {
        cluster::delete(&api, name, None).await.asking(format!("cannot remove volume `{name}`"))?;
        screen::line(format!("volume {name} removed"));
    }
    remove_namespace(client, project).await
}

async fn remove_namespace(client: &Client, project: &str) -> Result<(), Failure> {
    let what = format!("cannot remove namespace `{project}`");
    let kind = cluster::kind("v1", "Namespace").ok_or_else(|| Failure::defect(what.clone()))?;
    cluster::delete(&kind.api(client, ""), project, None).await.asking(&what)?;
    let api: Api<Namespace> = Api::all(client.clone());
    let only = watcher::Config::default().fields(&format!("metadata.name={project}"));
    let mut left = Follow::new(api, only);
    loop {
        left.changed().await.doing(&what)?;
        if left.is_empty() {
            screen::line(format!("project {project} removed"));
            return Ok(());
        }
    }
}

/// Waits until nothing of a kind is left.
async fn gone<K>(client: &Client, namespace: &str, labels: &str) -> Result<(), Failure>
where
    K: berth_client::Mirrored + kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default + Clone,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut left = Follow::new(api, watcher::Config::default().labels(labels));
    loop {
        left.changed().await.doing("cannot watch what is removed")?;
        if left.is_empty() {
            return Ok(());
        }
    }
}

async fn remove_manifests(
    client: &Client,
    objects: &[Value],
    timeout: Duration,
) -> Result<u8, Failure> {
    for object in objects.iter().rev() {
        let title = cluster::title(object);
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = cluster::kind(text("/apiVersion"), text("/kind"))
            .ok_or_else(|| Failure::new(format!("the server has no kind for {title}")))?;
        let namespace = match text("/metadata/namespace") {
            "" => "default",
            namespace => namespace,
        };
        let api = kind.api(client, namespace);
        let name = text("/metadata/name");
        cluster::delete(&api, name, None).await.asking(format!("cannot remove {title}"))?;
        let left = wait_gone(&api, name);
        let late = |_| {
            Failure::new(format!(
                "{title} is not gone after {}",
                humantime::format_duration(timeout)
            ))
        };
        tokio::time::timeout(timeout, left).await.map_err(late)??;
        screen::line(format!("{title} removed"));
    }
    Ok(0)
}

async fn wait_gone(api: &Api<kube::api::DynamicObject>, name: &str) -> Result<(), Failure> {
    let Some(object) = api.get_opt(name).await.asking(format!("cannot look for `{name}`"))? else {
        return Ok(());
    };
    let mut changes = berth_client::One::after(api.clone(), &object);
    while changes.next().await.doing(format!("cannot watch `{name}`"))?.is_some() {}
    Ok(())
}
