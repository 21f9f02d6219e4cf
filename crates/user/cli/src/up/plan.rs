//! What to do, from what is wanted and what is there. The text of a plan is what `--dry-run` shows.
//!
//! Each object carries the hash of what was applied, so that what did not change is left alone: a service that was scaled
//! by hand stays so until its definition changes.

use std::collections::BTreeMap;
use std::fmt;

use berth_compose::Planned;
use kube::Client;
use kube::api::ListParams;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::{self, PROJECT, SERVICE};
use crate::failure::{Asking, Failure};

/// The hash of the object as it was applied.
const APPLIED: &str = "berth.dev/applied";
/// The hash of a pod's template, on the pods themselves.
pub const TEMPLATE: &str = "berth.dev/template";

/// The kinds a project is made of.
const KINDS: [(&str, &str); 8] = [
    ("v1", "Namespace"),
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("v1", "Pod"),
];

/// An object that is wanted, with its hashes in its annotations.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The service's key.
    pub service: Option<String>,
    /// The object.
    pub object: Value,
    hash: String,
    template: Option<String>,
}

/// Kind and name; all are in the project's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    kind: String,
    name: String,
}

/// An object that is there.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    api_version: String,
    service: Option<String>,
    applied: Option<String>,
    template: Option<String>,
    /// A pod that ended badly has to be made again.
    failed: bool,
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It stays as it is.
    Keep,
    /// It is changed without touching containers.
    Update,
    /// Its containers are replaced.
    Replace,
    /// It is new.
    Create,
    /// It is no longer wanted.
    Remove,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Keep => "unchanged",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Create => "create",
            Self::Remove => "remove",
        })
    }
}

/// One object's change.
#[derive(Debug, Clone)]
pub struct Step {
    /// What becomes of it.
    pub change: Change,
    service: Option<String>,
    api_version: String,
    key: ObjectKey,
    object: Option<Value>,
}

/// All changes, in order.
#[derive(Debug)]
pub struct Plan {
    project: String,
    /// The steps.
    pub steps: Vec<Step>,
    templates: BTreeMap<String, String>,
}

fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Puts an annotation on an object or on a pod's template.
fn annotate(metadata: &mut Value, name: &str, value: &str) {
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][name] = json!(value);
}

/// The planned objects with their hashes.
pub fn desired(planned: Vec<Planned>) -> Vec<Desired> {
    let with_hashes = |Planned { service, mut object }: Planned| {
        let template = match text(&object, "/kind") {
            "Deployment" => Some(hash(&object["spec"]["template"])),
            "Pod" => Some(hash(&object)),
            _ => None,
        };
        if let Some(template) = &template {
            let is_pod = text(&object, "/kind") == "Pod";
            let pod = if is_pod { &mut object } else { &mut object["spec"]["template"] };
            annotate(&mut pod["metadata"], TEMPLATE, template);
        }
        let hash = hash(&object);
        annotate(&mut object["metadata"], APPLIED, &hash);
        Desired { service, object, hash, template }
    };
    planned.into_iter().map(with_hashes).collect()
}

/// What the project has in the cluster.
pub async fn observe(
    client: &Client,
    project: &str,
) -> Result<BTreeMap<ObjectKey, Observed>, Failure> {
    let selection = ListParams::default().labels(&format!("{PROJECT}={project}"));
    let lists = KINDS.iter().map(|(version, kind)| {
        let selection = selection.clone();
        async move {
            let what = format!("cannot list each {kind} of the project");
            let known =
                cluster::kind(version, kind).ok_or_else(|| Failure::defect(what.clone()))?;
            let found = known.api(client, project).list(&selection).await.asking(what)?;
            Ok::<_, Failure>((*version, *kind, found.items))
        }
    });
    let mut observed = BTreeMap::new();
    for (version, kind, items) in futures::future::try_join_all(lists).await? {
        for item in items {
            // What a Deployment made is not the project's own.
            if item.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty()) {
                continue;
            }
            let object = serde_json::to_value(&item).unwrap_or_default();
            let name = item.metadata.name.clone().unwrap_or_default();
            observed
                .insert(ObjectKey { kind: kind.to_owned(), name }, seen(version, kind, &object));
        }
    }
    Ok(observed)
}

