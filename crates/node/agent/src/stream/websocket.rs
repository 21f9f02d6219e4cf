//! A line over WebSocket, in the channel protocol of Kubernetes.
//!
//! Each message begins with the number of its channel: 0 input, 1 output, 2 errors, 3 the final status, 4 the terminal's
//! size, and in version 5 also 255, which ends the channel it names.

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::line::{Channel, Incoming, Line, failure, size};

const INPUT: u8 = 0;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A line over a connection that has shaken hands. It ends with a word to the client when `stop` is cancelled.
pub fn open(socket: Socket, stop: CancellationToken) -> Line {
    Line::start(|carrier| async move {
        let (mut sink, source) = socket.split();
        let reading = async {
            read(source, carrier.incoming).await;
            // The client has gone, which the other side of the line sees; it ends what is being written.
            std::future::pending().await
        };
        tokio::select! {
            () = write(&mut sink, carrier.outgoing) => {}
            () = reading => {}
            () = stop.cancelled() => {
                let last = failure("the server is stopping").to_string();
                let _gone = sink.send(framed(Channel::Status, last.as_bytes())).await;
            }
        }
        // Clients take an end without this code for a broken connection. Nobody is left to tell when it fails.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _gone = sink.send(Message::Close(Some(normal))).await;
        let _gone = sink.close().await;
    })
}

async fn read(mut source: SplitStream<Socket>, incoming: mpsc::Sender<Incoming>) {
    while let Some(Ok(message)) = source.next().await {
        let told = match message {
            Message::Binary(bytes) => understand(&bytes),
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
        };
        if let Some(told) = told
            && incoming.send(told).await.is_err()
        {
            return;
        }
    }
}

fn understand(bytes: &Bytes) -> Option<Incoming> {
    match *bytes.first()? {
        INPUT => Some(Incoming::Input(bytes.slice(1..))),
        RESIZE => serde_json::from_slice(&bytes[1..]).ok().map(|message| size(&message)),
        CLOSE if bytes.get(1) == Some(&INPUT) => Some(Incoming::InputEnds),
        _ => None,
    }
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    mut outgoing: mpsc::Receiver<(Channel, Bytes)>,
) {
    while let Some((channel, content)) = outgoing.recv().await {
        if sink.send(framed(channel, &content)).await.is_err() {
            return;
        }
    }
}

fn framed(channel: Channel, content: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(content.len() + 1);
    bytes.push(match channel {
        Channel::Output => 1,
        Channel::Errors => 2,
        Channel::Status => 3,
    });
    bytes.extend_from_slice(content);
    Message::Binary(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let of = |bytes: &'static [u8]| understand(&Bytes::from_static(bytes));
        assert_eq!(of(b"\0ls\n"), Some(Incoming::Input(Bytes::from_static(b"ls\n"))));
        assert_eq!(of(b"\xff\0"), Some(Incoming::InputEnds));
        assert_eq!(of(b"\x04{\"Width\":80,\"Height\":24}"), Some(Incoming::Resize(24, 80)));
        assert_eq!(of(b"\x04nonsense"), None);
        assert_eq!(of(b"\xff\x01"), None);
        assert_eq!(of(b""), None);
        assert_eq!(framed(Channel::Errors, b"x"), Message::Binary(Bytes::from_static(b"\x02x")));
    }
}
