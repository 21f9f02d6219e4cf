//! A process's streams and a client's line, joined.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use berth_shim::Shim;
use berth_shim::client::{Execution, ShimError};
use berth_shim::protocol::Exec;
use bytes::Bytes;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::debug;

use super::line::{Channel, Incoming, Line, Wanted, command_failure, exit_status, failure};
use crate::access::{Found, Remembered};
use crate::directory::PodDirectory;
use crate::status::chain;

/// How much of its own output an interactive container repeats to the first who attaches, in bytes.
const SCREEN: u64 = 64 << 10;

/// Our ends of a process's streams.
struct Ends {
    /// What was said before, on either stream, to be sent first.
    before: [Vec<u8>; 2],
    input: Option<AsyncFd<OwnedFd>>,
    outputs: Vec<(Channel, OwnedFd)>,
    /// Where sizes go.
    terminal: Option<OwnedFd>,
    /// The container whose input ends together with the client's.
    once: Option<(Shim, String)>,
}

/// Runs a command for a client.
pub async fn exec(line: Line, shim: Shim, order: Exec, wanted: Wanted) {
    let started = tokio::task::spawn_blocking(move || start(&shim, order, wanted)).await;
    match started {
        Ok(Ok((execution, ends))) => {
            let ended = async {
                match tokio::task::spawn_blocking(move || execution.wait()).await {
                    Ok(Ok(exit)) => exit_status(exit.code),
                    Ok(Err(error)) => failure(&chain(&error)),
                    Err(error) => failure(&error.to_string()),
                }
            };
            join(line, ends, wanted, ended).await;
        }
        Ok(Err(ShimError::Failed { message, exit_code })) if exit_code >= 126 => {
            line.finish(&command_failure(&message, exit_code)).await;
        }
        Ok(Err(error)) => line.finish(&failure(&chain(&error))).await,
        Err(error) => line.finish(&failure(&error.to_string())).await,
    }
}

/// Connects a client to a container.
pub async fn attach(line: Line, found: Found, wanted: Wanted) {
    let (directory, instance) = (found.directory.clone(), found.instance.clone());
    let attached =
        tokio::task::spawn_blocking(move || connect(&directory, &instance, wanted)).await;
    match attached {
        Ok(Ok(ends)) => {
            join(line, ends, wanted, container_end(found.directory, found.instance)).await;
        }
        Ok(Err(error)) => line.finish(&failure(&chain(&error))).await,
        Err(error) => line.finish(&failure(&error.to_string())).await,
    }
}

