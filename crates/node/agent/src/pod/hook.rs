//! What a container does just after its start and just before its end.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::command::{self, Target};
use crate::http::{Get, GetError};
use crate::probe::port;

/// What servers see of who asks.
const AGENT: &str = "kube-lifecycle/1.35";

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Just after the start.
    Start,
    /// Just before the signal to end.
    Stop,
}

impl fmt::Display for Moment {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Start => "PostStart",
            Self::Stop => "PreStop",
        })
    }
}

/// How a hook ended.
#[derive(Debug)]
pub struct Hooked {
    /// Of which instance.
    pub instance: String,
    /// Which hook.
    pub moment: Moment,
    /// The error is what to tell people.
    pub outcome: Result<(), String>,
}

/// The hook of a container, if it has one.
pub fn of(container: &Container, moment: Moment) -> Option<&LifecycleHandler> {
    let lifecycle = container.lifecycle.as_ref()?;
    match moment {
        Moment::Start => lifecycle.post_start.as_ref(),
        Moment::Stop => lifecycle.pre_stop.as_ref(),
    }
}

/// Does what the hook says, to its end.
///
/// # Errors
/// When a command fails, a server cannot be reached, or the hook is of a kind that was never supported.
pub async fn run(
    container: &Container,
    target: &Target,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        return match command::run(target, command, None).await? {
            (0, _) => Ok(()),
            (code, output) => Err(format!("exit code {code}: {}", output.trim())),
        };
    }
    if let Some(http) = &hook.http_get {
        let port = port(container, &http.port)?;
        let get = Get::new(http, &target.address, port, AGENT)?;
        let answer = match get.clone().ask().await {
            // Hooks spoke HTTP whatever they said, long ago.
            Err(GetError::Tls(..)) => get.plain().ask().await,
            answer => answer,
        };
        // Whatever it says, it has been told.
        return answer.map(drop).map_err(|error| error.to_string());
    }
    if let Some(sleep) = &hook.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("a hook is a command, an HTTP request or a sleep; tcpSocket was never supported".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{HTTPGetAction, SleepAction, TCPSocketAction};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    fn target() -> Target {
        Target {
            shim: berth_shim::Shim::at(std::path::Path::new("/nonexistent")),
            instance: "a.1".to_owned(),
            spec: oci_spec::runtime::Spec::default(),
            user: None,
            filter: berth_shim::protocol::Filter::RuntimeDefault,
            address: "127.0.0.1".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_lasts_as_long_as_it_says() {
        let seconds = |seconds| LifecycleHandler {
            sleep: Some(SleepAction { seconds }),
            ..LifecycleHandler::default()
        };
        let began = tokio::time::Instant::now();
        run(&Container::default(), &target(), &seconds(90)).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 90);
    }

    #[tokio::test]
    async fn what_cannot_be_done_says_why() {
        let tcp = LifecycleHandler {
            tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(1), host: None }),
            ..LifecycleHandler::default()
        };
        let why = run(&Container::default(), &target(), &tcp).await.unwrap_err();
        assert!(why.contains("tcpSocket"), "{why}");
        let http = LifecycleHandler {
            http_get: Some(HTTPGetAction {
                port: IntOrString::String("web".to_owned()),
                ..HTTPGetAction::default()
            }),
            ..LifecycleHandler::default()
        };
        let why = run(&Container::default(), &target(), &http).await.unwrap_err();
        assert_eq!(why, "the container has no port named `web`");
    }
}
