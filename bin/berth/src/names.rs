//! The DNS server as a process of its own, so that names resolve while the server is away.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use berth_network::NodeNetwork;
use ipnet::Ipv4Net;
use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "dns";

/// Why there is no DNS server.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// Wrong arguments; only the server itself calls this.
    #[error("usage: berth dns DATA ADDRESS NETWORK...")]
    Usage,
    /// A file.
    #[error("cannot use `{}`", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// The API.
    #[error("cannot open the API client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server.
    #[error(transparent)]
    Server(#[from] berth_dns::DnsError),
}

fn pid_file(data: &Path) -> PathBuf {
    data.join("dns.pid")
}

/// Starts the DNS server unless one runs for this data directory. One of another version of the program, or one that watches
/// another address than `server`, is replaced.
pub fn ensure(data: &Path, network: &NodeNetwork, server: SocketAddr) -> Result<(), NamesError> {
    let path = pid_file(data);
    let failed = |source| NamesError::File { path: path.clone(), source };
    let program = std::env::current_exe().map_err(failed)?;
    let watched = data.join("dns.server");
    if let Some(pid) = running(data).map_err(failed)? {
        let watches =
            std::fs::read_to_string(&watched).is_ok_and(|text| text == server.to_string());
        let same = watches
            && std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()))
                .is_ok_and(|exe| exe == program);
        if same {
            return Ok(());
        }
        end(data).map_err(failed)?;
    }
    std::fs::write(&watched, server.to_string()).map_err(failed)?;
    let log = data.join("dns.log");
    let output =
        std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(failed)?;
    let copy = output.try_clone().map_err(failed)?;
    Command::new(program)
        .arg(SUBCOMMAND)
        .arg(data)
        .arg(network.dns.to_string())
        .args(
            [network.pods, network.services].map(|(network, length)| format!("{network}/{length}")),
        )
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(copy)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok(())
}

/// The DNS server that runs: it holds a lock on its pid file as long as it lives.
fn running(data: &Path) -> std::io::Result<Option<rustix::process::Pid>> {
    let file = match std::fs::File::open(pid_file(data)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let text = std::io::read_to_string(file)?;
            Ok(text.trim().parse().ok().and_then(rustix::process::Pid::from_raw))
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends the DNS server, if one runs, and waits until it is gone.
pub fn end(data: &Path) -> std::io::Result<()> {
    let Some(pid) = running(data)? else { return Ok(()) };
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::TERM)?;
    let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 3, tv_nsec: 0 };
    if rustix::event::poll(&mut polled, Some(&patience))? == 0 {
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
        rustix::event::poll(&mut polled, Some(&patience))?;
    }
    Ok(())
}

/// The process's whole life.
pub fn main() -> ExitCode {
    crate::serve::start_logging();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %berth_report::chain(&error), "dns server failed");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), NamesError> {
    let mut arguments = std::env::args_os().skip(2);
    let data = PathBuf::from(arguments.next().ok_or(NamesError::Usage)?);
    let address: Ipv4Addr =
        arguments.next().and_then(|text| text.to_str()?.parse().ok()).ok_or(NamesError::Usage)?;
    let networks = arguments
        .map(|text| text.to_str()?.parse::<Ipv4Net>().ok())
        .map(|network| network.map(|network| (network.network(), network.prefix_len())))
        .collect::<Option<Vec<_>>>()
        .ok_or(NamesError::Usage)?;
    let path = pid_file(&data);
    let failed = |source| NamesError::File { path: path.clone(), source };
    let file = crate::lock::open(&path).map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
    file.set_len(0).map_err(failed)?;
    std::io::Write::write_all(&mut &file, std::process::id().to_string().as_bytes())
        .map_err(failed)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let client = berth_client::open(&data.join("dns.kubeconfig"))
            .await
            .map_err(|error| NamesError::Client(Box::new(error)))?;
        let stop = CancellationToken::new();
        tokio::spawn(crate::serve::cancel_on_signal(stop.clone()));
        let mut settings = berth_dns::Settings::new(vec![SocketAddr::from((address, 53))]);
        settings.networks = networks;
        Ok(berth_dns::run(client, settings, stop).await?)
    })
}
