//! The caller's input and output joined with a process in a container.

use std::io::Read;

use futures::SinkExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachedProcess, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::{Doing, Failure};
use crate::{screen, terminal};

const CHUNK: usize = 16 << 10;

/// Moves bytes in both directions until the process has ended, and returns what the server says of its end; none if it
/// says nothing.
pub async fn join(mut process: AttachedProcess) -> Result<Option<Status>, Failure> {
    let status = process.take_status();
    let raw = match process.terminal_size() {
        Some(sizes) => {
            tokio::spawn(send_sizes(sizes));
            terminal::Raw::enter().doing("cannot use the terminal")?
        }
        None => None,
    };
    if let Some(input) = process.stdin() {
        tokio::spawn(send_input(input));
    }
    let output = copy(process.stdout(), screen::output);
    let errors = copy(process.stderr(), screen::error_output);
    tokio::join!(output, errors);
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    drop(raw);
    if status.is_none() {
        process.join().await.doing("lost the connection to the container")?;
    }
    Ok(status)
}

/// Copies to its end, or until the reader leaves.
async fn copy(from: Option<impl AsyncRead + Unpin>, to: fn(&[u8]) -> std::io::Result<()>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if to(&buffer[..length]).is_err() {
                    return;
                }
            }
        }
    }
}

/// Sends standard input to its end. A thread of its own reads it: a read cannot be cancelled, and the program must be able
/// to end while one waits for a key.
pub async fn send_input(mut to: impl AsyncWrite + Unpin) {
    let mut chunks = input();
    while let Some(chunk) = chunks.recv().await {
        let sent = async {
            to.write_all(&chunk).await?;
            to.flush().await
        };
        if sent.await.is_err() {
            return;
        }
    }
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "the container's input is closed already");
    }
}

fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// Tells the size now and whenever it changes.
async fn send_sizes(mut to: futures::channel::mpsc::Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((width, height)) = terminal::size()
            && to.send(TerminalSize { width, height }).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The exit code in the server's word about the end of a process; none if it could not be run or attached at all.
pub fn exit_code(status: &Status) -> Option<u8> {
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref());
    let cause =
        causes.into_iter().flatten().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    let code: i32 = cause.message.as_deref()?.parse().ok()?;
    // As a shell sees it.
    u8::try_from(code & 0xff).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_stands_in_the_causes() {
        let failed: Status =
            serde_json::from_value(json!({ "status": "Failure", "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": "42" }] } }))
            .unwrap();
        assert_eq!(exit_code(&failed), Some(42));
        let fine: Status = serde_json::from_value(json!({ "status": "Success" })).unwrap();
        assert_eq!(exit_code(&fine), Some(0));
        let broken: Status =
            serde_json::from_value(json!({ "status": "Failure", "message": "no" })).unwrap();
        assert_eq!(exit_code(&broken), None);
    }
}
