//! `berth up`: from a file to an application that works, or to the reason why it does not.
//!
//! Everything that can be refused is refused before anything is changed: the file, the images, the ports. Then the objects
//! are applied, workloads in waves, each as soon as what it depends on is in the state that it asks for.

mod diagnosis;
mod manifests;
mod plan;
pub mod ports;
mod sources;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_compose::{Condition, Level, Project};
use clap::Args;
use kube::Client;

use crate::arguments::{ProjectFlag, Pull, RegistryFlags, duration};
use crate::cluster;
use crate::failure::{Asking, Doing, Failure};
use crate::host::Host;
use crate::input::{self, Input};
use crate::screen;
use crate::session::Session;
use plan::Plan;
use wait::{Goal, Waiter};

/// Flags of `berth up`.
#[derive(Debug, Args)]
pub struct UpArguments {
    /// Compose file or Kubernetes manifests; may be repeated, later Compose files over earlier ones
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub project: ProjectFlag,
    /// Services with this profile, too; may be repeated
    #[arg(long = "profile", value_name = "NAME")]
    pub profiles: Vec<String>,
    /// Build also what has an image already and would not be built again
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,
    /// Build nothing; what is not there is an error
    #[arg(long)]
    pub no_build: bool,
    /// Run every step of builds again
    #[arg(long, conflicts_with = "no_build")]
    pub no_cache: bool,
    /// When to pull images, over what the file says
    #[arg(long, value_enum)]
    pub pull: Option<Pull>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait until everything works
    #[arg(long, default_value = "180s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// Only these services and what they depend on; what looks like a path is a file
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Brings an application up.
pub async fn up(arguments: UpArguments, data: &Path, host: &Arc<dyn Host>) -> Result<u8, Failure> {
    crate::session::privileged()?;
    let (more, services) = input::split(&arguments.services);
    let files: Vec<PathBuf> = arguments.files.iter().cloned().chain(more).collect();
    let project = arguments.project.project.clone();
    match input::read(files, project.clone(), arguments.profiles.clone())? {
        Input::Manifests(objects) => {
            if let Some(service) = services.first() {
                return Err(Failure::usage(format!(
                    "`{service}` names a service, and manifests have none"
                )));
            }
            let session = Session::start(data, &**host).await?;
            manifests::up(&session.client, objects, project, arguments.dry_run, arguments.timeout)
                .await
        }
        Input::Compose(project) => compose(*project, services, &arguments, data, host).await,
    }
}

async fn compose(
    project: Project,
    services: Vec<String>,
    arguments: &UpArguments,
    data: &Path,
    host: &Arc<dyn Host>,
) -> Result<u8, Failure> {
    for finding in &project.findings {
        // Notes are for those who ask what a plan would be.
        if finding.level == Level::Warning || arguments.dry_run {
            screen::note(finding);
        }
    }
    let chosen = chosen(&project, &services)?;
    let session = Session::start(data, &**host).await?;
    let wanted = ports::of_project(&project, &chosen);
    ports::check(&session.client, &wanted, Some(&project.name), &[]).await?;
    let images = sources::prepare(&project, &chosen, arguments, data, host).await?;
    let mut objects = berth_compose::objects(&project, &images).doing("cannot plan the project")?;
    objects
        .retain(|planned| planned.service.as_ref().is_none_or(|service| chosen.contains(service)));
    let desired = plan::desired(objects);
    let observed = plan::observe(&session.client, &project.name).await?;
    // Without all services in view it is not known what is superfluous.
    let plan = plan::plan(&project.name, &desired, &observed, services.is_empty());
    screen::note(&plan);
    if arguments.dry_run {
        screen::note("nothing was changed");
        return Ok(0);
    }
    let work = bring(&session.client, &project, &plan, &chosen, arguments.timeout);
    tokio::select! {
        outcome = work => outcome?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new("interrupted; what has been started keeps running")
                .hint(format!("`berth up` goes on, `berth ps -p {0}` shows it, `berth down -p {0}` removes it", project.name))
                .exit(130));
        }
    }
    addresses(&session.client, &project, &chosen).await?;
    Ok(0)
}

/// The services that are meant, with what they depend on.
fn chosen(project: &Project, services: &[String]) -> Result<BTreeSet<String>, Failure> {
    if services.is_empty() {
        return Ok(project.services.keys().cloned().collect());
    }
    let mut chosen = BTreeSet::new();
    let mut open: Vec<String> = services.to_vec();
    while let Some(service) = open.pop() {
        let Some(definition) = project.services.get(&service) else {
            let known: Vec<&str> = project.services.keys().map(String::as_str).collect();
            return Err(Failure::usage(format!("the project has no service `{service}`"))
                .hint(format!("it has {}; a profile may hide more", known.join(", "))));
        };
        if chosen.insert(service) {
            open.extend(
                definition
                    .depends_on
                    .keys()
                    .filter(|key| project.services.contains_key(*key))
                    .cloned(),
            );
        }
    }
    Ok(chosen)
}

