//! `metrics.k8s.io/v1beta1`: what nodes and pods use, made from what the nodes answer when somebody asks.
//!
//! Nothing is kept here. All nodes are asked at once for their `/stats/summary`; one that does not answer in time is left out,
//! and so is what has no rate yet: a figure that is missing is better than one that is made up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_objects::{Object, Resource, Status, Subject};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::output::Form;
use crate::path::Query;
use crate::service::json as respond;
use crate::{Body, NodeService, body, list, peers, pods};

const GROUP: &str = "metrics.k8s.io";
const SUMMARY: &str = "/stats/summary?only_cpu_and_memory=true";
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer of a node: some kilobytes for each of its pods.
const LONGEST: usize = 16 << 20;

/// Whether this module has the answers.
pub(crate) fn answers(resource: &Resource) -> bool {
    resource.group == GROUP
}

/// What a node tells.
#[derive(Debug, Deserialize)]
struct Summary {
    node: Figures,
    #[serde(default)]
    pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct PodRef {
    uid: String,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Deserialize)]
struct Figures {
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_nano_cores: Option<u64>,
    window_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// What is known of one node or container.
struct Use {
    at: Timestamp,
    window: Duration,
    usage: Value,
}

impl Figures {
    /// Nothing, unless both are known.
    fn usage(&self) -> Option<Use> {
        let (cpu, memory) = (self.cpu.as_ref()?, self.memory.as_ref()?);
        let (rate, set) = (cpu.usage_nano_cores?, memory.working_set_bytes?);
        let usage = json!({"cpu": format!("{rate}n"), "memory": format!("{}Ki", set / 1024)});
        Some(Use { at: cpu.time, window: Duration::from_nanos(cpu.window_nano_seconds?), usage })
    }
}

pub(crate) async fn answer(call: &Call) -> Result<Response<Body>, Status> {
    let of_nodes = call.resource().kind == "NodeMetrics";
    let objects = wanted(call, if of_nodes { "nodes" } else { "pods" }).await?;
    let nodes: BTreeSet<String> = objects
        .iter()
        .map(|object| if of_nodes { object.name() } else { object.text(&["spec", "nodeName"]) })
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
        .collect();
    let summaries = ask_all(call, nodes).await;
    let items: Vec<Value> = if of_nodes {
        let item = |object: &Value| {
            let figures = summaries.get(object.name())?.node.usage()?;
            Some(item(call, object, &figures, "usage", figures.usage.clone()))
        };
        objects.iter().filter_map(item).collect()
    } else {
        let pods: BTreeMap<&str, &Pod> = summaries
            .values()
            .flat_map(|summary| &summary.pods)
            .map(|pod| (pod.pod_ref.uid.as_str(), pod))
            .collect();
        objects.iter().filter_map(|object| of_pod(call, object, pods.get(object.uid())?)).collect()
    };
    if call.name.is_empty() {
        let metadata = json!({});
        let list = call.form.list(call.resource(), items, metadata, call.shared.now());
        return Ok(respond(200, &list));
    }
    let item = items.into_iter().next().ok_or_else(|| missing(call))?;
    Ok(call.respond(200, item))
}

/// As a metrics-server says it.
fn missing(call: &Call) -> Status {
    let (plural, name) = match call.namespace.as_str() {
        "" => ("nodemetrics", call.name.clone()),
        namespace => ("podmetrics", format!("{namespace}/{}", call.name)),
    };
    Status::not_found(Subject::new(GROUP, plural, &name))
}

/// The objects that are asked about.
async fn wanted(call: &Call, plural: &str) -> Result<Vec<Value>, Status> {
    let resource = berth_rules::find("", "v1", plural)
        .ok_or_else(|| Status::internal("nodes and pods are not served"))?;
    let (labels, fields) = (call.labels()?, call.fields()?);
    let all = Call {
        handle: resource.into(),
        query: Query::default(),
        form: Form::Whole,
        ..call.beside()
    };
    let all = list::find(&all, 0).await?.items;
    let named = |object: &Value| call.name.is_empty() || object.name() == call.name;
    let is_wanted = |object: &Value| {
        named(object)
            && labels.matches(object.map(&["metadata", "labels"]))
            && fields.matches(object)
    };
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// The summaries of those nodes that answer.
async fn ask_all(call: &Call, nodes: BTreeSet<String>) -> BTreeMap<String, Summary> {
    let mut asked = Vec::new();
    for node in nodes {
        match peers::node(&call.shared, &node).await {
            Ok(Some(service)) => asked.push(ask_in_time(node, service)),
            Ok(None) => {}
            Err(error) => tracing::warn!(node, %error, "cannot find the way to a node"),
        }
    }
    join_all(asked).await.into_iter().flatten().collect()
}

/// Boxed, because the compiler cannot follow the service's type into the callers' futures.
fn ask_in_time(
    node: String,
    service: NodeService,
) -> BoxFuture<'static, Option<(String, Summary)>> {
    let answer = async move {
        match tokio::time::timeout(PATIENCE, ask(service)).await {
            Ok(Ok(summary)) => return Some((node, summary)),
            Ok(Err(error)) => tracing::warn!(node, error, "a node did not say what it uses"),
            Err(_) => tracing::warn!(node, "a node took too long to say what it uses"),
        }
        None
    };
    answer.boxed()
}

/// The errors are texts, because the compiler cannot follow boxed ones through here either.
async fn ask(service: NodeService) -> Result<Summary, String> {
    let request = Request::get(SUMMARY).header(http::header::HOST, "node").body(body::full(""));
    let request = request.map_err(|error| error.to_string())?;
    let response = pods::ask(service, request).await.map_err(|error| error.to_string())?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let (mut body, mut text) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if text.len() > LONGEST {
            return Err("the answer is too long".to_owned());
        }
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

/// A pod of which every container has a rate.
fn of_pod(call: &Call, object: &Value, pod: &Pod) -> Option<Value> {
    let uses: Option<Vec<(&str, Use)>> = pod
        .containers
        .iter()
        .map(|container| Some((container.name.as_str(), container.figures.usage()?)))
        .collect();
    let uses = uses.filter(|uses| !uses.is_empty())?;
    let containers: Vec<Value> =
        uses.iter().map(|(name, used)| json!({"name": name, "usage": used.usage})).collect();
    // The oldest of them, to promise no more than is known.
    let oldest = uses.into_iter().map(|(_, used)| used).min_by_key(|used| used.at)?;
    Some(item(call, object, &oldest, "containers", containers.into()))
}

fn item(call: &Call, object: &Value, used: &Use, field: &str, value: Value) -> Value {
    let mut metadata = json!({
        "name": object.name(),
        "creationTimestamp": berth_objects::time::seconds(call.shared.now()),
    });
    if !object.namespace().is_empty() {
        metadata["namespace"] = object.namespace().into();
    }
    if let Some(labels) = object.at(&["metadata", "labels"]) {
        metadata["labels"] = labels.clone();
    }
    let resource = call.resource();
    json!({
        "kind": resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "timestamp": berth_objects::time::seconds(used.at),
        "window": window(used.window),
        field: value,
    })
}

/// A duration as Go writes it, to the millisecond.
fn window(time: Duration) -> String {
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs() % 60);
    let mut text = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    text.push_str(&seconds.to_string());
    let milliseconds = format!(".{:03}", time.subsec_millis());
    text.push_str(milliseconds.trim_end_matches('0').trim_end_matches('.'));
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_durations_of_go() {
        let text = |millis| window(Duration::from_millis(millis));
        let texts = [5000, 10_250, 60_000, 61_500, 3_600_001].map(text);
        assert_eq!(texts, ["5s", "10.25s", "1m0s", "1m1.5s", "1h0m0.001s"]);
    }

    #[test]
    fn what_has_no_rate_yet_has_no_use() {
        let figures = |cpu: Value| -> Figures {
            serde_json::from_value(json!({"cpu": cpu, "memory": {"workingSetBytes": 4096}}))
                .unwrap()
        };
        let young = json!({"time": "2026-01-01T00:00:00Z", "usageCoreNanoSeconds": 5});
        assert!(figures(young).usage().is_none());
        let known =
            json!({"time": "2026-01-01T00:00:00Z", "usageNanoCores": 7, "windowNanoSeconds": 9});
        assert_eq!(figures(known).usage().unwrap().usage, json!({"cpu": "7n", "memory": "4Ki"}));
    }
}