fn seen(version: &str, kind: &str, object: &Value) -> Observed {
    let annotation = |metadata: &str, name: &str| {
        let annotations = object.pointer(&format!("{metadata}/annotations"))?;
        Some(annotations.get(name)?.as_str()?.to_owned())
    };
    let pod = if kind == "Pod" { "/metadata" } else { "/spec/template/metadata" };
    let labels = object.pointer("/metadata/labels");
    Observed {
        api_version: version.to_owned(),
        service: labels.and_then(|labels| Some(labels.get(SERVICE)?.as_str()?.to_owned())),
        applied: annotation("/metadata", APPLIED),
        template: annotation(pod, TEMPLATE),
        failed: kind == "Pod" && text(object, "/status/phase") == "Failed",
    }
}

/// Compares. With `whole`, what is there and not wanted is removed, except volumes.
pub fn plan(
    project: &str,
    desired: &[Desired],
    observed: &BTreeMap<ObjectKey, Observed>,
    whole: bool,
) -> Plan {
    let mut steps = Vec::new();
    let mut templates = BTreeMap::new();
    let mut wanted = Vec::new();
    for one in desired {
        let key = ObjectKey {
            kind: text(&one.object, "/kind").to_owned(),
            name: text(&one.object, "/metadata/name").to_owned(),
        };
        let change = match observed.get(&key) {
            None => Change::Create,
            Some(there) if there.failed => Change::Replace,
            Some(there) if there.applied.as_ref() == Some(&one.hash) => Change::Keep,
            Some(there) if there.template != one.template => Change::Replace,
            Some(_) => Change::Update,
        };
        if let (Some(service), Some(template)) = (&one.service, &one.template) {
            templates.insert(service.clone(), template.clone());
        }
        wanted.push(key.clone());
        steps.push(Step {
            change,
            service: one.service.clone(),
            api_version: text(&one.object, "/apiVersion").to_owned(),
            key,
            object: Some(one.object.clone()),
        });
    }
    let superfluous = observed.iter().filter(|(key, _)| {
        whole
            && !wanted.contains(key)
            && !matches!(key.kind.as_str(), "PersistentVolumeClaim" | "Namespace")
    });
    steps.extend(superfluous.map(|(key, there)| Step {
        change: Change::Remove,
        service: there.service.clone(),
        api_version: there.api_version.clone(),
        key: key.clone(),
        object: None,
    }));
    Plan { project: project.to_owned(), steps, templates }
}

impl Plan {
    /// The hash of a service's pods.
    pub fn template(&self, service: &str) -> Option<String> {
        self.templates.get(service).cloned()
    }

    /// The furthest change of each service, and of what belongs to none.
    fn summary(&self) -> BTreeMap<Option<&str>, (Change, Vec<&Step>)> {
        let mut summary: BTreeMap<Option<&str>, (Change, Vec<&Step>)> = BTreeMap::new();
        for step in &self.steps {
            let (change, steps) =
                summary.entry(step.service.as_deref()).or_insert((Change::Keep, Vec::new()));
            // A new port is no new service.
            let weight = match step.change {
                Change::Create | Change::Remove
                    if step.service.is_some() && !step.has_containers() =>
                {
                    Change::Update
                }
                other => other,
            };
            *change = (*change).max(weight);
            if step.change != Change::Keep {
                steps.push(step);
            }
        }
        summary
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "plan for project {}", self.project)?;
        let summary = self.summary();
        let width = summary.keys().flatten().map(|service| service.len()).max().unwrap_or(0);
        for (service, (change, steps)) in &summary {
            let Some(service) = service else { continue };
            let parts: Vec<String> = steps
                .iter()
                .filter(|step| {
                    *change == Change::Update
                        || step.change == Change::Remove && *change != Change::Remove
                })
                .map(|step| format!("{} {} {}", step.change, step.key.kind, step.key.name))
                .collect();
            write!(formatter, "\n  {service:width$}  {change}")?;
            if !parts.is_empty() {
                write!(formatter, " ({})", parts.join(", "))?;
            }
        }
        for step in summary.get(&None).into_iter().flat_map(|(_, steps)| steps) {
            write!(formatter, "\n  {} {}: {}", step.key.kind, step.key.name, step.change)?;
        }
        if self.steps.iter().all(|step| step.change == Change::Keep) {
            write!(formatter, "\n  everything is as it should be")?;
        }
        Ok(())
    }
}

impl Step {
    fn has_containers(&self) -> bool {
        matches!(self.key.kind.as_str(), "Deployment" | "Pod")
    }

    /// Whether it waits for its turn: containers that are to come.
    pub fn is_workload(&self) -> bool {
        self.has_containers() && self.change != Change::Remove
    }

