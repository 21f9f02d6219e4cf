//! `berth ps`: containers, their state in docker's words, and where they can be reached.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde::Serialize;

use crate::arguments::ProjectFlag;
use crate::cluster::{self, PROJECT, SERVICE};
use crate::failure::{Doing, Failure};
use crate::session::Session;
use crate::table::table;
use crate::{input, screen, words};

/// Flags of `berth ps`.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// Those that have ended, too
    #[arg(short, long)]
    pub all: bool,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub project: ProjectFlag,
}

/// One line.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    project: String,
    service: String,
    image: String,
    status: String,
    restarts: i32,
    ports: Vec<String>,
    age: String,
}

/// Lists containers.
pub async fn ps(arguments: PsArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    let project = arguments.project.project.or_else(input::project_here);
    let namespace = project.as_deref();
    let (pods, services) = tokio::try_join!(
        cluster::list::<Pod>(&session.client, namespace, ""),
        cluster::list::<Service>(&session.client, namespace, ""),
    )?;
    let shown = pods.iter().filter(|pod| arguments.all || !words::finished(pod));
    let now = Timestamp::now();
    let mut rows: Vec<Row> = shown.map(|pod| row(pod, &services, now)).collect();
    rows.sort_by(|one, other| {
        (&one.project, &one.service, &one.name).cmp(&(&other.project, &other.service, &other.name))
    });
    if arguments.json {
        screen::line(serde_json::to_string_pretty(&rows).doing("cannot write JSON")?);
    } else {
        screen::line(text(&rows, project.is_none()));
        let hidden = pods.len() - rows.len();
        if hidden > 0 {
            screen::note(format!("{hidden} more have ended; `berth ps -a` lists them too"));
        }
    }
    Ok(0)
}

fn row(pod: &Pod, services: &[Service], now: Timestamp) -> Row {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let label = |name: &str| labels.get(name).cloned();
    let created = pod.metadata.creation_timestamp.as_ref();
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let image = container.and_then(|container| container.image.clone()).unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    Row {
        name: pod.metadata.name.clone().unwrap_or_default(),
        project: label(PROJECT).unwrap_or(namespace),
        service: label(SERVICE).unwrap_or_else(|| "-".to_owned()),
        image,
        status: words::status(pod),
        restarts: words::restarts(pod),
        ports: ports(pod, &labels, services),
        age: created.map(|created| berth_objects::time::age(created.0, now)).unwrap_or_default(),
    }
}

/// Where the pod's Services are reached from outside: `127.0.0.1:8080->80/tcp`.
fn ports(pod: &Pod, labels: &BTreeMap<String, String>, services: &[Service]) -> Vec<String> {
    let mut shown = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let selector = spec.selector.clone().unwrap_or_default();
        let selects = !selector.is_empty()
            && service.metadata.namespace == pod.metadata.namespace
            && selector.iter().all(|(name, value)| labels.get(name) == Some(value));
        if !selects {
            continue;
        }
        let annotations = service.metadata.annotations.as_ref();
        let address = annotations.and_then(|all| all.get("berth.dev/listen-address"));
        let address = address.map_or("0.0.0.0", String::as_str);
        for port in spec.ports.iter().flatten() {
            let outside = match spec.type_.as_deref() {
                Some("LoadBalancer") => Some(port.port),
                Some("NodePort") => port.node_port,
                _ => None,
            };
            let Some(outside) = outside else { continue };
            let inside = match &port.target_port {
                Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(inside)) => {
                    inside.to_string()
                }
                Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(name)) => {
                    name.clone()
                }
                None => port.port.to_string(),
            };
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            shown.push(format!("{address}:{outside}->{inside}/{protocol}"));
        }
    }
    shown
}

fn text(rows: &[Row], with_project: bool) -> String {
    let mut headings = vec!["NAME", "SERVICE", "IMAGE", "STATUS", "RESTARTS", "PORTS", "AGE"];
    if with_project {
        headings.insert(1, "PROJECT");
    }
    let cells = |row: &Row| {
        let mut cells = vec![
            row.name.clone(),
            row.service.clone(),
            row.image.clone(),
            row.status.clone(),
            row.restarts.to_string(),
            row.ports.join(", "),
            row.age.clone(),
        ];
        if with_project {
            cells.insert(1, row.project.clone());
        }
        cells
    };
    table(&headings, &rows.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_shows_state_and_ports() {
        let labels = json!({ PROJECT: "votes", SERVICE: "vote" });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "vote-1", "namespace": "votes", "labels": labels,
                "creationTimestamp": "1970-01-01T00:00:00Z" },
            "spec": { "containers": [{ "name": "vote", "image": "votes-vote:latest" }] },
            "status": { "phase": "Running", "containerStatuses": [{ "name": "vote", "image": "", "imageID": "",
                "ready": true, "restartCount": 1, "state": { "running": {} } }] },
        }))
        .unwrap();
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": "vote-published", "namespace": "votes",
                "annotations": { "berth.dev/listen-address": "127.0.0.1" } },
            "spec": { "type": "LoadBalancer", "selector": { SERVICE: "vote" },
                "ports": [{ "port": 8080, "targetPort": 80, "protocol": "TCP" }] },
        }))
        .unwrap();
        let row = row(&pod, &[service], Timestamp::from_second(90).unwrap());
        let shown = text(&[row], true);
        let words: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[0],
            ["NAME", "PROJECT", "SERVICE", "IMAGE", "STATUS", "RESTARTS", "PORTS", "AGE"]
        );
        assert_eq!(
            words[1],
            [
                "vote-1",
                "votes",
                "vote",
                "votes-vote:latest",
                "running",
                "1",
                "127.0.0.1:8080->80/tcp",
                "90s"
            ]
        );
    }
}
