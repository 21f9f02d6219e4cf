//! `berth kubeconfig`, `berth status`, `berth version`.

use std::path::Path;

use berth_content::ContentStore;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use crate::failure::{Asking, Doing, Failure};
use crate::host::ServerState;
use crate::screen;
use crate::session::{Session, privileged};

/// Prints the path on standard output, and how to use it on standard error, so that `$(berth kubeconfig)` works.
pub fn kubeconfig(data: &Path) -> Result<u8, Failure> {
    let state = ServerState::read(data).doing("cannot find the server's kubeconfig")?;
    let path = state.map_or_else(|| data.join("kubeconfig"), |state| state.kubeconfig);
    if !path.exists() {
        return Err(Failure::new(format!("there is no kubeconfig at `{}` yet", path.display()))
            .hint("`berth up`, `berth run` or `berth serve` make one"));
    }
    screen::line(path.display());
    screen::note(format!("hint: export KUBECONFIG={}", path.display()));
    Ok(0)
}

/// Prints the version.
pub fn version() -> u8 {
    screen::line(format!("berth {}", env!("CARGO_PKG_VERSION")));
    0
}

/// Prints what there is; 1 if no server runs.
pub async fn status(data: &Path) -> Result<u8, Failure> {
    privileged()?;
    screen::line(format!("version   {}", env!("CARGO_PKG_VERSION")));
    screen::line(format!("data      {}", data.display()));
    let state = ServerState::read(data).doing("cannot find the server")?;
    let running = match &state {
        Some(state) if state.answers().await => Some(state),
        _ => None,
    };
    if let Some(state) = running {
        screen::line(format!("server    https://{} (process {})", state.address, state.pid));
        cluster(data).await?;
    } else {
        screen::line("server    not running");
    }
    let path = data.join("images");
    if path.exists() {
        let store = ContentStore::open(&path).doing("cannot open the image store")?;
        let usage = store.usage().doing("cannot look at the image store")?;
        screen::line(format!(
            "images    {}, {} ({} can be freed with `berth image prune`)",
            usage.images,
            screen::size(usage.blobs + usage.layers),
            screen::size(usage.reclaimable)
        ));
    }
    Ok(u8::from(running.is_none()))
}

async fn cluster(data: &Path) -> Result<(), Failure> {
    let client = Session::join(data).await?.client;
    let version = client.apiserver_version().await.asking("cannot ask for the server's version")?;
    screen::line(format!("API       {}", version.git_version));
    let nodes: Api<Node> = Api::all(client.clone());
    for node in nodes.list(&ListParams::default()).await.asking("cannot list nodes")? {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let name = node.metadata.name.unwrap_or_default();
        screen::line(format!("node      {name} ({})", if ready { "ready" } else { "not ready" }));
    }
    let pods: Api<Pod> = Api::all(client);
    let pods = pods.list(&ListParams::default()).await.asking("cannot list pods")?;
    let running = pods.iter().filter(|pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    });
    screen::line(format!("pods      {} running of {}", running.count(), pods.items.len()));
    Ok(())
}
