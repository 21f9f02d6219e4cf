//! Exec, attach and port-forward: what a client asks for, and over which protocol.
//!
//! Clients come over WebSocket or over SPDY/3.1; from there on a [`Line`] hides the difference.

mod forward;
mod line;
mod process;
mod spdy;
mod tunnel;
mod websocket;

use berth_shim::Shim;
use berth_shim::protocol::Exec;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::access::{Body, BoxError, Found, Query, Refusal, Remembered, full};

use line::{Line, Wanted};

/// The channel protocols of exec and attach, over WebSocket and over SPDY. They differ in how a client ends its input over
/// WebSocket, and not at all over SPDY.
const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const SPDY: &str = "SPDY/3.1";
const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// The protocol of port-forward over SPDY, and SPDY's own bytes inside a WebSocket.
const FORWARD: &str = "portforward.k8s.io";
const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A connection that speaks the protocol that was agreed on.
enum Connection {
    Socket(Box<WebSocketStream<TokioIo<Upgraded>>>),
    Spdy(TokioIo<Upgraded>),
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
    let wanted = wanted(query)?;
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
    upgrade(request, &CHANNELS, &CHANNELS, async move |connection| {
        if let Some(line) = open(connection, wanted, &closing).await {
            process::exec(line, shim, order, wanted).await;
        }
    })
}

/// How clients read what is not in channels: as bytes, as texts, or as bytes because they do not say.
const READERS: [&str; 3] = ["binary.k8s.io", "base64.binary.k8s.io", PLAIN];
const PLAIN: &str = "";

/// Whether a client wants to read over WebSocket.
pub(crate) fn wants_socket<B>(request: &Request<B>) -> bool {
    offered(request, &header::UPGRADE).iter().any(|wish| wish.eq_ignore_ascii_case("websocket"))
}

/// Connects to a container's own streams.
pub(crate) fn attach<B>(
    found: Found,
    query: &Query,
    request: &mut Request<B>,
    closing: CancellationToken,
) -> Result<Response<Body>, Refusal> {
    let wanted = wanted(query)?;
    upgrade(request, &CHANNELS, &CHANNELS, async move |connection| {
        if let Some(line) = open(connection, wanted, &closing).await {
            process::attach(line, found, wanted).await;
        }
    })
}

/// Connects to ports of a pod.
pub(crate) fn port_forward<B>(
    shim: Shim,
    request: &mut Request<B>,
    closing: CancellationToken,
) -> Result<Response<Body>, Refusal> {
    upgrade(request, &[FORWARD_TUNNEL], &[FORWARD], async move |connection| match connection {
        Connection::Socket(socket) => {
            forward::serve(tunnel::Tunnel::new(*socket), shim, closing).await;
        }
        Connection::Spdy(stream) => forward::serve(stream, shim, closing).await,
    })
}

/// Sends what is only read over WebSocket: each piece as a message, in base64 where the client asks for texts.
pub(crate) fn reader<B>(
    request: &mut Request<B>,
    mut pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static,
    closing: CancellationToken,
) -> Result<Response<Body>, Refusal> {
    let chosen = choose(&offered(request, &header::SEC_WEBSOCKET_PROTOCOL), &READERS);
    let texts = chosen == Some(READERS[1]);
    upgrade(request, &READERS, &[], async move |connection| {
        let Connection::Socket(socket) = connection else { return };
        let (mut sink, mut source) = socket.split();
        let writing = async {
            while let Some(Ok(piece)) = pieces.next().await {
                let message = match texts {
                    true => Message::text(berth_objects::base64_encode(&piece)),
                    false => Message::Binary(piece),
                };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        };
        // The client says nothing but that it has gone.
        let gone = async { while let Some(Ok(_)) = source.next().await {} };
        tokio::select! {
            () = writing => {}
            () = gone => {}
            () = closing.cancelled() => {}
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _gone = sink.send(Message::Close(Some(normal))).await;
        let _gone = sink.close().await;
    })
}

fn wanted(query: &Query) -> Result<Wanted, Refusal> {
    let terminal = query.flag("tty");
    let wanted = Wanted {
        input: query.flag("stdin"),
        output: query.flag("stdout"),
        // A terminal has one output.
        errors: query.flag("stderr") && !terminal,
        terminal,
    };
    if !(wanted.input || wanted.output || wanted.errors) {
        return Err(Refusal::bad("at least one of stdin, stdout and stderr is needed"));
    }
    Ok(wanted)
}

async fn open(connection: Connection, wanted: Wanted, closing: &CancellationToken) -> Option<Line> {
    match connection {
        Connection::Socket(socket) => Some(websocket::open(*socket, closing.clone())),
        Connection::Spdy(stream) => match spdy::open(stream, wanted, closing.clone()).await {
            Ok(line) => Some(line),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "a client opened no streams");
                None
            }
        },
    }
}

