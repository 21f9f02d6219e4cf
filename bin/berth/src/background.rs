//! Starting a server in the background.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_cli::{ServerState, Started};
use rustix::fs::{FlockOperation, flock};

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    /// The data directory.
    #[error("cannot use the data directory `{}`", path.display())]
    Data { path: PathBuf, source: io::Error },
    /// The program could not be started again.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
    /// It ended before it was ready.
    #[error("the server ended before it was ready ({status}); the end of `{}` says:\n{tail}", log.display())]
    Ended { status: String, log: PathBuf, tail: String },
    /// It takes too long.
    #[error("the server is not ready after {} s; see `{}`", waited.as_secs(), log.display())]
    Slow { waited: Duration, log: PathBuf },
}

/// A machine under full load starts a server within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes sure that a server runs for this data directory.
pub async fn ensure(data: &Path) -> Result<Started, BackgroundError> {
    let failed = |source| BackgroundError::Data { path: data.to_owned(), source };
    if answers(data).await {
        return Ok(Started::Already);
    }
    std::fs::create_dir_all(data).map_err(failed)?;
    // Two commands at once must not start two servers.
    let turn = crate::lock::open(&data.join("start.lock")).map_err(failed)?;
    let turn = tokio::task::spawn_blocking(move || {
        flock(&turn, FlockOperation::LockExclusive).map(|()| turn)
    });
    let _turn = turn
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(|error| failed(error.into()))?;
    if answers(data).await {
        return Ok(Started::Already);
    }
    let log = data.join("server.log");
    let output = OpenOptions::new().create(true).append(true).open(&log).map_err(failed)?;
    let copy = output.try_clone().map_err(failed)?;
    let program = std::env::current_exe().map_err(BackgroundError::Start)?;
    let mut child = Command::new(program)
        .args(["serve", "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(copy)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(BackgroundError::Start)?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if let Some(status) = child.try_wait().map_err(BackgroundError::Start)? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(5)..].join("\n");
            return Err(BackgroundError::Ended { status: status.to_string(), log, tail });
        }
        if state_of(data, child.id()).is_some() && answers(data).await {
            return Ok(Started::Now);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(BackgroundError::Slow { waited: PATIENCE, log })
}

async fn answers(data: &Path) -> bool {
    match ServerState::read(data) {
        Ok(Some(state)) => state.answers().await,
        _ => false,
    }
}

fn state_of(data: &Path, pid: u32) -> Option<ServerState> {
    ServerState::read(data).ok().flatten().filter(|state| state.pid == pid)
}
