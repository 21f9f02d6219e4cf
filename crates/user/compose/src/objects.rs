//! What a project is in a cluster: plain Kubernetes objects, in the order they are applied.
//!
//! This is a plan and reads nothing: no file, no registry, no clock. The same project and images give the same objects,
//! so a deploy changes only what changed.

mod container;
mod network;
mod probe;
mod storage;
mod workload;

use std::collections::BTreeMap;

use berth_standards::{Level, Pod, Policy, Version, judge};
use serde_json::{Value, json};

use crate::model::{HealthCheck, Project, Protocol, Service};
use crate::order::order;

pub use network::{Published, published};

/// The image that a service runs, as found in the registry or built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceImage {
    /// What the pod names.
    pub reference: String,
    /// The manifest's digest. A service is rolled when it changes.
    pub digest: Option<String>,
    /// `EXPOSE`.
    pub exposed_ports: Vec<(u16, Protocol)>,
    /// `VOLUME`.
    pub volumes: Vec<String>,
    /// `HEALTHCHECK`, which holds where the service has none.
    pub healthcheck: Option<HealthCheck>,
}

/// An object to apply, and the service it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The service's key; none for what belongs to the project.
    pub service: Option<String>,
    /// The object.
    pub object: Value,
}

/// Why objects cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectsError {
    /// Neither the images nor the file say what a service runs.
    #[error("the image of service `{service}` was not built")]
    Image {
        /// The service's key.
        service: String,
    },
}

/// All objects of the project: namespace, secrets, configs, volumes, policies and Services first, then the workloads in
/// the order of [`order`].
///
/// `images` is by service key; a service without an entry runs the image that the file names.
///
/// # Errors
/// A service that is built has no image yet.
pub fn objects(
    project: &Project,
    images: &BTreeMap<String, ServiceImage>,
) -> Result<Vec<Planned>, ObjectsError> {
    let mut known = BTreeMap::new();
    for (key, service) in &project.services {
        let image = match (images.get(key), &service.image) {
            (Some(image), _) => image.clone(),
            (None, Some(reference)) if service.build.is_none() => {
                ServiceImage { reference: reference.clone(), ..ServiceImage::default() }
            }
            (None, _) => return Err(ObjectsError::Image { service: key.clone() }),
        };
        known.insert(key.as_str(), image);
    }
    let sources = storage::sources(project).into_iter();
    let mut planned: Vec<Planned> = sources
        .chain(storage::claims(project))
        .chain(network::policies(project))
        .map(|object| Planned { service: None, object })
        .collect();
    let each = project.services.iter().map(|(key, service)| Subject {
        project,
        key,
        service,
        image: &known[key.as_str()],
    });
    let subjects: BTreeMap<&str, Subject<'_>> =
        each.map(|subject| (subject.key, subject)).collect();
    let keys = order(project).into_iter().flatten();
    let ordered: Vec<&Subject<'_>> = keys.filter_map(|key| subjects.get(key.as_str())).collect();
    let workloads: Vec<Planned> =
        ordered.iter().map(|subject| subject.planned(workload::workload(subject))).collect();
    let namespace = Planned { service: None, object: namespace(project, &workloads) };
    for subject in &ordered {
        let objects = network::services(subject).into_iter().chain(network::own_policies(subject));
        planned.extend(objects.map(|object| subject.planned(object)));
    }
    planned.extend(workloads);
    planned.insert(0, namespace);
    Ok(planned)
}

/// A service with what its objects are made of.
struct Subject<'s> {
    project: &'s Project,
    key: &'s str,
    service: &'s Service,
    image: &'s ServiceImage,
}

impl Subject<'_> {
    fn planned(&self, object: Value) -> Planned {
        Planned { service: Some(self.key.to_owned()), object }
    }

    /// What selects the service's pods, and never changes.
    fn selector(&self) -> Value {
        json!({
            "berth.dev/project": self.project.name,
            "berth.dev/service": self.service.object_name,
        })
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.project.name,
            "labels": labels(self.project, &self.service.object_name, true),
        })
    }

    /// Ports that the service is known to listen on, each once.
    fn known_ports(&self) -> Vec<(u16, Protocol)> {
        let mut ports: Vec<(u16, Protocol)> = Vec::new();
        let published = self.service.ports.iter().map(|port| (port.target, port.protocol));
        let exposed = self.service.expose.iter().chain(&self.image.exposed_ports).copied();
        for port in published.chain(exposed) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }
}

fn labels(project: &Project, name: &str, service: bool) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": project.name,
        "app.kubernetes.io/managed-by": "berth",
        "berth.dev/project": project.name,
    });
    if service {
        labels["berth.dev/service"] = json!(name);
    }
    labels
}

fn project_metadata(project: &Project, name: &str, named_after: &str) -> Value {
    json!({
        "name": name,
        "namespace": project.name,
        "labels": labels(project, named_after, false),
    })
}

/// The namespace admits no more than the project's workloads need.
fn namespace(project: &Project, workloads: &[Planned]) -> Value {
    let baseline = Policy { level: Level::Baseline, version: Version::Latest };
    let trusted = workloads.iter().any(|workload| {
        let object = &workload.object;
        let template = object.pointer("/spec/template").unwrap_or(object);
        let pod = Pod { metadata: &template["metadata"], spec: &template["spec"] };
        !judge(baseline, pod).is_empty()
    });
    let mut labels = labels(project, &project.name, false);
    let level = if trusted { Level::Privileged } else { Level::Baseline };
    labels["pod-security.kubernetes.io/enforce"] = json!(level.to_string());
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": project.name, "labels": labels },
    })
}
