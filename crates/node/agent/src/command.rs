//! A command in a container, for probes and hooks, to its end or to that of our patience.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use berth_shim::Shim;
use berth_shim::client::Execution;
use berth_shim::protocol::{Exec, Exit, Filter, Reply};
use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::status::chain;

/// What is needed to reach a container.
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

/// How much of a command's output is kept.
const OUTPUT: usize = 1024;

/// A process that is killed when nobody waits for it any more.
struct Leash(Option<OwnedFd>);

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            // It may have ended by itself.
            let _ended = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// Runs a command. Returns its exit code and the beginning of its output; the error is what to tell people. A command that
/// takes longer, or is no longer waited for, is killed.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub async fn run(
    target: &Target,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<(i32, String), String> {
    let process = crate::config::exec_process(&target.spec, command, false)
        .ok_or_else(|| "the container has no process".to_owned())?;
    let exec = Exec {
        container: target.instance.clone(),
        process,
        user: target.user.clone(),
        filter: target.filter.clone(),
        terminal: None,
    };
    let shim = target.shim.clone();
    let started = tokio::task::spawn_blocking(move || start(&shim, exec)).await;
    let (execution, output) = started.map_err(|error| error.to_string())??;
    let pid = Pid::from_raw(execution.pid);
    // Not there any more when it has ended already.
    let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut leash = Leash(process);
    let ended = follow(execution, output);
    let ended = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, ended)
            .await
            .map_err(|_| format!("the command did not end within {} s", timeout.as_secs()))?,
        None => ended.await,
    };
    let (exit, output) = ended.map_err(|error| format!("the shim is silent: {error}"))?;
    leash.0 = None;
    Ok((exit.code, output))
}

fn start(shim: &Shim, exec: Exec) -> Result<(Execution, OwnedFd), String> {
    let text = |error: &dyn std::error::Error| chain(error);
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| text(&error))?;
    let null: OwnedFd = std::fs::File::open("/dev/null").map_err(|error| text(&error))?.into();
    let copy = rustix::io::dup(&write).map_err(|error| text(&error))?;
    let execution = shim.exec(exec, Some([null, write, copy])).map_err(|error| text(&error))?;
    Ok((execution, read))
}

/// Reads until the process has ended, and then what is still there: what it leaves may keep its output open for ever.
async fn follow(execution: Execution, output: OwnedFd) -> io::Result<(Exit, String)> {
    let mut output = pipe::Receiver::from_owned_fd(output)?;
    let (mut text, mut buffer) = (Vec::new(), [0; 512]);
    let mut keep = |bytes: &[u8]| {
        let room = OUTPUT.saturating_sub(text.len()).min(bytes.len());
        text.extend_from_slice(&bytes[..room]);
    };
    let mut exit = std::pin::pin!(exit(execution));
    let mut open = true;
    let exit = loop {
        tokio::select! {
            exit = &mut exit => break exit?,
            length = output.read(&mut buffer), if open => {
                let length = length?;
                open = length > 0;
                keep(&buffer[..length]);
            }
        }
    };
    while open {
        match output.try_read(&mut buffer) {
            Ok(0) | Err(_) => open = false,
            Ok(length) => keep(&buffer[..length]),
        }
    }
    Ok((exit, String::from_utf8_lossy(&text).into_owned()))
}

async fn exit(execution: Execution) -> io::Result<Exit> {
    let stream = execution.into_stream();
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    let length = stream.read_u32_le().await?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    match serde_json::from_slice(&body)? {
        Reply::Exited { exit, .. } => Ok(exit),
        other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
    }
}
