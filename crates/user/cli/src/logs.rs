//! `berth logs`: what containers write, over their restarts and replacements.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use berth_client::Follow;
use clap::Args;
use futures::{AsyncBufRead, AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::arguments::{ProjectFlag, duration};
use crate::failure::{Asking, Doing, Failure};
use crate::locate::{self, Located};
use crate::session::Session;
use crate::{screen, words};

/// Flags of `berth logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Go on with what is written from now on, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines: a number, or `all`
    #[arg(short = 'n', long, default_value = "all", value_name = "NUMBER", value_parser = tail)]
    pub tail: Tail,
    /// Only what was written within this time, as `10m`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    #[command(flatten)]
    pub project: ProjectFlag,
    /// Services, pods or containers
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// How many lines from the end; none for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(Option<u32>);

fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail(None));
    }
    let number = text.parse().map_err(|_| "write a number of lines, or `all`".to_owned())?;
    Ok(Tail(Some(number)))
}

/// One run of one container; after a restart it is another one.
type Instance = (String, String, i32);

/// Prints logs.
pub async fn logs(arguments: LogsArguments, data: &Path) -> Result<u8, Failure> {
    let session = Session::join(data).await?;
    let mut located = Vec::new();
    for name in &arguments.names {
        located
            .push(locate::pods(&session.client, name, arguments.project.project.as_deref()).await?);
    }
    let mut all = located.iter().flat_map(|located| &located.pods).flat_map(instances).count();
    if arguments.follow {
        // More pods may come, except for a name that is one pod.
        all += located.iter().filter(|located| located.service.is_some()).count();
    }
    let prefixed = all > 1 || arguments.names.len() > 1;
    if arguments.follow {
        return follow(&session.client, located, &arguments, prefixed).await;
    }
    let mut any = false;
    for pod in located.iter().flat_map(|located| located.pods.iter().rev()) {
        for instance in instances(pod) {
            any = true;
            print(&session.client, pod, &instance, &parameters(&arguments, false), prefixed)
                .await?;
        }
    }
    if !any {
        screen::note(format!(
            "`{}` has not started yet, so there is no log",
            arguments.names.join("`, `")
        ));
    }
    Ok(0)
}

/// The containers of a pod that have run.
fn instances(pod: &Pod) -> Vec<Instance> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let begun = statuses.into_iter().flatten().filter(|status| {
        let state = status.state.clone().unwrap_or_default();
        state.running.is_some() || state.terminated.is_some() || status.restart_count > 0
    });
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    begun.map(|status| (uid.clone(), status.name.clone(), status.restart_count)).collect()
}

fn parameters(arguments: &LogsArguments, again: bool) -> LogParams {
    let seconds =
        arguments.since.map(|since| i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX));
    LogParams {
        follow: arguments.follow,
        timestamps: arguments.timestamps,
        // A later run of a container is shown from its beginning.
        tail_lines: arguments.tail.0.filter(|_| !again).map(i64::from),
        since_seconds: seconds.filter(|_| !again),
        ..LogParams::default()
    }
}

async fn open(
    client: &Client,
    pod: &Pod,
    instance: &Instance,
    params: &LogParams,
) -> Result<impl AsyncBufRead + use<>, Failure> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = LogParams { container: Some(instance.1.clone()), ..params.clone() };
    api.log_stream(name, &params).await.asking(format!("cannot read the log of `{name}`"))
}

fn prefix(pod: &Pod, prefixed: bool) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if prefixed { format!("{name} | ") } else { String::new() }
}

async fn print(
    client: &Client,
    pod: &Pod,
    instance: &Instance,
    params: &LogParams,
    prefixed: bool,
) -> Result<(), Failure> {
    let prefix = prefix(pod, prefixed);
    let mut lines = open(client, pod, instance, params).await?.lines();
    while let Some(line) = lines.try_next().await.doing("the log broke off")? {
        if screen::output(format!("{prefix}{line}\n").as_bytes()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Follows every pod that a name gives, each in a task of its own; one place prints whole lines.
async fn follow(
    client: &Client,
    located: Vec<Located>,
    arguments: &LogsArguments,
    prefixed: bool,
) -> Result<u8, Failure> {
    let (sender, mut lines) = mpsc::channel::<String>(256);
    let mut watches = tokio::task::JoinSet::new();
    for one in located {
        let (client, sender) = (client.clone(), sender.clone());
        let (first, later) = (parameters(arguments, false), parameters(arguments, true));
        watches.spawn(follow_one(client, one, first, later, prefixed, sender));
    }
    drop(sender);
    while let Some(line) = lines.recv().await {
        if screen::output(line.as_bytes()).is_err() {
            return Ok(0);
        }
    }
    while let Some(outcome) = watches.join_next().await {
        outcome.doing("following a log ended early")??;
    }
    Ok(0)
}

async fn follow_one(
    client: Client,
    located: Located,
    first: LogParams,
    later: LogParams,
    prefixed: bool,
    sender: mpsc::Sender<String>,
) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &located.namespace);
    let mut pods = Follow::new(api, located.selection());
    let mut seen: HashSet<Instance> = HashSet::new();
    let mut known: HashSet<String> =
        located.pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        pods.changed().await.doing("cannot watch the pods")?;
        let mut live = located.service.is_some();
        for pod in pods.all() {
            live |= !words::finished(pod);
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            for instance in instances(pod) {
                if !seen.insert(instance.clone()) {
                    continue;
                }
                let params = if known.contains(&uid) { first.clone() } else { later.clone() };
                tasks.spawn(forward(
                    client.clone(),
                    pod.clone(),
                    instance,
                    params,
                    prefixed,
                    sender.clone(),
                ));
            }
            if seen.iter().any(|(of, _, _)| *of == uid) {
                // What this pod starts from now on is new.
                known.remove(&uid);
            }
        }
        if !live {
            while let Some(outcome) = tasks.join_next().await {
                outcome.doing("following a log ended early")?;
            }
            return Ok(());
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn forward(
    client: Client,
    pod: Pod,
    instance: Instance,
    params: LogParams,
    prefixed: bool,
    to: mpsc::Sender<String>,
) {
    let prefix = prefix(&pod, prefixed);
    let mut lines = match open(&client, &pod, &instance, &params).await {
        Ok(lines) => lines.lines(),
        Err(failure) => {
            tracing::warn!(error = %failure, "a log cannot be followed");
            return;
        }
    };
    // The end of the stream is the end of the container; the watch tells what comes after.
    while let Ok(Some(line)) = lines.try_next().await {
        if to.send(format!("{prefix}{line}\n")).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(tail("all"), Ok(Tail(None)));
        assert_eq!(tail("5"), Ok(Tail(Some(5))));
        assert!(tail("-1").is_err());
    }

    #[test]
    fn each_run_of_a_container_is_an_instance() {
        let status = |count: i32, state: serde_json::Value| json!({ "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": count, "state": state });
        let pod: Pod = serde_json::from_value(
            json!({ "metadata": { "uid": "u" }, "status": { "containerStatuses": [
            status(2, json!({ "running": {} })), status(0, json!({ "waiting": {} })) ] } }),
        )
        .unwrap();
        assert_eq!(instances(&pod), [("u".to_owned(), "a".to_owned(), 2)]);
    }
}
