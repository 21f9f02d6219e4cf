//! `berth reset`: takes everything of a data directory's server away, whether it runs or not.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_agent::traffic::firewall_settings;
use berth_cli::ServerState;
use berth_firewall::Firewall;
use berth_network::NodeNetwork;
use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_shim::Shim;
use ipnet::Ipv4Net;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// A file or directory.
    #[error("cannot use `{}`", path.display())]
    Data { path: PathBuf, source: io::Error },
    /// The server.
    #[error("the server (process {pid}) does not end")]
    Server { pid: u32 },
    /// Shims.
    #[error(transparent)]
    Shim(#[from] berth_shim::client::ShimError),
    /// Cgroups.
    #[error(transparent)]
    Cgroup(#[from] berth_runtime::cgroup::CgroupError),
    /// Interfaces and addresses.
    #[error(transparent)]
    Network(#[from] berth_network::NetworkError),
    /// Packet rules.
    #[error(transparent)]
    Firewall(#[from] berth_firewall::FirewallError),
    /// The settings of the server are gone or damaged.
    #[error("`{}` does not say what the server was started with", .0.display())]
    Settings(PathBuf),
}

/// Takes everything away but images and volumes.
pub async fn teardown(data: &Path) -> Result<(), TeardownError> {
    let data = data.to_owned();
    let work = tokio::task::spawn_blocking(move || remove(&data));
    work.await.map_err(|error| TeardownError::Data {
        path: PathBuf::new(),
        source: io::Error::other(error),
    })?
}

fn remove(data: &Path) -> Result<(), TeardownError> {
    let failed = |source| TeardownError::Data { path: data.to_owned(), source };
    if !data.exists() {
        return Ok(());
    }
    end_server(data)?;
    crate::names::end(data).map_err(failed)?;
    let pods = data.join("pods");
    let mut directories = Vec::new();
    if pods.exists() {
        for entry in std::fs::read_dir(&pods).map_err(failed)? {
            directories.push(entry.map_err(failed)?.path());
        }
    }
    for directory in &directories {
        Shim::at(directory).shutdown()?;
    }
    let settings = data.join("settings.json");
    if settings.exists() {
        let (instance, network) = read_settings(&settings)?;
        remove_cgroups(&instance)?;
        network.teardown()?;
        Firewall::remove(firewall_settings(&crate::teardown::bare(&instance, &network)))?;
    }
    berth_agent::unmount_below(&pods).map_err(failed)?;
    for name in ["pods", "pki", "audit"] {
        remove_if_there(&data.join(name), true)?;
    }
    for name in [
        "store.redb",
        "secrets.key",
        "server.json",
        "settings.json",
        "server.id",
        "ballast",
        "kubeconfig",
        "dns.kubeconfig",
        "dns.pid",
        "dns.server",
        "devices.json",
        "device-plugins/kubelet.sock",
    ] {
        remove_if_there(&data.join(name), false)?;
    }
    Ok(())
}

fn remove_if_there(path: &Path, directory: bool) -> Result<(), TeardownError> {
    let result =
        if directory { berth_runtime::remove_tree(path) } else { std::fs::remove_file(path) };
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TeardownError::Data { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The agent's settings as far as the firewall needs them.
fn bare(instance: &str, network: &NodeNetwork) -> berth_agent::Settings {
    berth_agent::Settings {
        node: String::new(),
        address: std::net::Ipv4Addr::LOCALHOST,
        data: PathBuf::new(),
        images: PathBuf::new(),
        device_plugins: PathBuf::new(),
        program: PathBuf::new(),
        instance: instance.to_owned(),
        network: network.clone(),
        domain: String::new(),
        insecure_registries: Vec::new(),
        limits: berth_agent::Limits::default(),
        static_pods: None,
    }
}

fn read_settings(path: &Path) -> Result<(String, NodeNetwork), TeardownError> {
    let unreadable = || TeardownError::Settings(path.to_owned());
    let text = std::fs::read_to_string(path)
        .map_err(|source| TeardownError::Data { path: path.to_owned(), source })?;
    let value: Value = serde_json::from_str(&text).map_err(|_| unreadable())?;
    let field = |name: &str| value[name].as_str().map(str::to_owned).ok_or_else(unreadable);
    let net = |name: &str| field(name)?.parse::<Ipv4Net>().map_err(|_| unreadable());
    let instance = field("instance")?;
    let settings = berth_cli::ServeSettings {
        data: PathBuf::new(),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        node_name: None,
        pod_cidr: net("podCidr")?,
        service_cidr: net("serviceCidr")?,
        instance: instance.clone(),
        store: None,
        secrets_key: None,
        audit_policy: None,
        authentication_config: None,
        node_config: None,
        device_plugins: None,
        audit_log: None,
        insecure_registries: Vec::new(),
    };
    Ok((instance, crate::serve::network(&settings)))
}

fn end_server(data: &Path) -> Result<(), TeardownError> {
    let failed = |source| TeardownError::Data { path: data.to_owned(), source };
    let Some(state) = ServerState::read(data).map_err(failed)? else { return Ok(()) };
    let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    // The file outlives the process, and numbers are used again: only a process that is this program is ours to end.
    let exe = std::fs::read_link(format!("/proc/{}/exe", state.pid));
    let command =
        std::fs::read_to_string(format!("/proc/{}/cmdline", state.pid)).unwrap_or_default();
    if exe.is_err() || !command.split('\0').any(|word| word == "serve") {
        return Ok(());
    }
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.map_err(|error| failed(error.into()))?,
    };
    for (signal, patience) in
        [(Signal::TERM, Duration::from_secs(10)), (Signal::KILL, Duration::from_secs(5))]
    {
        // One that has ended meanwhile is what we want.
        let _ended = pidfd_send_signal(&pidfd, signal);
        let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let wait = rustix::event::Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        if rustix::event::poll(&mut polled, Some(&wait)).map_err(|error| failed(error.into()))? > 0
        {
            return Ok(());
        }
    }
    Err(TeardownError::Server { pid: state.pid })
}

/// Removes all cgroups below the instance's, also those of pods whose directory has gone before them.
fn remove_cgroups(instance: &str) -> Result<(), TeardownError> {
    remove_below(&Hierarchies::detect()?, Path::new(instance))
}

fn remove_below(hierarchies: &Hierarchies, path: &Path) -> Result<(), TeardownError> {
    let group = Cgroup::at(hierarchies, path);
    for child in group.children() {
        remove_below(hierarchies, &path.join(child))?;
    }
    empty(&group)
}

fn empty(group: &Cgroup) -> Result<(), TeardownError> {
    group.kill()?;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match group.remove() {
            Err(error) if std::time::Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::yield_now(),
            Ok(()) => return Ok(()),
        }
    }
}
