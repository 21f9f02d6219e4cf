//! `berth serve`: API server, controllers, scheduler and node agent in one process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_agent::{Agent, AgentError, Folder, Limits};
use berth_apiserver::{Aggregator, ApiServer, Identity, Options, Peer, Peering};
use berth_authority::{Authority, AuthorityError, Issued, Kubeconfig, TokenKeys};
use berth_cli::{ServeSettings, ServerState};
use berth_client::{Candidate, Terms};
use berth_network::NodeNetwork;
use berth_report::chain;
use berth_secrets::{SealedStore, UnsealError};
use berth_store::Store;
use futures::FutureExt;
use futures::future::try_join;
use kube::{Api, Client};
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cluster::Common;
use crate::custody::{Hold, OwnOperations, open_audit, open_providers, own_name, sealed_store};
use crate::nodes::OwnNode;
use crate::peers::Peers;

impl From<berth_apiserver::StartError> for ServeError {
    fn from(error: berth_apiserver::StartError) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not root.
    #[error("berth serve needs root: it creates namespaces, interfaces and packet rules")]
    Privilege,
    /// The data directory.
    #[error("cannot use `{}`", path.display())]
    Data { path: PathBuf, source: io::Error },
    /// A server of this data directory runs.
    #[error("a server already runs for `{}`", .0.display())]
    Running(PathBuf),
    /// The store.
    #[error("cannot open the store")]
    Store(#[from] berth_store::StoreError),
    /// Another server has the node's name.
    #[error("cannot join the cluster")]
    Claim(#[from] berth_store::ClaimError),
    /// Another server has taken the node's name, while etcd was out of reach.
    #[error("another server, `{0}`, is this node now")]
    Lost(String),
    /// What the servers of a cluster have in common.
    #[error("cannot join the cluster")]
    Join(#[from] crate::cluster::JoinError),
    /// The store is of another version.
    #[error("cannot use the store")]
    Format(#[from] berth_store::FormatError),
    /// The state is elsewhere.
    #[error("the state of `{}` has been kept in {before}, and would now be kept in {now}; say `--store` as before, or run `berth reset` first", data.display())]
    OtherStore { data: PathBuf, before: String, now: String },
    /// The keys that seal Secrets.
    #[error("cannot open the sealed Secrets")]
    Secrets(#[from] UnsealError),
    /// Certificates.
    #[error(transparent)]
    Authority(#[from] berth_authority::AuthorityError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] berth_tls::TlsError),
    /// The API server.
    #[error("cannot start the API server")]
    Api(#[source] Box<berth_apiserver::StartError>),
    /// The listener.
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The node agent.
    #[error("cannot start the node agent")]
    Agent(#[from] AgentError),
    /// The DNS server.
    #[error("cannot start the DNS server")]
    Names(#[from] crate::names::NamesError),
    /// A part ended on its own.
    #[error("the {part} ended: {reason}")]
    Ended { part: &'static str, reason: String },
}

/// Lifetime of certificates that are made anew at every start.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The same where the other side is a server, as this one's own certificate.
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the controllers may take to end, and to leave the lead to others.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pod network of a server with these settings.
pub fn network(settings: &ServeSettings) -> NodeNetwork {
    let services = settings.service_cidr;
    NodeNetwork {
        prefix: settings.instance.clone(),
        pods: (settings.pod_cidr.network(), settings.pod_cidr.prefix_len()),
        services: (services.network(), services.prefix_len()),
        dns: Ipv4Addr::from_bits(services.network().to_bits() + berth_apiserver::DNS),
    }
}

/// Runs the server until a signal ends it.
pub async fn serve(settings: ServeSettings) -> Result<(), ServeError> {
    start_logging();
    let data = settings.data.clone();
    let failed = |source| ServeError::Data { path: data.clone(), source };
    let (node_settings, _only) = (node_settings(&settings)?, prepare(&settings)?);
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone()));

    let node = settings.node_name.clone().unwrap_or_else(hostname);
    let State { store, mut hold, authority, tokens, aggregator, identity } =
        State::open(&settings, &node).await?;
    let audit = open_audit(&settings)?;
    let journal = audit.journal.clone();
    let own = OwnNode::default();
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|source| ServeError::Listen { address: settings.listen, source })?;
    let address = listener.local_addr().map_err(failed)?;
    let network = network(&settings);
    let inside = for_pods(address, &network);
    let options = Options {
        service_addresses: settings.service_cidr,
        nodes: Arc::new(own.clone()),
        advertise: Some(inside),
        room: Arc::new(crate::ballast::Disk(data.clone())),
        tokens: tokens.clone(),
        peer: peer(identity.as_deref(), &node, address),
        peering: identity.as_ref().map(|_| peering(&authority)).transpose()?,
        people: open_providers(&settings)?,
        aggregator: Some(aggregator),
        audit: Some(audit),
        operations: Some(Arc::new(OwnOperations::new(&settings, store.clone()))),
        ..Options::default()
    };
    let store: Arc<dyn Store> = Arc::new(store);
    let api = ApiServer::start(store.clone(), options).await?;
    if identity.is_some() {
        follow_others(&api, &node, Arc::downgrade(&store), tokens, &stop);
    }
    drop(store);
    let kubeconfig = write_kubeconfigs(&authority, address, &data)?;
    let tls = server_tls(&authority, address, &network)?;
    let listening = listen(&api, listener, &tls, &stop);
    let of_control = settings_of_control(&data, &node, &authority);
    let mut control = tokio::spawn(control(api.clone(), identity, of_control, stop.clone()));
    let node_itself = async {
        let agent = Agent::start(
            client(&api, &format!("system:node:{node}"), &["system:nodes"]),
            agent_settings(&settings, &node, node_settings).map_err(failed)?,
            stop.clone(),
        )
        .await?;
        let listening_inside = listen_inside(&api, address, inside, tls, &stop).await?;
        own.set(node, agent.access());
        crate::names::ensure(&data, &network, address)?;
        let state =
            ServerState { pid: std::process::id(), address, kubeconfig: kubeconfig.clone() };
        state.write(&data).map_err(failed)?;
        announce(address, &kubeconfig);
        let running = tokio::spawn(agent.run());
        Err::<(), _>(tokio::select! {
            ended = listening_inside => ended_early("API listener for pods", ended.map(|result| result.err().map(|error| chain(&error))), &stop),
            ended = running => ended_early("node agent", ended.map(|()| None), &stop),
        })
    };
    // Its agent waits for an API that does not answer, and nobody else waits for the agent.
    let outcome = tokio::select! {
        ended = &mut control => Err(ended_early("control plane", ended.map(|result| result.err()), &stop)),
        ended = listening => Err(ended_early("API listener", ended.map(|result| result.err().map(|error| chain(&error))), &stop)),
        ended = node_itself => ended,
        holder = hold.lost() => Err(ServeError::Lost(holder)),
        () = stop.cancelled() => Ok(()),
    };
    stop.cancel();
    if !control.is_finished() && tokio::time::timeout(PATIENCE, control).await.is_err() {
        warn!("the controllers do not end");
    }
    api.close();
    close(hold, journal).await;
    concluded(outcome)
}

fn settings_of_control(
    data: &Path,
    node: &str,
    authority: &Arc<Authority>,
) -> berth_controllers::Settings {
    berth_controllers::Settings {
        ca_pem: authority.certificate().to_owned(),
        volumes_root: data.join("volumes"),
        node_name: node.to_owned(),
        authority: Some(authority.clone()),
    }
}

/// Leaves nothing that others would wait for.
async fn close(hold: Hold, journal: berth_audit::Journal) {
    hold.release().await;
    crate::custody::close(journal).await;
    info!("server stopped, containers go on");
}

/// How the other servers know this one, where there may be others.
fn peer(identity: Option<&str>, node: &str, address: SocketAddr) -> Option<Peer> {
    identity.map(|_| Peer { node: node.to_owned(), local: address.ip().is_loopback() })
}

/// What the others let this one in with.
fn peering(authority: &Authority) -> Result<Arc<Peering>, AuthorityError> {
    let Issued { certificate, key } =
        authority.client(Peering::USER, "system:masters", TEN_YEARS)?;
    let authority = authority.certificate().to_owned();
    Ok(Arc::new(Peering { authority, certificate, key }))
}

/// Takes note of what the other servers of the cluster do, and of their end.
fn follow_others(
    api: &ApiServer,
    node: &str,
    store: Weak<dyn Store>,
    tokens: Arc<TokenKeys>,
    stop: &CancellationToken,
) {
    tokio::spawn(crate::cluster::follow_tokens(store.clone(), tokens, stop.clone()));
    let peers = Peers::new(client(api, "system:apiserver", &["system:masters"]), node);
    tokio::spawn(peers.run(store, stop.clone()));
}

/// A part that ended because it was told to is no error.
fn concluded(outcome: Result<(), ServeError>) -> Result<(), ServeError> {
    match outcome {
        Err(ServeError::Ended { reason, .. }) if reason.is_empty() => Ok(()),
        Err(ServeError::Agent(AgentError::Stopped)) => Ok(()),
        other => other,
    }
}

/// What the server keeps, and what it has in common with others.
struct State {
    store: SealedStore,
    hold: Hold,
    authority: Arc<Authority>,
    tokens: Arc<TokenKeys>,
    /// What shows servers of other groups for whom this one asks.
    aggregator: Arc<Aggregator>,
    /// This server's own name, where there may be others.
    identity: Option<String>,
}

impl State {
    async fn open(settings: &ServeSettings, node: &str) -> Result<Self, ServeError> {
        let (store, hold) = sealed_store(settings, node).await?;
        let joined = async {
            if settings.store.is_some() {
                crate::cluster::same_services(&store, settings.service_cidr).await?;
            }
            crate::cluster::join(&store, &settings.data.join("pki")).await
        };
        let common = match joined.await {
            Ok(common) => common,
            Err(error) => {
                hold.release().await;
                return Err(error.into());
            }
        };
        let identity = settings.store.as_ref().map(|_| own_name(&settings.data)).transpose()?;
        let aggregator = Arc::new(aggregator(&common)?);
        let (authority, tokens) = (Arc::new(common.authority), Arc::new(common.tokens));
        Ok(Self { store, hold, authority, tokens, aggregator, identity })
    }
}

/// What this server shows servers of other groups.
fn aggregator(common: &Common) -> Result<Aggregator, AuthorityError> {
    const NAME: &str = "front-proxy-client";
    let issued = common.front_proxy.client(NAME, "", TEN_YEARS)?;
    Ok(Aggregator {
        clients: common.authority.certificate().to_owned(),
        authority: common.front_proxy.certificate().to_owned(),
        name: NAME.to_owned(),
        certificate: issued.certificate,
        key: issued.key,
    })
}

/// The data directory, ours alone from now on: the lock ends with the process.
fn prepare(settings: &ServeSettings) -> Result<std::fs::File, ServeError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ServeError::Privilege);
    }
    let data = &settings.data;
    let failed = |source| ServeError::Data { path: data.clone(), source };
    std::fs::create_dir_all(data).map_err(failed)?;
    std::fs::set_permissions(data, std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .map_err(failed)?;
    let only = lock(data)?;
    crate::ballast::trim(data).map_err(failed)?;
    remember(settings)?;
    Ok(only)
}

/// A certificate for every name this server is reached by.
fn server_tls(
    authority: &Authority,
    address: SocketAddr,
    network: &NodeNetwork,
) -> Result<Arc<berth_tls::ServerConfig>, ServeError> {
    let issued = authority.server(&certificate_names(address, network))?;
    let credentials = berth_tls::Credentials::from_pem(&issued.certificate, &issued.key)?;
    Ok(berth_tls::server(credentials, authority.certificate())?)
}

/// A part that ended: with an empty reason where it was told to.
fn ended_early(
    part: &'static str,
    ended: Result<Option<String>, tokio::task::JoinError>,
    stop: &CancellationToken,
) -> ServeError {
    let reason = match ended {
        _ if stop.is_cancelled() => String::new(),
        Ok(reason) => reason.unwrap_or_else(|| "without saying why".to_owned()),
        Err(error) => error.to_string(),
    };
    ServeError::Ended { part, reason }
}

/// A client in this process, judged as any other.
fn client(api: &ApiServer, user: &str, groups: &[&str]) -> Client {
    Client::new(api.service(Identity::new(user, groups)), "default")
}

/// Where pods reach the API: the address people use, or the node's own among the pods where that is for this machine only.
fn for_pods(address: SocketAddr, network: &NodeNetwork) -> SocketAddr {
    match address.ip() {
        ip if ip.is_loopback() => SocketAddr::from((network.gateway(), address.port())),
        ip if ip.is_unspecified() => SocketAddr::from((own_address(), address.port())),
        _ => address,
    }
}

/// A second listener for pods where the first is for this machine only. Nobody else reaches it: the address is the node's
/// own, on the loopback interface, and only pods have a way to it.
async fn listen_inside(
    api: &ApiServer,
    address: SocketAddr,
    inside: SocketAddr,
    tls: Arc<berth_tls::ServerConfig>,
    stop: &CancellationToken,
) -> Result<tokio::task::JoinHandle<Result<(), berth_apiserver::ListenError>>, ServeError> {
    if !address.ip().is_loopback() {
        let stop = stop.clone();
        return Ok(tokio::spawn(async move {
            stop.cancelled().await;
            Ok(())
        }));
    }
    let listener = TcpListener::bind(inside)
        .await
        .map_err(|source| ServeError::Listen { address: inside, source })?;
    Ok(listen(api, listener, &tls, stop))
}

fn listen(
    api: &ApiServer,
    listener: TcpListener,
    tls: &Arc<berth_tls::ServerConfig>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<Result<(), berth_apiserver::ListenError>> {
    let (api, tls, stop) = (api.clone(), tls.clone(), stop.clone());
    tokio::spawn(async move { api.serve(listener, tls, stop).await })
}

/// Runs controllers and scheduler: always where nobody else could, else whenever their leases are ours.
async fn control(
    api: ApiServer,
    identity: Option<String>,
    settings: berth_controllers::Settings,
    stop: CancellationToken,
) -> Result<(), String> {
    let manager = client(&api, "system:kube-controller-manager", &[]);
    let scheduler = client(&api, "system:kube-scheduler", &[]);
    let accounts = move |name: &str| {
        let user = format!("system:serviceaccount:kube-system:{name}");
        client(&api, &user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
    };
    let control = |stop: CancellationToken| {
        let (manager, accounts, settings) = (manager.clone(), accounts.clone(), settings.clone());
        async move {
            let done = berth_controllers::run(manager, accounts, settings, stop).await;
            done.map_err(|error| chain(&error))
        }
    };
    let schedule = |stop: CancellationToken| {
        let scheduler = scheduler.clone();
        async move { berth_scheduler::run(scheduler, stop).await.map_err(|error| chain(&error)) }
    };
    let Some(identity) = identity else {
        return try_join(control(stop.clone()), schedule(stop)).await.map(drop);
    };
    let candidate = |client: &Client, name: &str| {
        let api = Api::namespaced(client.clone(), "kube-system");
        Candidate::new(api, name, &identity, Terms::default())
    };
    let (managing, scheduling) =
        (candidate(&manager, "kube-controller-manager"), candidate(&scheduler, "kube-scheduler"));
    let (one, two) = (async { managing.lead(&stop, control).await }, async {
        scheduling.lead(&stop, schedule).await
    });
    let both =
        try_join(one.map(|done| done.unwrap_or(Ok(()))), two.map(|done| done.unwrap_or(Ok(()))));
    both.await.map(drop)
}

fn agent_settings(
    settings: &ServeSettings,
    node: &str,
    (limits, static_pods): (Limits, Option<Folder>),
) -> io::Result<berth_agent::Settings> {
    Ok(berth_agent::Settings {
        node: node.to_owned(),
        address: own_address(),
        data: settings.data.clone(),
        images: settings.data.join("images"),
        device_plugins: settings
            .device_plugins
            .clone()
            .unwrap_or_else(|| settings.data.join("device-plugins")),
        program: std::env::current_exe()?,
        instance: settings.instance.clone(),
        network: network(settings),
        domain: "cluster.local".to_owned(),
        insecure_registries: settings.insecure_registries.clone(),
        limits,
        static_pods,
    })
}

/// What the node keeps for itself, and where its static pods come from.
fn node_settings(settings: &ServeSettings) -> Result<(Limits, Option<Folder>), ServeError> {
    let value = match &settings.node_config {
        None => None,
        Some(path) => {
            let failed = |source| ServeError::Data { path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            let value = berth_objects::yaml::parse(&text)
                .map_err(|error| failed(io::Error::other(error.to_string())))?;
            Some(value)
        }
    };
    let failed = |error| ServeError::Data {
        path: settings.node_config.clone().unwrap_or_default(),
        source: io::Error::other(error),
    };
    let limits = value.as_ref().map(Limits::parse).transpose().map_err(failed)?;
    let folder = Folder::of(&value.unwrap_or_default(), &settings.data).map_err(failed)?;
    Ok((limits.unwrap_or_default(), folder))
}

/// Keeps the settings for `berth reset`, which must find what a server made also when that runs no more; and to notice when
/// a server would begin with another state than the one before it.
fn remember(settings: &ServeSettings) -> Result<(), ServeError> {
    let failed = |source| ServeError::Data { path: settings.data.clone(), source };
    let store = match &settings.store {
        None => "a file of its own".to_owned(),
        Some(etcd) => format!("`etcd={}`", etcd.endpoints.join(",")),
    };
    let (path, draft) =
        (settings.data.join("settings.json"), settings.data.join("settings.json.new"));
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let before: serde_json::Value = serde_json::from_str(&known).unwrap_or_default();
    if let Some(before) = before["store"].as_str().filter(|before| *before != store) {
        let (data, before) = (settings.data.clone(), before.to_owned());
        return Err(ServeError::OtherStore { data, before, now: store });
    }
    let text = serde_json::json!({
        "store": store,
        "instance": settings.instance,
        "podCidr": settings.pod_cidr.to_string(),
        "serviceCidr": settings.service_cidr.to_string(),
    });
    let text = text.to_string();
    if known == text {
        return Ok(());
    }
    std::fs::write(&draft, text).and_then(|()| std::fs::rename(draft, path)).map_err(failed)
}

/// One server a data directory. The lock ends with the process.
pub fn lock(data: &Path) -> Result<std::fs::File, ServeError> {
    let path = data.join("server.lock");
    let failed = |source| ServeError::Data { path: path.clone(), source };
    let file = crate::lock::open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Running(data.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn write_kubeconfigs(
    authority: &Authority,
    address: SocketAddr,
    data: &Path,
) -> Result<PathBuf, ServeError> {
    let server = format!("https://{}", reachable(address));
    let certificate = authority.certificate();
    for (user, group, file) in [
        ("berth-admin", "system:masters", "kubeconfig"),
        ("system:berth-dns", "", "dns.kubeconfig"),
    ] {
        let identity = authority.client(user, group, YEAR)?;
        Kubeconfig { name: "berth", server: &server, authority: certificate, identity: &identity }
            .write(&data.join(file))?;
    }
    Ok(data.join("kubeconfig"))
}

/// The address clients of this machine use.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}

fn certificate_names(address: SocketAddr, network: &NodeNetwork) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        "kubernetes.default.svc.cluster.local".to_owned(),
        Ipv4Addr::from_bits(network.services.0.to_bits() + 1).to_string(),
        network.gateway().to_string(),
        "127.0.0.1".to_owned(),
        hostname(),
        own_address().to_string(),
    ];
    if !address.ip().is_unspecified() && !address.ip().is_loopback() {
        names.push(address.ip().to_string());
    }
    names.sort();
    names.dedup();
    names
}

/// This machine's name as a node name: lower case, without what DNS forbids.
pub fn hostname() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    let name: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' })
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

/// The address other machines would see: the one packets to the outside leave with. Nothing is sent.
fn own_address() -> Ipv4Addr {
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 254), 9))?;
        socket.local_addr()
    });
    match probe {
        Ok(SocketAddr::V4(address)) if !address.ip().is_unspecified() => *address.ip(),
        _ => Ipv4Addr::LOCALHOST,
    }
}

#[expect(clippy::print_stdout, reason = "the line scripts and service managers wait for")]
fn announce(address: SocketAddr, kubeconfig: &Path) {
    println!("ready https://{} kubeconfig {}", reachable(address), kubeconfig.display());
}

/// Logs to standard error, at level `info` unless `BERTH_LOG` says otherwise.
pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BERTH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(rustix::termios::isatty(io::stderr()))
        .try_init();
    if installed.is_err() {
        warn!("logging was set up before");
    }
}

/// Ends at SIGTERM or SIGINT.
pub async fn cancel_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals cannot be received, only SIGKILL ends this process");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
}
