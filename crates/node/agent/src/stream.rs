//! Exec and attach over WebSocket, in the channel protocol of Kubernetes (`v5.channel.k8s.io` and `v4`).
//!
//! Each message begins with the number of its channel: 0 input, 1 output, 2 errors, 3 the final status, 4 the terminal's
//! size, and in version 5 also 255, which closes the channel it names.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use berth_shim::Shim;
use berth_shim::client::ShimError;
use berth_shim::protocol::Exec;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::access::{Body, Found, Query, Refusal, Remembered, full};
use crate::status::chain;

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a client asked to be connected to.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    input: bool,
    terminal: bool,
}

/// Runs a command in a container.
pub(crate) fn exec<B>(
    found: Found,
    query: &Query,
    request: &mut Request<B>,
    closing: CancellationToken,
) -> Result<Response<Body>, Refusal> {
    let command = query.all("command");
    if command.is_empty() {
        return Err(Refusal::bad("a command is needed"));
    }
    let wanted = Wanted { input: query.flag("stdin"), terminal: query.flag("tty") };
    let kept = Remembered::read(&found.directory, &found.instance)
        .ok_or_else(|| Refusal::bad("the container's configuration is not there"))?;
    let process = crate::config::exec_process(&kept.spec, &command, wanted.terminal)
        .ok_or_else(|| Refusal::bad("the container has no process"))?;
    let order = Exec {
        container: found.instance.clone(),
        process,
        user: kept.user,
        filter: kept.filter,
        terminal: wanted.terminal.then_some((0, 0)),
    };
    let shim = Shim::at(found.directory.path());
    upgrade(request, closing, move |socket, stop| run_exec(socket, shim, order, wanted, stop))
}

/// Connects to a container's own streams.
pub(crate) fn attach<B>(
    found: Found,
    query: &Query,
    request: &mut Request<B>,
    closing: CancellationToken,
) -> Result<Response<Body>, Refusal> {
    let wanted = Wanted { input: query.flag("stdin"), terminal: query.flag("tty") };
    upgrade(request, closing, move |socket, stop| run_attach(socket, found, wanted, stop))
}

/// Agrees on a protocol, answers 101 and serves the connection once it is there.
fn upgrade<B, F>(
    request: &mut Request<B>,
    closing: CancellationToken,
    serve: impl FnOnce(Socket, CancellationToken) -> F + Send + 'static,
) -> Result<Response<Body>, Refusal>
where
    F: Future<Output = ()> + Send + 'static,
{
    let headers = request.headers();
    let offered = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    let offered: Vec<&str> = offered.collect();
    let chosen = PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol));
    let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    let (Some(protocol), Some(key)) = (chosen, key) else {
        return Err(Refusal::bad(format!(
            "this needs a WebSocket with one of the protocols {}; kubectl speaks it from 1.30 on",
            PROTOCOLS.join(", ")
        )));
    };
    let pending = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| Refusal::bad("this connection cannot be upgraded; HTTP/1.1 is needed"))?;
    tokio::spawn(async move {
        match pending.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                serve(socket, closing).await;
            }
            Err(error) => debug!(%error, "a client left before its connection was upgraded"),
        }
    });
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| Refusal::bad("the WebSocket key is not valid"))?;
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

/// Our ends of a process's streams.
struct Ends {
    input: Option<AsyncFd<OwnedFd>>,
    outputs: Vec<(u8, OwnedFd)>,
    /// Where sizes go.
    terminal: Option<OwnedFd>,
}

async fn run_exec(
    socket: Socket,
    shim: Shim,
    order: Exec,
    wanted: Wanted,
    stop: CancellationToken,
) {
    let started = tokio::task::spawn_blocking(move || start_exec(&shim, order, wanted)).await;
    match started {
        Ok(Ok((execution, ends))) => {
            let ended = async {
                let waited = tokio::task::spawn_blocking(move || execution.wait()).await;
                match waited {
                    Ok(Ok(exit)) => exit_status(exit.code),
                    Ok(Err(error)) => failure(&chain(&error)),
                    Err(error) => failure(&error.to_string()),
                }
            };
            serve(socket, ends, ended, stop).await;
        }
        Ok(Err(ShimError::Failed { message, exit_code })) if exit_code >= 126 => {
            finish(socket, command_failure(&message, exit_code)).await;
        }
        Ok(Err(error)) => finish(socket, failure(&chain(&error))).await,
        Err(error) => finish(socket, failure(&error.to_string())).await,
    }
}

type Execution = berth_shim::client::Execution;

fn start_exec(shim: &Shim, order: Exec, wanted: Wanted) -> Result<(Execution, Ends), ShimError> {
    let local = |error: io::Error| ShimError::Failed { message: error.to_string(), exit_code: 1 };
    if wanted.terminal {
        let mut execution = shim.exec(order, None)?;
        let terminal = execution
            .terminal
            .take()
            .ok_or_else(|| local(io::Error::other("there is no terminal")))?;
        let ends = terminal_ends(&terminal, wanted.input).map_err(local)?;
        return Ok((execution, ends));
    }
    let make = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| local(error.into()));
    let (input_read, input_write) = make()?;
    let (output, output_write) = make()?;
    let (errors, errors_write) = make()?;
    let input = wanted.input.then(|| writer(input_write)).transpose().map_err(local)?;
    let execution = shim.exec(order, Some([input_read, output_write, errors_write]))?;
    Ok((
        execution,
        Ends { input, outputs: vec![(OUTPUT, output), (ERRORS, errors)], terminal: None },
    ))
}

