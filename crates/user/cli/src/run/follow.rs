//! From a created pod to the exit code of its process.

use berth_client::One;
use futures::AsyncReadExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};

use super::{NOT_DONE, RunArguments};
use crate::cluster::{self, STOP};
use crate::exec;
use crate::failure::{Asking, Doing, Failure};
use crate::{screen, stream, words};

const CHUNK: usize = 32 << 10;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// As a shell sees it.
    pub code: u8,
    /// Why it could not even be started.
    pub not_started: Option<String>,
}

/// Where a container stands.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Coming,
    Runs,
    Ended(Ended),
    /// It will not start by waiting.
    Stuck(String),
}

fn stage(pod: &Pod) -> Stage {
    if let Some((reason, message)) = words::obstacle(pod) {
        return Stage::Stuck(if message.is_empty() {
            reason.to_owned()
        } else {
            message.to_owned()
        });
    }
    let state = words::container(pod).and_then(|status| status.state.clone()).unwrap_or_default();
    if let Some(terminated) = &state.terminated {
        return Stage::Ended(ended_state(terminated));
    }
    if state.running.is_some() {
        return Stage::Runs;
    }
    let status = pod.status.as_ref();
    match (words::phase(pod), status.and_then(|status| status.message.clone())) {
        ("Failed", message) => {
            Stage::Stuck(message.unwrap_or_else(|| "the node refused the pod".to_owned()))
        }
        _ => Stage::Coming,
    }
}

fn ended_state(terminated: &ContainerStateTerminated) -> Ended {
    let message = terminated.message.clone().unwrap_or_default();
    let refused = matches!(terminated.reason.as_deref(), Some("StartError" | "ContainerCannotRun"));
    let code = match terminated.exit_code {
        // What a runtime says when it could not start the process; the words say more.
        128 if refused => exec::start_error(&message),
        code => u8::try_from(code & 0xff).unwrap_or(NOT_DONE),
    };
    Ended { code, not_started: refused.then_some(message) }
}

/// Waits until a pod has ended; none if it was removed.
pub async fn ended(api: &Api<Pod>, pod: Pod) -> Result<Option<Ended>, Failure> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut changes = One::after(api.clone(), &pod);
    let mut now = Some(pod);
    while let Some(pod) = now {
        if let Stage::Ended(ended) = stage(&pod) {
            return Ok(Some(ended));
        }
        now = changes.next().await.doing(format!("cannot watch `{name}`"))?;
    }
    Ok(None)
}

/// Waits until the process runs or has run.
pub async fn begun(client: &Client, pod: Pod) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), super::NAMESPACE);
    let mut watch = Watch::new(api, pod);
    match watch.begun().await? {
        Stage::Ended(ended) => refusal(&watch.name, ended).map(drop),
        Stage::Stuck(why) => Err(watch.stuck(&why)),
        Stage::Runs | Stage::Coming => Ok(()),
    }
}

/// The exit code, or the error of a process that was never started.
fn refusal(name: &str, ended: Ended) -> Result<u8, Failure> {
    match ended.not_started {
        None => Ok(ended.code),
        Some(message) => Err(Failure::new(format!("cannot start `{name}`"))
            .because(message)
            .hint("check the command, and the entry point of the image with `berth image inspect`")
            .exit(ended.code)),
    }
}

/// A pod and what happens to it.
struct Watch {
    api: Api<Pod>,
    changes: One<Pod>,
    pod: Pod,
    name: String,
}

impl Watch {
    fn new(api: Api<Pod>, pod: Pod) -> Self {
        let name = pod.metadata.name.clone().unwrap_or_default();
        Self { changes: One::after(api.clone(), &pod), api, pod, name }
    }

    async fn next(&mut self) -> Result<(), Failure> {
        let next = self.changes.next().await.doing(format!("cannot watch `{}`", self.name))?;
        self.pod =
            next.ok_or_else(|| Failure::new(format!("container `{}` was removed", self.name)))?;
        Ok(())
    }

    async fn begun(&mut self) -> Result<Stage, Failure> {
        loop {
            match stage(&self.pod) {
                Stage::Coming => self.next().await?,
                reached => return Ok(reached),
            }
        }
    }

    fn stuck(&self, why: &str) -> Failure {
        Failure::new(format!("cannot start `{}`", self.name))
            .because(why.to_owned())
            .hint(format!("`berth rm -f {}` removes it", self.name))
            .exit(NOT_DONE)
    }

    fn restarts(&self) -> i32 {
        words::restarts(&self.pod)
    }

    /// Waits for the end of this run: the pod's end, or a restart, after which there is another run.
    async fn run_ended(&mut self, run: i32) -> Result<Option<Ended>, Failure> {
        loop {
            if words::finished(&self.pod)
                && let Stage::Ended(ended) = stage(&self.pod)
            {
                return Ok(Some(ended));
            }
            if self.restarts() > run {
                return Ok(None);
            }
            self.next().await?;
        }
    }
}

/// Shows the output and sends the input until the end; returns the exit code.
pub async fn foreground(
    client: &Client,
    pod: Pod,
    arguments: &RunArguments,
) -> Result<u8, Failure> {
    let signals = tokio::spawn(pass_signals(client.clone(), pod.clone()));
    let outcome = until_the_end(client, pod, arguments).await;
    signals.abort();
    outcome
}

