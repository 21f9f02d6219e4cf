//! What can only be judged with the whole project in view: references, cycles, ports that collide, names.

use std::collections::{BTreeMap, HashMap, HashSet};

use indexmap::IndexMap;

use crate::model::{Condition, Health, MountSource, NetworkMode, Port, Project, Restart};
use crate::report::{Position, Report};
use crate::source::node::{Node, View, join};
use crate::value::name::{self, suggestion};

/// Checks the project and completes what follows from several services together: dependencies that are switched off,
/// and further names.
pub(crate) fn check(tree: &Node, project: &mut Project, report: &mut Report) {
    let checked = Tree { tree };
    dependencies(&checked, project, report);
    references(&checked, project, report);
    cycles(&checked, project, report);
    published(&checked, project, report);
    object_names(&checked, project, report);
    aliases(&checked, project, report);
    endings(&checked, project, report);
}

struct Tree<'t> {
    tree: &'t Node,
}

impl Tree<'_> {
    /// The closest known position to `services.<service>.<path…>`.
    fn at(&self, service: &str, path: &[&str]) -> (Position, String) {
        let mut node = self.tree;
        let mut name = String::new();
        for step in ["services", service].iter().chain(path) {
            name = join(&name, step);
            if let Some(below) = node.get(step) {
                node = below;
            }
        }
        (node.place().clone(), name)
    }

    fn service_names(&self) -> impl Iterator<Item = &str> {
        let services = self.tree.get("services").and_then(Node::as_mapping);
        services.into_iter().flatten().map(|(name, _)| name.as_str())
    }
}

fn dependencies(tree: &Tree<'_>, project: &mut Project, report: &mut Report) {
    let active: HashSet<String> = project.services.keys().cloned().collect();
    for (key, service) in &mut project.services {
        service.depends_on.retain(|other, dependency| {
            if active.contains(other) || !dependency.required {
                return active.contains(other);
            }
            let (position, path) = tree.at(key, &["depends_on", other]);
            let message = if tree.service_names().any(|name| name == other) {
                format!("`{other}` belongs to a profile that is not active; activate it with `--profile`, or set `required: false`")
            } else {
                let hint = suggestion(other, tree.service_names());
                format!("there is no service `{other}`{hint}")
            };
            report.problem(&position, &path, message);
            false
        });
    }
}

fn references(tree: &Tree<'_>, project: &Project, report: &mut Report) {
    let mut missing = |key: &str, path: &[&str], what: &str, name: &str, known: Vec<&str>| {
        let (position, path) = tree.at(key, path);
        let hint = suggestion(name, known);
        let message = format!(
            "there is no {what} `{name}`{hint}; describe it under `{what}s:` at the top level"
        );
        report.problem(&position, &path, message);
    };
    let known = |section: &str| -> Vec<&str> {
        let entries = tree.tree.get(section).and_then(Node::as_mapping);
        entries.into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    };
    let mut folders = Vec::new();
    for (key, service) in &project.services {
        if let NetworkMode::Networks(names) = &service.network {
            for name in names.iter().filter(|name| !project.networks.contains_key(*name)) {
                missing(key, &["networks", name], "network", name, known("networks"));
            }
        }
        for mount in &service.mounts {
            if let MountSource::Volume { volume, .. } = &mount.source
                && !project.volumes.contains_key(volume)
            {
                missing(key, &["volumes"], "volume", volume, known("volumes"));
                if volume.contains('/') {
                    let (position, path) = tree.at(key, &["volumes"]);
                    let message = format!("if `{volume}` is a folder, write `./{volume}`");
                    folders.push((position, path, message));
                }
            }
        }
        for mount in service.secrets.iter().filter(|m| !project.secrets.contains_key(&m.source)) {
            missing(key, &["secrets"], "secret", &mount.source, known("secrets"));
        }
        for mount in service.configs.iter().filter(|m| !project.configs.contains_key(&m.source)) {
            missing(key, &["configs"], "config", &mount.source, known("configs"));
        }
    }
    for (position, path, message) in folders {
        report.problem(&position, &path, message);
    }
}