    /// Whether it belongs to one of the services.
    pub fn belongs_to(&self, services: &[&String]) -> bool {
        self.service.as_ref().is_some_and(|service| services.contains(&service))
    }

    /// Carries it out; safe to repeat.
    pub async fn apply(&self, client: &Client, project: &str) -> Result<(), Failure> {
        let remove = match self.change {
            Change::Keep => return Ok(()),
            // A pod cannot be changed, only made again.
            Change::Replace => self.key.kind == "Pod",
            Change::Remove => true,
            Change::Create | Change::Update => false,
        };
        if remove {
            self.remove(client, project).await?;
        }
        match &self.object {
            Some(object) => cluster::apply(client, object).await,
            None => Ok(()),
        }
    }

    async fn remove(&self, client: &Client, project: &str) -> Result<(), Failure> {
        let ObjectKey { kind, name } = &self.key;
        let what = format!("cannot remove {kind} {name}");
        let known =
            cluster::kind(&self.api_version, kind).ok_or_else(|| Failure::defect(what.clone()))?;
        let api = known.api(client, project);
        let Some(there) = api.get_opt(name).await.asking(&what)? else { return Ok(()) };
        cluster::delete(&api, name, None).await.asking(&what)?;
        if self.object.is_none() {
            return Ok(());
        }
        // The name must be free before the next one takes it.
        let mut changes = berth_client::One::after(api, &there);
        loop {
            let left =
                changes.next().await.map_err(|fault| Failure::new(what.clone()).because(fault))?;
            if left.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(service: Option<&str>, kind: &str, name: &str, more: Value) -> Planned {
        let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        let mut object =
            json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
        for (field, value) in more.as_object().into_iter().flatten() {
            object[field.as_str()] = value.clone();
        }
        Planned { service: service.map(str::to_owned), object }
    }

    fn web(image: &str, replicas: u32) -> Planned {
        let template = json!({ "metadata": {}, "spec": { "containers": [{ "image": image }] } });
        planned(
            Some("web"),
            "Deployment",
            "web",
            json!({ "spec": { "replicas": replicas, "template": template } }),
        )
    }

    fn there(desired: &[Desired]) -> BTreeMap<ObjectKey, Observed> {
        let each = desired.iter().map(|one| {
            let (kind, name) = (text(&one.object, "/kind"), text(&one.object, "/metadata/name"));
            let mut object = one.object.clone();
            if let Some(service) = &one.service {
                object["metadata"]["labels"] = json!({ SERVICE: service });
            }
            let key = ObjectKey { kind: kind.to_owned(), name: name.to_owned() };
            (key, seen(text(&one.object, "/apiVersion"), kind, &object))
        });
        each.collect()
    }

    fn shown(before: Vec<Planned>, after: Vec<Planned>) -> String {
        let observed = there(&desired(before));
        plan("shop", &desired(after), &observed, true).to_string()
    }

    #[test]
    fn a_first_plan_creates_everything() {
        let port = || planned(Some("web"), "Service", "web", json!({}));
        let namespace = || planned(None, "Namespace", "shop", json!({}));
        assert_eq!(
            shown(vec![], vec![namespace(), port(), web("a", 1)]),
            "plan for project shop\n  web  create\n  Namespace shop: create"
        );
    }

    #[test]
    fn a_second_plan_says_what_is_different() {
        assert_eq!(
            shown(vec![web("a", 1)], vec![web("a", 1)]),
            "plan for project shop\n  web  unchanged\n  everything is as it should be"
        );
        assert_eq!(
            shown(vec![web("a", 1)], vec![web("b", 1)]),
            "plan for project shop\n  web  replace"
        );
        assert_eq!(
            shown(vec![web("a", 1)], vec![web("a", 2)]),
            "plan for project shop\n  web  update (update Deployment web)"
        );
        let port = planned(Some("web"), "Service", "web-published", json!({}));
        assert_eq!(
            shown(vec![web("a", 1)], vec![web("a", 1), port]),
            "plan for project shop\n  web  update (create Service web-published)"
        );
    }

    #[test]
    fn what_is_no_longer_wanted_goes_except_volumes() {
        let claim = planned(None, "PersistentVolumeClaim", "data", json!({}));
        let secret = planned(None, "Secret", "key", json!({}));
        assert_eq!(
            shown(vec![web("a", 1), claim, secret], vec![]),
            "plan for project shop\n  web  remove\n  Secret key: remove"
        );
    }
}