async fn until_the_end(client: &Client, pod: Pod, arguments: &RunArguments) -> Result<u8, Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), super::NAMESPACE);
    let mut watch = Watch::new(api, pod);
    let mut input_sent = false;
    loop {
        match watch.begun().await? {
            Stage::Stuck(why) => return Err(watch.stuck(&why)),
            Stage::Ended(ended) if ended.not_started.is_some() => {
                return refusal(&watch.name, ended);
            }
            // A process that ended before anyone could connect to it has left its output in the log.
            Stage::Ended(_) => show_log(client, &watch.name).await?,
            Stage::Runs | Stage::Coming if arguments.tty => {
                let params = exec::parameters(None, arguments.interactive, true);
                let attached = watch.api.attach(&watch.name, &params).await;
                stream::join(attached.asking(format!("cannot attach to `{}`", watch.name))?)
                    .await?;
            }
            Stage::Runs | Stage::Coming => {
                if arguments.interactive && !input_sent {
                    input_sent = true;
                    send_input(&watch.api, &watch.name).await?;
                }
                show_log(client, &watch.name).await?;
            }
        }
        let run = watch.restarts();
        match watch.run_ended(run).await? {
            Some(ended) => return refusal(&watch.name, ended),
            None => continue,
        }
    }
}

/// Prints the log to the end of the container, each stream where it belongs. The log is complete where an attachment would
/// begin too late.
async fn show_log(client: &Client, name: &str) -> Result<(), Failure> {
    let both = tokio::join!(
        show_stream(client, name, "Stdout", screen::output),
        show_stream(client, name, "Stderr", screen::error_output)
    );
    both.0.and(both.1)
}

async fn show_stream(
    client: &Client,
    name: &str,
    stream: &str,
    print: fn(&[u8]) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let what = || format!("cannot read the output of `{name}`");
    let namespace = super::NAMESPACE;
    let path =
        format!("/api/v1/namespaces/{namespace}/pods/{name}/log?follow=true&stream={stream}");
    let request = http::Request::get(path).body(Vec::new()).doing(what())?;
    let mut log = Box::pin(client.request_stream(request).await.asking(what())?);
    let mut buffer = vec![0; CHUNK];
    loop {
        let length =
            log.read(&mut buffer).await.doing(format!("the output of `{name}` broke off"))?;
        if length == 0 || print(&buffer[..length]).is_err() {
            return Ok(());
        }
    }
}

/// Sends standard input in the background; the output comes from the log.
async fn send_input(api: &Api<Pod>, name: &str) -> Result<(), Failure> {
    let params =
        AttachParams { stdin: true, stdout: false, stderr: false, ..AttachParams::default() };
    let mut process =
        api.attach(name, &params).await.asking(format!("cannot send input to `{name}`"))?;
    if let Some(input) = process.stdin() {
        tokio::spawn(async move {
            stream::send_input(input).await;
            // The connection must outlive the input, or its end would not be told.
            if let Err(error) = process.join().await {
                tracing::debug!(%error, "the input's connection ended");
            }
        });
    }
    Ok(())
}

/// The first signal asks the container to stop; the second one kills it.
async fn pass_signals(client: Client, pod: Pod) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut asked = false;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let outcome = if asked {
            let Some(kind) = cluster::kind("v1", "Pod") else { return };
            cluster::delete(&kind.api(&client, super::NAMESPACE), &name, Some(0)).await
        } else {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            cluster::annotate(&client, &pod, STOP, &now).await
        };
        asked = true;
        if let Err(error) = outcome {
            screen::note(format!("cannot stop `{name}`: {}", berth_client::Fault::from(error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(phase: &str, state: Value) -> Stage {
        let pod = json!({ "status": { "phase": phase, "containerStatuses": [{ "name": "main", "image": "",
            "imageID": "", "ready": false, "restartCount": 0, "state": state }] } });
        stage(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn ends_have_docker_s_exit_codes() {
        let code = |terminated: Value| match of("Failed", json!({ "terminated": terminated })) {
            Stage::Ended(ended) => (ended.code, ended.not_started.is_some()),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(json!({ "exitCode": 3, "reason": "Error" })), (3, false));
        assert_eq!(code(json!({ "exitCode": 137, "signal": 9 })), (137, false));
        assert_eq!(
            code(json!({ "exitCode": 127, "reason": "StartError", "message": "no" })),
            (127, true)
        );
        let vague =
            json!({ "exitCode": 128, "reason": "StartError", "message": "x: Permission denied" });
        assert_eq!(code(vague), (126, true));
    }

    #[test]
    fn a_container_without_image_is_stuck() {
        let waiting =
            json!({ "waiting": { "reason": "ErrImagePull", "message": "no such image" } });
        assert_eq!(of("Pending", waiting), Stage::Stuck("no such image".to_owned()));
        assert_eq!(
            of("Pending", json!({ "waiting": { "reason": "ContainerCreating" } })),
            Stage::Coming
        );
        assert_eq!(of("Running", json!({ "running": {} })), Stage::Runs);
    }
}
