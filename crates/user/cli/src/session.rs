//! The way to a server: enough privilege, a server that runs, a client for it.

use std::path::Path;

use kube::Client;

use crate::failure::{Doing, Failure};
use crate::host::{Host, ServerState, Started};
use crate::screen;

/// A server to talk to.
pub struct Session {
    /// The way to it.
    pub client: Client,
}

impl Session {
    /// With the server of this data directory, which is started if there is none.
    pub async fn start(data: &Path, host: &dyn Host) -> Result<Self, Failure> {
        privileged()?;
        let log = data.join("server.log");
        let started = host.ensure_server(data).await.map_err(|error| {
            Failure::new("cannot start the berth server").because(error).hint(format!(
                "its log is `{}`; `berth serve --data-dir {}` shows it in the foreground",
                log.display(),
                data.display()
            ))
        })?;
        if started == Started::Now {
            screen::note(format!(
                "started the berth server in the background (data in {})",
                data.display()
            ));
        }
        Self::open(data).await
    }

    /// With the server that runs; an error if there is none.
    pub async fn join(data: &Path) -> Result<Self, Failure> {
        privileged()?;
        let path = ServerState::path(data);
        let state = ServerState::read(data).doing(format!("cannot read `{}`", path.display()))?;
        let running = match state {
            Some(state) => state.answers().await,
            None => false,
        };
        if !running {
            return Err(Failure::new(format!("no berth server runs for `{}`", data.display()))
                .hint("`berth up` and `berth run` start one, and `berth serve` runs one in the foreground"));
        }
        Self::open(data).await
    }

    async fn open(data: &Path) -> Result<Self, Failure> {
        let state = ServerState::read(data).ok().flatten();
        let kubeconfig = state.map_or_else(|| data.join("kubeconfig"), |state| state.kubeconfig);
        let client =
            berth_client::open(&kubeconfig).await.doing("cannot reach the berth server")?;
        Ok(Self { client })
    }
}

/// Everything that makes or enters containers needs root, so it is said before anything is touched.
pub fn privileged() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("berth needs root to work with containers, and this is an ordinary user")
        .hint("run the same command with `sudo`"))
}
