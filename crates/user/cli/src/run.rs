//! `berth run`: one container, as with docker.
//!
//! The container is a bare pod in a namespace of its own, [`NAMESPACE`], where pods may use the host as docker's may; all other
//! namespaces are stricter. Its exit codes are docker's: that of the process, 125 when berth
//! could not do its part, 126 and 127 when the command cannot be executed or is not there.

pub mod follow;
mod plan;
mod syntax;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use crate::arguments::{Pull, RegistryFlags};
use crate::cluster;
use crate::failure::{Asking, Failure};
use crate::host::Host;
use crate::images::Images;
use crate::session::Session;
use crate::up::ports;
use crate::{lifecycle, screen, terminal};

/// Where containers of `berth run` live.
pub const NAMESPACE: &str = "berth-run";
/// Berth could not do its part.
const NOT_DONE: u8 = 125;

/// Flags of `berth run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Send standard input to the process
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Leave it running, and print its name
    #[arg(short, long)]
    pub detach: bool,
    /// Remove it when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Publish a port, as [ADDRESS:]HOST:CONTAINER[/udp]; may be repeated
    #[arg(short, long = "publish", value_name = "PORT", value_parser = syntax::port)]
    pub publish: Vec<syntax::Port>,
    /// Mount a named volume or a path of this machine, as SOURCE:TARGET[:ro]; may be repeated
    #[arg(short, long = "volume", value_name = "VOLUME", value_parser = syntax::volume)]
    pub volume: Vec<syntax::Volume>,
    /// Environment variable, as NAME=value; a name alone takes this environment's value; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// File with a variable per line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Its name; otherwise made from the image's
    #[arg(long, value_parser = syntax::name)]
    pub name: Option<String>,
    /// Directory the process starts in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, and group after a colon, by name or number
    #[arg(short, long)]
    pub user: Option<String>,
    /// Program to run in place of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Add a capability; may be repeated
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability; may be repeated
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Allow everything
    #[arg(long)]
    pub privileged: bool,
    /// Limit of memory, as 512m or 2g
    #[arg(short, long, value_name = "SIZE", value_parser = syntax::memory)]
    pub memory: Option<u64>,
    /// Limit of processor time, as 0.5 or 2
    #[arg(long, value_name = "NUMBER", value_parser = syntax::processors)]
    pub cpus: Option<u64>,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing")]
    pub pull: Pull,
    /// Which network it has
    #[arg(long, value_enum, default_value = "default")]
    pub network: Network,
    /// Its host name
    #[arg(long, value_name = "NAME", value_parser = syntax::name)]
    pub hostname: Option<String>,
    /// What happens when it ends
    #[arg(long, value_enum, default_value = "no")]
    pub restart: Restart,
    /// Label, as NAME=value; it becomes an annotation of the pod; may be repeated
    #[arg(short, long = "label", value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// The image
    pub image: String,
    /// The command and its arguments, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Its own address, and the way out
    #[value(alias = "bridge")]
    Default,
    /// The machine's
    Host,
    /// None but loopback
    None,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// Nothing
    No,
    /// It is started again if it failed
    OnFailure,
    /// It is started again
    #[value(alias = "unless-stopped")]
    Always,
}

/// Runs a container; returns docker's exit code.
pub async fn run(arguments: RunArguments, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    let code =
        |failure: Failure| if failure.code() == 1 { failure.exit(NOT_DONE) } else { failure };
    run_container(arguments, data, host).await.map_err(code)
}

async fn run_container(
    arguments: RunArguments,
    data: &Path,
    host: &dyn Host,
) -> Result<u8, Failure> {
    crate::session::privileged()?;
    if arguments.rm && arguments.restart != Restart::No {
        return Err(Failure::usage("`--rm` and `--restart` exclude each other").exit(NOT_DONE));
    }
    if arguments.interactive && arguments.tty && !arguments.detach && !terminal::has_input() {
        return Err(Failure::usage("`-t` needs a terminal, and standard input is none")
            .hint("leave `-t` away")
            .exit(NOT_DONE));
    }
    let name = arguments.name.clone().unwrap_or_else(|| plan::made_up(&arguments.image));
    let variable = |name: &str| std::env::var(name).ok();
    let plan = plan::plan(&arguments, &name, &variable)?;
    let images = Images::open(data, &arguments.registry)?;
    // The image and the server have nothing to do with each other, so one does not wait for the other.
    let (image, session) =
        tokio::join!(images.ensure(&arguments.image, arguments.pull), Session::start(data, host));
    let (_image, session) = (image?, session?);
    let wanted: Vec<ports::Wanted> = arguments.publish.iter().map(syntax::Port::wanted).collect();
    ports::check(&session.client, &wanted, None, &[]).await?;
    let alone = plan.companions.is_empty();
    let pod = create(&session.client, &plan).await?;
    let outcome = if arguments.detach {
        follow::begun(&session.client, pod).await.map(|()| {
            screen::line(&name);
            0
        })
    } else {
        follow::foreground(&session.client, pod, &arguments).await
    };
    // What could not be started is of no use to anyone, as with docker's `--rm`; without it the record stays for `ps -a`.
    if arguments.rm && (!arguments.detach || outcome.is_err()) {
        lifecycle::discard_pod(&session.client, &name).await?;
        if !alone {
            lifecycle::discard_companions(&session.client, &name).await?;
        }
    }
    outcome
}

/// Brings the objects to the server, in their namespace, which is made when it is missed.
async fn create(client: &Client, plan: &plan::Plan) -> Result<Pod, Failure> {
    let failure = match create_in(client, plan).await {
        Ok(pod) => return Ok(pod),
        Err(failure) => failure,
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let there = namespaces.get_opt(NAMESPACE).await;
    if there.asking(format!("cannot look for the namespace `{NAMESPACE}`"))?.is_some() {
        return Err(failure);
    }
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": NAMESPACE, "labels": {
            "app.kubernetes.io/managed-by": "berth",
            // Who runs containers this way is root on this machine, and may mount its folders as with docker.
            "pod-security.kubernetes.io/enforce": "privileged",
        } },
    });
    cluster::apply(client, &namespace).await?;
    create_in(client, plan).await
}

/// Brings the objects to the server; the pod last. Takes back what it made if it fails half-way.
async fn create_in(client: &Client, plan: &plan::Plan) -> Result<Pod, Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let name = plan.pod.metadata.name.clone().unwrap_or_default();
    for claim in &plan.claims {
        cluster::apply(client, claim).await?;
    }
    for companion in &plan.companions {
        cluster::apply(client, companion).await?;
    }
    match pods.create(&PostParams::default(), &plan.pod).await {
        Ok(pod) => Ok(pod),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            Err(Failure::new(format!("there is a container called `{name}` already"))
                .hint(format!("`berth rm -f {name}` removes it, or choose another `--name`")))
        }
        Err(error) => {
            if !plan.companions.is_empty() {
                lifecycle::discard_companions(client, &name).await?;
            }
            Err(error).asking(format!("cannot create container `{name}`"))
        }
    }
}