/// What the client listed in a header, in its order.
fn offered<'a, B>(request: &'a Request<B>, name: &HeaderName) -> Vec<&'a str> {
    let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

fn choose<'p>(offered: &[&str], spoken: &[&'p str]) -> Option<&'p str> {
    offered.iter().find_map(|wish| spoken.iter().find(|known| *known == wish)).copied()
}

/// Agrees on a protocol, answers 101 and serves the connection once it is there.
fn upgrade<B, F>(
    request: &mut Request<B>,
    sockets: &[&'static str],
    spdy: &[&'static str],
    serve: impl FnOnce(Connection) -> F + Send + 'static,
) -> Result<Response<Body>, Refusal>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let wishes = offered(request, &header::UPGRADE);
    let is_spdy = wishes.iter().any(|wish| wish.eq_ignore_ascii_case(SPDY));
    if is_spdy {
        let protocol =
            choose(&offered(request, &SPDY_PROTOCOL), spdy).ok_or_else(|| unspoken(SPDY, spdy))?;
        answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
        answer.insert(SPDY_PROTOCOL, HeaderValue::from_static(protocol));
    } else {
        let protocol = choose(&offered(request, &header::SEC_WEBSOCKET_PROTOCOL), sockets);
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        // Who only reads need not say how.
        let plain = sockets.contains(&PLAIN)
            && !request.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let protocol = protocol.or_else(|| plain.then_some(PLAIN));
        let (Some(protocol), Some(key)) = (protocol, key) else {
            return Err(unspoken("WebSocket", sockets));
        };
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .map_err(|_| Refusal::bad("the WebSocket key is not valid"))?;
        answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if !protocol.is_empty() {
            answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
    }
    let pending = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| Refusal::bad("this connection cannot be upgraded; HTTP/1.1 is needed"))?;
    tokio::spawn(async move {
        match pending.await {
            Ok(upgraded) if is_spdy => serve(Connection::Spdy(TokioIo::new(upgraded))).await,
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                serve(Connection::Socket(Box::new(socket))).await;
            }
            Err(error) => debug!(%error, "a client left before its connection was upgraded"),
        }
    });
    Ok(response)
}

fn unspoken(transport: &str, protocols: &[&str]) -> Refusal {
    Refusal::bad(format!(
        "this needs an upgrade to SPDY/3.1 or WebSocket; over {transport} it speaks {}",
        protocols.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_choice_wins() {
        let request = Request::builder()
            .header("x-stream-protocol-version", "v9.channel.k8s.io, v4.channel.k8s.io")
            .header("X-Stream-Protocol-Version", "v5.channel.k8s.io")
            .body(())
            .unwrap();
        let offered = offered(&request, &SPDY_PROTOCOL);
        assert_eq!(choose(&offered, &CHANNELS), Some("v4.channel.k8s.io"));
        assert_eq!(choose(&["channel.k8s.io"], &CHANNELS), None);
    }

    #[test]
    fn a_request_that_wants_nothing_is_refused() {
        assert!(wanted(&Query::parse("tty=true&stderr=true")).is_err());
        let both = wanted(&Query::parse("tty=true&stdout=true&stderr=true")).ok();
        let expected = Wanted { input: false, output: true, errors: false, terminal: true };
        assert_eq!(both, Some(expected));
    }
}