/// Applies the plan in waves and waits until everything works.
async fn bring(
    client: &Client,
    project: &Project,
    plan: &Plan,
    chosen: &BTreeSet<String>,
    timeout: Duration,
) -> Result<(), Failure> {
    for step in plan.steps.iter().filter(|step| !step.is_workload()) {
        step.apply(client, &project.name).await?;
    }
    let goals = goals(project, plan, chosen);
    let mut waiter = Waiter::new(client.clone(), &project.name, timeout);
    for wave in berth_compose::order(project) {
        let wave: Vec<&String> = wave.iter().filter(|key| chosen.contains(*key)).collect();
        let needed = needed(project, &wave, &goals);
        waiter.reach(&needed).await?;
        for step in plan.steps.iter().filter(|step| step.is_workload() && step.belongs_to(&wave)) {
            step.apply(client, &project.name).await?;
        }
    }
    waiter.reach(&goals.into_values().collect::<Vec<_>>()).await
}

/// What a wave waits for, with the furthest condition of each dependency.
fn needed(project: &Project, wave: &[&String], goals: &BTreeMap<String, Goal>) -> Vec<Goal> {
    let mut needed: BTreeMap<&String, Goal> = BTreeMap::new();
    for key in wave {
        let Some(service) = project.services.get(*key) else { continue };
        for (other, dependency) in &service.depends_on {
            let Some(goal) = goals.get(other) else { continue };
            let wanted = Goal {
                condition: dependency.condition,
                required: dependency.required,
                ..goal.clone()
            };
            let known = needed.entry(other).or_insert_with(|| wanted.clone());
            known.condition = known.condition.max(wanted.condition);
            known.required |= wanted.required;
        }
    }
    needed.into_values().collect()
}

/// What each service shall come to in the end.
fn goals(project: &Project, plan: &Plan, chosen: &BTreeSet<String>) -> BTreeMap<String, Goal> {
    let mut goals = BTreeMap::new();
    for (key, service) in project.services.iter().filter(|(key, _)| chosen.contains(*key)) {
        let once = project.runs_once(key);
        let goal = Goal {
            service: key.clone(),
            object: service.object_name.clone(),
            template: plan.template(key),
            once,
            condition: if once { Condition::CompletedSuccessfully } else { Condition::Healthy },
            required: true,
        };
        goals.insert(key.clone(), goal);
    }
    goals
}

/// Where the application is reached from outside.
async fn addresses(
    client: &Client,
    project: &Project,
    chosen: &BTreeSet<String>,
) -> Result<(), Failure> {
    let published = berth_compose::published(project);
    let published: Vec<_> =
        published.into_iter().filter(|one| chosen.contains(&one.service)).collect();
    let picked = if published.iter().any(|one| one.port.is_none()) {
        let services: kube::Api<k8s_openapi::api::core::v1::Service> =
            kube::Api::namespaced(client.clone(), &project.name);
        services.list(&kube::api::ListParams::default()).await.asking("cannot list Services")?.items
    } else {
        Vec::new()
    };
    for one in published {
        let object = project.services.get(&one.service).map(|service| service.object_name.clone());
        let port = one.port.or_else(|| {
            let mut ports = picked
                .iter()
                .filter(|service| {
                    let labels = service.metadata.labels.as_ref();
                    labels.and_then(|labels| labels.get(cluster::SERVICE)) == object.as_ref()
                })
                .filter_map(|service| service.spec.as_ref()?.ports.as_ref())
                .flatten();
            let port = ports
                .find(|port| port.node_port.is_some() && port.port == i32::from(one.target))?;
            u16::try_from(port.node_port?).ok()
        });
        let Some(port) = port else { continue };
        let address = match one.protocol {
            berth_compose::Protocol::Tcp => format!("http://{}:{port}", one.host),
            other => format!("{}:{port}/{other}", one.host),
        };
        screen::line(format!("{}  {address}", one.service));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(text: &str) -> Project {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
        berth_compose::load(berth_compose::LoadRequest {
            directory: folder.path().to_owned(),
            project_name: Some("shop".to_owned()),
            ..berth_compose::LoadRequest::default()
        })
        .unwrap()
    }

    const SHOP: &str = "services:
  web: { image: w, depends_on: { db: { condition: service_healthy }, setup: { condition: service_completed_successfully } } }
  admin: { image: a, depends_on: [db] }
  setup: { image: s }
  db: { image: d, healthcheck: { test: [CMD, ok] } }
  other: { image: o }
";

    #[test]
    fn a_service_brings_what_it_depends_on() {
        let project = project(SHOP);
        let chosen = chosen(&project, &["web".to_owned()]).unwrap();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), ["db", "setup", "web"]);
        let failure = super::chosen(&project, &["wep".to_owned()]).unwrap_err();
        assert!(
            failure.text().contains("it has web, admin, setup, db, other"),
            "{}",
            failure.text()
        );
    }

    #[test]
    fn a_wave_waits_for_the_furthest_condition() {
        let project = project(SHOP);
        let all = chosen(&project, &[]).unwrap();
        let plan = plan::plan("shop", &[], &BTreeMap::new(), true);
        let goals = goals(&project, &plan, &all);
        let (web, admin) = ("web".to_owned(), "admin".to_owned());
        let needed = needed(&project, &[&web, &admin], &goals);
        let shown: Vec<_> =
            needed.iter().map(|goal| (goal.service.as_str(), goal.condition)).collect();
        assert_eq!(
            shown,
            [("db", Condition::Healthy), ("setup", Condition::CompletedSuccessfully)]
        );
    }
}
