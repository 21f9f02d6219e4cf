//! Probes: is a container up, ready, alive?

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc;

use crate::command::{self, Target};
use crate::http::{Get, grpc_health};
use crate::lookup;

/// What servers see of who asks.
const AGENT: &str = "kube-probe/1.35";

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Until it passes once, the others wait.
    Startup,
    /// Whether traffic goes to the container.
    Readiness,
    /// Whether the container must be started again.
    Liveness,
}

impl fmt::Display for Kind {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        })
    }
}

/// What a container's probes found. Sent when a verdict is reached, and for each failure on the way, for the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Instance it is about.
    pub instance: String,
    /// Which probe.
    pub kind: Kind,
    /// The verdict, once the threshold is reached.
    pub verdict: Option<bool>,
    /// The last answer.
    pub answer: String,
}

/// Runs a container's probes until dropped or the receiver is gone.
pub async fn watch(container: Container, target: Target, findings: mpsc::Sender<Finding>) {
    if let Some(probe) = &container.startup_probe {
        let passed = observe(&container, &target, probe, Kind::Startup, &findings, true).await;
        if passed != Some(true) {
            return;
        }
    }
    let readiness = async {
        if let Some(probe) = &container.readiness_probe {
            observe(&container, &target, probe, Kind::Readiness, &findings, false).await;
        }
    };
    let liveness = async {
        if let Some(probe) = &container.liveness_probe {
            observe(&container, &target, probe, Kind::Liveness, &findings, false).await;
        }
    };
    tokio::join!(readiness, liveness);
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

/// Asks again and again. With `once` it returns at the first verdict.
async fn observe(
    container: &Container,
    target: &Target,
    probe: &Probe,
    kind: Kind,
    findings: &mpsc::Sender<Finding>,
    once: bool,
) -> Option<bool> {
    let needed =
        |value: Option<i32>, default| u32::try_from(value.unwrap_or(default)).unwrap_or(1).max(1);
    let (successes, failures) =
        (needed(probe.success_threshold, 1), needed(probe.failure_threshold, 3));
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut rhythm = tokio::time::interval(period);
    rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut good, mut bad, mut last) = (0, 0, None);
    loop {
        rhythm.tick().await;
        let outcome = ask(container, target, probe, timeout).await;
        let answer = match outcome {
            Ok(()) => {
                (good, bad) = (good + 1, 0);
                String::new()
            }
            Err(answer) => {
                (good, bad) = (0, bad + 1);
                answer
            }
        };
        let verdict = match (good >= successes, bad >= failures) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            (false, false) => None,
        };
        let news = verdict.is_some() && verdict != last;
        if news || !answer.is_empty() {
            let finding = Finding {
                instance: target.instance.clone(),
                kind,
                verdict: verdict.filter(|_| news),
                answer,
            };
            if findings.send(finding).await.is_err() {
                return None;
            }
        }
        if let Some(verdict) = verdict {
            last = Some(verdict);
            if once {
                return last;
            }
        }
    }
}

/// One attempt; the error is what to tell people.
async fn ask(
    container: &Container,
    target: &Target,
    probe: &Probe,
    timeout: Duration,
) -> Result<(), String> {
    let attempt = async {
        if let Some(exec) = &probe.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            match command::run(target, command, None).await? {
                (0, _) => Ok(()),
                (code, output) => Err(format!("exit code {code}: {}", output.trim())),
            }
        } else if let Some(http) = &probe.http_get {
            let port = port(container, &http.port)?;
            let get = Get::new(http, &target.address, port, AGENT)?;
            let answer = get.ask().await.map_err(|error| error.to_string())?;
            // A redirect that leads elsewhere is as good as an answer.
            if (200..400).contains(&answer.status.as_u16()) {
                return Ok(());
            }
            let (code, body) = (answer.status.as_u16(), answer.body.trim());
            Err(format!("HTTP probe failed with statuscode: {code}{}", quoted(body)))
        } else if let Some(tcp) = &probe.tcp_socket {
            let port = port(container, &tcp.port)?;
            let host = tcp.host.clone().unwrap_or_else(|| target.address.clone());
            let connected = lookup::connect(&host, port).await;
            connected.map(drop).map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
        } else if let Some(grpc) = &probe.grpc {
            let port =
                u16::try_from(grpc.port).map_err(|_| format!("{} is not a port", grpc.port))?;
            let service = grpc.service.as_deref().unwrap_or_default();
            grpc_health(&target.address, port, service, AGENT).await
        } else {
            Err("the probe says neither exec, httpGet, tcpSocket nor grpc".to_owned())
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
    }
}

/// The number of a port that may be given by its name.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).map_err(|_| format!("{number} is not a port"))
        }
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("the container has no port named `{name}`")),
    }
}

/// The beginning of an answer's body, for people.
fn quoted(body: &str) -> String {
    let short: String = body.chars().take(200).collect();
    if short.is_empty() { short } else { format!(": {short}") }
}