/// How the container ended. Its streams have, so it has too, or is about to; its exit is written down then.
async fn container_end(directory: PodDirectory, instance: String) -> Value {
    for _ in 0..100 {
        if let Some(exit) = directory.exit(&instance) {
            return exit_status(exit.code);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    exit_status(0)
}

fn local(error: impl Into<io::Error>) -> ShimError {
    ShimError::Failed { message: error.into().to_string(), exit_code: 1 }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), ShimError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(local)
}

fn start(shim: &Shim, order: Exec, wanted: Wanted) -> Result<(Execution, Ends), ShimError> {
    if wanted.terminal {
        let mut execution = shim.exec(order, None)?;
        let terminal = execution
            .terminal
            .take()
            .ok_or_else(|| local(io::Error::other("there is no terminal")))?;
        let copy = || rustix::io::dup(&terminal).map_err(local);
        let input = if wanted.input { Some(writer(copy()?).map_err(local)?) } else { None };
        let outputs = vec![(Channel::Output, copy()?)];
        let ends = Ends {
            before: <[Vec<u8>; 2]>::default(),
            input,
            outputs,
            terminal: Some(copy()?),
            once: None,
        };
        return Ok((execution, ends));
    }
    let (input_read, input_write) = pipe()?;
    let (output, output_write) = pipe()?;
    let (errors, errors_write) = pipe()?;
    let input = wanted.input.then(|| writer(input_write)).transpose().map_err(local)?;
    let execution = shim.exec(order, Some([input_read, output_write, errors_write]))?;
    let outputs = vec![(Channel::Output, output), (Channel::Errors, errors)];
    Ok((
        execution,
        Ends { before: <[Vec<u8>; 2]>::default(), input, outputs, terminal: None, once: None },
    ))
}

fn connect(directory: &PodDirectory, instance: &str, wanted: Wanted) -> Result<Ends, ShimError> {
    let (output, output_write) = pipe()?;
    let (errors, errors_write) = pipe()?;
    let shim = Shim::at(directory.path());
    let attached = shim.attach(instance, &output_write, &errors_write)?;
    let terminal = match (&attached.input, wanted.terminal) {
        (Some(input), true) => Some(rustix::io::dup(input).map_err(local)?),
        _ => None,
    };
    // Who asks for an interactive container connects a moment after its start: they shall see its first words too.
    let before = if attached.first && attached.input.is_some() {
        crate::log::before(&directory.log(instance), attached.offset, SCREEN).map_err(local)?
    } else {
        <[Vec<u8>; 2]>::default()
    };
    let input = attached.input.filter(|_| wanted.input);
    let input = input.map(writer).transpose().map_err(local)?;
    let outputs = vec![(Channel::Output, output), (Channel::Errors, errors)];
    let once = Remembered::read(directory, instance).is_some_and(|kept| kept.input_once);
    let once = (once && input.is_some()).then(|| (shim, instance.to_owned()));
    Ok(Ends { before, input, outputs, terminal, once })
}

/// Moves bytes both ways until the process has ended and its output is through, or the client leaves.
async fn join(
    mut line: Line,
    ends: Ends,
    wanted: Wanted,
    ended: impl Future<Output = Value> + Send,
) {
    let Ends { before, mut input, outputs, terminal, mut once } = ends;
    let channels = [(Channel::Output, wanted.output), (Channel::Errors, wanted.errors)];
    for ((channel, is_wanted), text) in channels.into_iter().zip(before) {
        if is_wanted && !text.is_empty() {
            // A client that has left is seen below.
            let _gone = line.outgoing.send((channel, text.into())).await;
        }
    }
    let readers = outputs.into_iter().map(|(channel, end)| {
        let is_wanted = match channel {
            Channel::Output => wanted.output,
            Channel::Errors | Channel::Status => wanted.errors,
        };
        read_all(channel, end, is_wanted.then(|| line.outgoing.clone()))
    });
    let readers = futures::future::join_all(readers.collect::<Vec<_>>());
    let incoming = async {
        while let Some(told) = line.incoming.recv().await {
            take_in(told, &mut input, terminal.as_ref()).await;
            if input.is_none() {
                close(once.take()).await;
            }
        }
        close(once.take()).await;
    };
    // The output first: the status is the last thing a client reads.
    let status = tokio::select! {
        _all = readers => Some(ended.await),
        () = incoming => None,
    };
    if let Some(status) = status {
        line.finish(&status).await;
    }
}

/// Ends the input of a container that is for one client only.
async fn close(container: Option<(Shim, String)>) {
    let Some((shim, instance)) = container else { return };
    match tokio::task::spawn_blocking(move || shim.close_input(&instance)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "an input was not closed");
        }
        Err(error) => tracing::warn!(%error, "an input was not closed"),
    }
}

async fn take_in(told: Incoming, input: &mut Option<AsyncFd<OwnedFd>>, terminal: Option<&OwnedFd>) {
    match told {
        Incoming::Input(bytes) => {
            if let Some(end) = input
                && write_all(end, &bytes).await.is_err()
            {
                // The process reads no more; what it still says goes on.
                *input = None;
            }
        }
        Incoming::InputEnds => *input = None,
        Incoming::Resize(rows, columns) => {
            let Some(terminal) = terminal else { return };
            let size = rustix::termios::Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
                debug!(%error, "the terminal's size was not set");
            }
        }
    }
}

fn writer(end: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(end, tokio::io::Interest::WRITABLE)
}

#[expect(
    deprecated,
    reason = "an owned descriptor stays the same one while it is registered, which the type cannot promise"
)]
fn register(end: OwnedFd, interest: tokio::io::Interest) -> io::Result<AsyncFd<OwnedFd>> {
    set_nonblocking(&end)?;
    AsyncFd::with_interest(end, interest)
}

fn set_nonblocking(end: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(end)?;
    Ok(rustix::fs::fcntl_setfl(end, flags | rustix::fs::OFlags::NONBLOCK)?)
}

async fn write_all(end: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = end.writable().await?;
        match ready.try_io(|end| Ok(rustix::io::write(end.get_ref(), bytes)?)) {
            Ok(written) => bytes = &bytes[written?..],
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// Reads to the end. Without a sender the bytes are thrown away: a process must not wait for a reader it has not got.
async fn read_all(channel: Channel, end: OwnedFd, sender: Option<mpsc::Sender<(Channel, Bytes)>>) {
    let Ok(end) = register(end, tokio::io::Interest::READABLE) else { return };
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        let Ok(mut ready) = end.readable().await else { return };
        let read = ready.try_io(|end| Ok(rustix::io::read(end.as_fd(), buffer.as_mut_slice())?));
        match read {
            // The other side of a terminal has closed when it answers `EIO`.
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(length)) => {
                let Some(sender) = &sender else { continue };
                let bytes = Bytes::copy_from_slice(&buffer[..length]);
                if sender.send((channel, bytes)).await.is_err() {
                    return;
                }
            }
            Err(_would_block) => {}
        }
    }
}
