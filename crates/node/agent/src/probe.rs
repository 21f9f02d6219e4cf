//! Probes: is a container up, ready, alive?

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use berth_shim::Shim;
use berth_shim::protocol::{Exec, Filter};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use oci_spec::runtime::Spec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

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

/// What probes need to reach the container.
#[derive(Debug, Clone)]
pub struct Target {
    /// The pod's shim.
    pub shim: Shim,
    /// The container's instance.
    pub instance: String,
    /// Its configuration, for commands.
    pub spec: Spec,
    /// User by name.
    pub user: Option<String>,
    /// Filter.
    pub filter: Filter,
    /// The pod's address.
    pub address: String,
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
            run(target, exec.command.clone().unwrap_or_default(), timeout).await
        } else if let Some(http) = &probe.http_get {
            let port = port(container, &http.port)?;
            let host = http.host.clone().unwrap_or_else(|| target.address.clone());
            if http.scheme.as_deref() == Some("HTTPS") {
                return Err("HTTPS probes are not supported yet".to_owned());
            }
            let headers: Vec<(String, String)> = http
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect();
            get(&host, port, http.path.as_deref().unwrap_or("/"), &headers).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let port = port(container, &tcp.port)?;
            let host = tcp.host.clone().unwrap_or_else(|| target.address.clone());
            let connected = TcpStream::connect((host.as_str(), port)).await;
            connected.map(drop).map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
        } else {
            Err("the probe is of a kind this node does not support yet".to_owned())
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
    }
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
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

/// HTTP/1.1 by hand, as little as a probe needs: one request, the status line, at most a little of the body.
async fn get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("GET http://{host}:{port}{path}: {error}");
    let mut stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nConnection: close\r\nUser-Agent: kube-probe/berth\r\nAccept: */*\r\n"
    );
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(2048).read_to_end(&mut answer).await.map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let code: u16 = text
        .split_whitespace()
        .nth(1)
        .filter(|_| text.starts_with("HTTP/"))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("GET http://{host}:{port}{path}: the answer is not HTTP"))?;
    if (200..400).contains(&code) {
        return Ok(());
    }
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    Err(format!("GET http://{host}:{port}{path} answered {code}: {body}"))
}

/// How much of a failing command's output is kept.
const OUTPUT: usize = 1024;

async fn run(target: &Target, command: Vec<String>, timeout: Duration) -> Result<(), String> {
    let process = crate::config::exec_process(&target.spec, &command, false)
        .ok_or_else(|| "the container has no process".to_owned())?;
    let exec = Exec {
        container: target.instance.clone(),
        process,
        user: target.user.clone(),
        filter: target.filter.clone(),
        terminal: None,
    };
    let shim = target.shim.clone();
    let blocking = move || -> Result<(i32, String), String> {
        let text = |error: &dyn std::error::Error| crate::status::chain(error);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| text(&error))?;
        let null: OwnedFd = std::fs::File::open("/dev/null").map_err(|error| text(&error))?.into();
        let copy = rustix::io::dup(&write).map_err(|error| text(&error))?;
        let execution = shim.exec(exec, Some([null, write, copy])).map_err(|error| text(&error))?;
        let output = read_some(&read, timeout);
        let (Some(output), true) = (output, execution.wait_until(timeout)) else {
            let pid = rustix::process::Pid::from_raw(execution.pid);
            if let Some(pid) = pid {
                // Still ours: the shim reaps it only once it has ended and nobody else can have its number before.
                let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            return Err(format!("the command did not end within {} s", timeout.as_secs()));
        };
        let exit = execution.wait().map_err(|error| text(&error))?;
        Ok((exit.code, output))
    };
    let (code, output) = tokio::task::spawn_blocking(blocking)
        .await
        .map_err(|error| format!("the probe broke: {error}"))??;
    if code == 0 { Ok(()) } else { Err(format!("exit code {code}: {}", output.trim())) }
}

/// Reads until the other side closes; `None` when that takes too long.
fn read_some(pipe: &OwnedFd, timeout: Duration) -> Option<String> {
    let deadline = std::time::Instant::now() + timeout;
    let mut output = Vec::new();
    let mut buffer = [0_u8; 512];
    loop {
        let left = deadline.checked_duration_since(std::time::Instant::now())?;
        let wait = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polled = [rustix::event::PollFd::new(pipe, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&wait)).ok()? == 0 {
            return None;
        }
        let length = rustix::io::read(pipe, &mut buffer).ok()?;
        if length == 0 {
            return Some(String::from_utf8_lossy(&output).into_owned());
        }
        let room = OUTPUT.saturating_sub(output.len()).min(length);
        output.extend_from_slice(&buffer[..room]);
    }
}