fn cycles(tree: &Tree<'_>, project: &Project, report: &mut Report) {
    let mut done: HashSet<&str> = HashSet::new();
    for start in project.services.keys() {
        // Depth first, with the way back in hand so that the whole cycle can be named.
        let mut trail: Vec<&str> = Vec::new();
        let mut stack: Vec<(&str, bool)> = vec![(start, false)];
        while let Some((key, leaving)) = stack.pop() {
            if leaving {
                trail.pop();
                done.insert(key);
                continue;
            }
            if let Some(from) = trail.iter().position(|seen| *seen == key) {
                let last = trail.last().copied().unwrap_or(key);
                let (position, path) = tree.at(last, &["depends_on", key]);
                let names = trail[from..].join(" → ");
                let message = format!(
                    "services wait for each other: {names} → {key}; remove one of the dependencies"
                );
                report.problem(&position, &path, message);
                continue;
            }
            if done.contains(key) {
                continue;
            }
            trail.push(key);
            stack.push((key, true));
            if let Some(service) = project.services.get(key) {
                stack.extend(service.depends_on.keys().rev().map(|other| (other.as_str(), false)));
            }
        }
    }
}

fn published(tree: &Tree<'_>, project: &Project, report: &mut Report) {
    let mut seen: HashMap<(u16, crate::model::Protocol), Vec<(&str, &Port)>> = HashMap::new();
    for (key, service) in &project.services {
        for port in &service.ports {
            let Some(published) = port.published else { continue };
            let others = seen.entry((published, port.protocol)).or_default();
            let clash = others.iter().find(|(_, other)| {
                other.address.is_none() || port.address.is_none() || other.address == port.address
            });
            if let Some((other, first)) = clash {
                if *other == key && first.target == port.target {
                    report.note(
                        &port.position,
                        &join("services", key),
                        format!(
                            "publishes port {published}/{} twice; once is enough",
                            port.protocol
                        ),
                    );
                } else {
                    let message = format!(
                        "port {published}/{} is published by `{other}` as well (line {}); choose another one",
                        port.protocol, first.position.line
                    );
                    report.problem(&port.position, &format!("services.{key}.ports"), message);
                }
            }
            others.push((key, port));
        }
    }
    for (key, service) in &project.services {
        if service.network == NetworkMode::None && !service.ports.is_empty() {
            let (position, path) = tree.at(key, &["ports"]);
            report.problem(
                &position,
                &path,
                "cannot be published with `network_mode: none`; remove one of them",
            );
        }
    }
}

/// Two keys must not become one name.
fn object_names(tree: &Tree<'_>, project: &Project, report: &mut Report) {
    let mut check = |section: &str, names: Vec<(&String, &String)>| {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, object_name) in names {
            if let Some(other) = seen.insert(object_name, key) {
                let path = join(section, key);
                let node = tree.tree.get(section).and_then(|section| section.get(key));
                let position = node.unwrap_or(tree.tree).place();
                let message = format!(
                    "`{key}` and `{other}` are both called `{object_name}` in the cluster; rename one"
                );
                report.problem(position, &path, message);
            }
        }
    };
    check("services", pairs(&project.services, |service| &service.object_name));
    check("networks", pairs(&project.networks, |network| &network.object_name));
    check("secrets", pairs(&project.secrets, |secret| &secret.object_name));
    check("configs", pairs(&project.configs, |config| &config.object_name));
    let own: IndexMap<_, _> =
        project.volumes.iter().filter(|(_, volume)| !volume.external).collect();
    check("volumes", own.iter().map(|(key, volume)| (*key, &volume.object_name)).collect());
}

fn pairs<T>(map: &IndexMap<String, T>, name: impl Fn(&T) -> &String) -> Vec<(&String, &String)> {
    map.iter().map(|(key, value)| (key, name(value))).collect()
}