fn terminal_ends(terminal: &OwnedFd, input: bool) -> io::Result<Ends> {
    let copy = || rustix::io::dup(terminal).map_err(io::Error::from);
    Ok(Ends {
        input: if input { Some(writer(copy()?)?) } else { None },
        outputs: vec![(OUTPUT, copy()?)],
        terminal: Some(copy()?),
    })
}

async fn run_attach(socket: Socket, found: Found, wanted: Wanted, stop: CancellationToken) {
    let shim = Shim::at(found.directory.path());
    let (directory, instance) = (found.directory.clone(), found.instance.clone());
    let attached = tokio::task::spawn_blocking(move || {
        let local =
            |error: io::Error| ShimError::Failed { message: error.to_string(), exit_code: 1 };
        let make = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| local(error.into()));
        let (output, output_write) = make()?;
        let (errors, errors_write) = make()?;
        let (_, input) = shim.attach(&instance, &output_write, &errors_write)?;
        let terminal = match (&input, wanted.terminal) {
            (Some(input), true) => {
                Some(rustix::io::dup(input).map_err(|error| local(error.into()))?)
            }
            _ => None,
        };
        let input = input.filter(|_| wanted.input).map(writer).transpose().map_err(local)?;
        Ok::<_, ShimError>(Ends {
            input,
            outputs: vec![(OUTPUT, output), (ERRORS, errors)],
            terminal,
        })
    })
    .await;
    match attached {
        Ok(Ok(ends)) => {
            let instance = found.instance.clone();
            let ended = async move {
                // The streams have ended, so the container has, or is about to; its exit is written down then.
                for _ in 0..100 {
                    if let Some(exit) = directory.exit(&instance) {
                        return exit_status(exit.code);
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                json!({ "metadata": {}, "status": "Success" })
            };
            serve(socket, ends, ended, stop).await;
        }
        Ok(Err(error)) => finish(socket, failure(&chain(&error))).await,
        Err(error) => finish(socket, failure(&error.to_string())).await,
    }
}

/// Moves bytes both ways until the process has ended and its output is through, or the client leaves.
async fn serve(
    socket: Socket,
    ends: Ends,
    ended: impl Future<Output = serde_json::Value> + Send,
    stop: CancellationToken,
) {
    let (mut sink, mut source) = socket.split();
    let (sender, mut messages) = mpsc::channel::<Message>(16);
    let Ends { mut input, outputs, terminal } = ends;
    let readers = outputs.into_iter().map(|(channel, end)| read_all(channel, end, sender.clone()));
    let readers = futures::future::join_all(readers.collect::<Vec<_>>());
    let incoming = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => take_in(&bytes, &mut input, terminal.as_ref()).await,
                Message::Close(_) => return,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    };
    let outgoing = async {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                return false;
            }
        }
        true
    };
    let all = async {
        // The output first: the status is the last thing a client reads.
        let ((), present) = tokio::join!(
            async {
                readers.await;
                drop(sender);
            },
            outgoing
        );
        present
    };
    let status = tokio::select! {
        present = all => if present { Some(ended.await) } else { None },
        () = incoming => None,
        () = stop.cancelled() => Some(failure("the server is stopping")),
    };
    if let Some(status) = status {
        let _client_gone = sink.send(framed(STATUS, status.to_string().as_bytes())).await;
    }
    let _client_gone = sink.close().await;
}

async fn take_in(bytes: &Bytes, input: &mut Option<AsyncFd<OwnedFd>>, terminal: Option<&OwnedFd>) {
    let Some((channel, content)) = bytes.split_first() else { return };
    match *channel {
        INPUT => {
            if let Some(end) = input
                && write_all(end, content).await.is_err()
            {
                // The process reads no more; what it still says goes on.
                *input = None;
            }
        }
        RESIZE => {
            let Some(terminal) = terminal else { return };
            let Ok(size) = serde_json::from_slice::<serde_json::Value>(content) else { return };
            let number = |name: &str| u16::try_from(size[name].as_u64().unwrap_or(0)).unwrap_or(0);
            let size = rustix::termios::Winsize {
                ws_row: number("Height"),
                ws_col: number("Width"),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
                debug!(%error, "the terminal's size was not set");
            }
        }
        CLOSE if content.first() == Some(&INPUT) => *input = None,
        _ => {}
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

async fn read_all(channel: u8, end: OwnedFd, sender: mpsc::Sender<Message>) {
    let Ok(end) = register(end, tokio::io::Interest::READABLE) else { return };
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        let Ok(mut ready) = end.readable().await else { return };
        let read = ready.try_io(|end| Ok(rustix::io::read(end.as_fd(), buffer.as_mut_slice())?));
        match read {
            // The other side of a terminal has closed when it answers `EIO`.
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(length)) => {
                if sender.send(framed(channel, &buffer[..length])).await.is_err() {
                    return;
                }
            }
            Err(_would_block) => {}
        }
    }
}

fn framed(channel: u8, content: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(content.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(content);
    Message::Binary(bytes.into())
}

async fn finish(mut socket: Socket, status: serde_json::Value) {
    let _client_gone = socket.send(framed(STATUS, status.to_string().as_bytes())).await;
    let _client_gone = socket.close(None).await;
}

fn exit_status(code: i32) -> serde_json::Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    command_failure(
        &format!("command terminated with non-zero exit code: exit status {code}"),
        code,
    )
}

fn command_failure(message: &str, code: i32) -> serde_json::Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn failure(message: &str) -> serde_json::Value {
    json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500 })
}