/// Names beside its own by which a service is reached. A name in a cluster belongs to one service.
fn aliases(tree: &Tree<'_>, project: &mut Project, report: &mut Report) {
    let mut taken: HashMap<String, String> = project
        .services
        .iter()
        .map(|(key, service)| (service.object_name.clone(), key.clone()))
        .collect();
    let mut found: IndexMap<String, Vec<String>> = IndexMap::new();
    for (key, service) in &project.services {
        for (owner, alias, position, path) in
            wanted_names(tree, key, service.hostname.as_deref(), report)
        {
            let Some(target) = project.services.get(&owner) else {
                let hint = suggestion(&owner, tree.service_names());
                report.problem(&position, &path, format!("there is no service `{owner}`{hint}"));
                continue;
            };
            if alias == target.object_name || alias == owner {
                continue;
            }
            if !name::is_service(&alias) {
                let message = format!(
                    "`{alias}` cannot be a name in the cluster and has no effect: use lower-case letters, digits and `-`"
                );
                report.warn(&position, &path, message);
                continue;
            }
            match taken.get(&alias) {
                Some(other) if *other == owner => {}
                Some(other) => {
                    let message = format!(
                        "the name `{alias}` already leads to `{other}` and has no effect here"
                    );
                    report.warn(&position, &path, message);
                }
                None => {
                    taken.insert(alias.clone(), owner.clone());
                    found.entry(owner).or_default().push(alias);
                }
            }
        }
    }
    for (owner, names) in found {
        if let Some(service) = project.services.get_mut(&owner) {
            service.aliases = names;
        }
    }
}

/// Who is to get which name, and where that is written.
fn wanted_names(
    tree: &Tree<'_>,
    key: &str,
    hostname: Option<&str>,
    report: &mut Report,
) -> Vec<(String, String, Position, String)> {
    let mut wanted = Vec::new();
    let root = View::new(tree.tree, "");
    let Some(service) = root.get("services").and_then(|services| services.get(key)) else {
        return wanted;
    };
    let mut add = |owner: &str, alias: &str, view: &View<'_>| {
        let position = view.node.position.clone();
        wanted.push((owner.to_owned(), alias.to_owned(), position, view.path.clone()));
    };
    if let Some(view) = service.get("container_name")
        && let Some(name) = view.text(report)
    {
        add(key, &name, &view);
    }
    if let (Some(view), Some(hostname)) = (service.get("hostname"), hostname) {
        add(key, hostname, &view);
    }
    for (_, network) in service.get("networks").map(|view| view.entries(report)).unwrap_or_default()
    {
        if let Some(view) = network.get("aliases") {
            for alias in view.texts(report) {
                add(key, &alias, &view);
            }
        }
    }
    if let Some(view) = service.get("links") {
        for link in view.texts(report) {
            let (owner, alias) = link.split_once(':').unwrap_or((&link, &link));
            add(owner, alias, &view);
        }
    }
    wanted
}

/// What follows from how services end and how they are waited for.
fn endings(tree: &Tree<'_>, project: &Project, report: &mut Report) {
    for (key, service) in &project.services {
        let once = project.runs_once(key);
        if once && service.restart == Restart::Always {
            let (position, path) = tree.at(key, &["restart"]);
            report.warn(&position, &path, "is taken as `on-failure`, because another service waits for the successful end of this one");
        }
        if once && service.replicas > 1 {
            let (position, path) = tree.at(key, &[]);
            report.warn(
                &position,
                &path,
                "runs as one copy, because another service waits for its end",
            );
        }
        if !once && matches!(service.restart, Restart::No | Restart::OnFailure) {
            let (position, path) = tree.at(key, &["restart"]);
            report.note(&position, &path, "has no effect: a service is started again whenever it ends; one that another service waits for with `service_completed_successfully` runs once");
        }
        for (other, dependency) in &service.depends_on {
            let disabled = project
                .services
                .get(other)
                .is_some_and(|other| other.health == Some(Health::Disabled));
            if dependency.condition == Condition::Healthy && disabled {
                let (position, path) = tree.at(key, &["depends_on", other]);
                report.problem(&position, &path, format!("waits for `{other}` to be healthy, whose health check is disabled; use `service_started`"));
            }
        }
    }
}
