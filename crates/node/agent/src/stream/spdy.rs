//! A line over SPDY/3.1: the client opens one stream for each direction, named by the header `streamtype`.

use std::time::Duration;

use berth_spdy::{Output, Session, SpdyError, Stream};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::line::{Carrier, Channel, Incoming, Line, Wanted, failure, size};

/// How long a client may take to open its streams, and to take the last words.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection ended.
    #[error("the connection ended before the streams `{missing}` were there")]
    Ended {
        missing: String,
        #[source]
        source: Option<SpdyError>,
    },
    /// The client took too long.
    #[error("the streams `{missing}` did not come in time")]
    Late { missing: String },
}

/// The streams of an exec or attach.
#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    input: Option<Stream>,
    output: Option<Stream>,
    errors: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn missing(&self, wanted: Wanted) -> Vec<&'static str> {
        let all = [
            ("error", true, self.error.is_some()),
            ("stdin", wanted.input, self.input.is_some()),
            ("stdout", wanted.output, self.output.is_some()),
            ("stderr", wanted.errors, self.errors.is_some()),
            ("resize", wanted.terminal, self.resize.is_some()),
        ];
        all.into_iter().filter(|(_, want, have)| *want && !have).map(|(name, ..)| name).collect()
    }

    fn take(&mut self, stream: Stream) {
        let place = match stream.headers.get("streamtype") {
            Some("error") => &mut self.error,
            Some("stdin") => &mut self.input,
            Some("stdout") => &mut self.output,
            Some("stderr") => &mut self.errors,
            Some("resize") => &mut self.resize,
            other => {
                debug!(?other, "a client opened a stream that is for nothing");
                return;
            }
        };
        *place = Some(stream);
    }
}

/// Waits for the client's streams. The line ends with a word to the client when `stop` is cancelled.
///
/// # Errors
/// When the client does not open the streams it asked for.
pub async fn open<T>(
    connection: T,
    wanted: Wanted,
    stop: CancellationToken,
) -> Result<Line, OpenError>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut session, drive) = berth_spdy::serve(connection);
    let mut drive = Box::pin(drive);
    let mut streams = Streams::default();
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    loop {
        let missing = streams.missing(wanted);
        if missing.is_empty() {
            break;
        }
        let missing = || missing.join(" ");
        tokio::select! {
            Some(stream) = session.next() => streams.take(stream),
            ended = &mut drive => {
                return Err(OpenError::Ended { missing: missing(), source: ended.err() });
            }
            () = &mut deadline => return Err(OpenError::Late { missing: missing() }),
        }
    }
    Ok(Line::start(|carrier| carry(session, drive, streams, carrier, stop)))
}

async fn carry(
    session: Session,
    mut drive: impl Future<Output = Result<(), SpdyError>> + Send + Unpin,
    streams: Streams,
    carrier: Carrier,
    stop: CancellationToken,
) {
    let Carrier { incoming, outgoing } = carrier;
    // Dropped at the end, and with it the tasks.
    let mut readers = JoinSet::new();
    if let Some(stream) = streams.input {
        readers.spawn(read_input(stream, incoming.clone()));
    }
    if let Some(stream) = streams.resize {
        readers.spawn(read_sizes(stream, incoming.clone()));
    }
    let mut sinks = [streams.output, streams.errors, streams.error]
        .map(|stream| stream.map(|stream| (stream.output, stream.input)));
    let talk = async {
        tokio::select! {
            () = write(outgoing, &mut sinks) => {}
            () = stop.cancelled() => {
                let last = failure("the server is stopping").to_string();
                send(&mut sinks, Channel::Status, Bytes::from(last)).await;
            }
        }
        for (output, _input) in sinks.into_iter().flatten() {
            // A client that has gone needs no end.
            let _gone = output.finish().await;
        }
        session.close().await;
    };
    let carried = async {
        tokio::select! {
            // The client has gone; the other side of the line sees it as its end.
            ended = &mut drive => return Some(ended),
            () = talk => {}
        }
        tokio::time::timeout(PATIENCE, &mut drive).await.ok()
    };
    let ended = carried.await;
    if let Some(Err(error)) = ended {
        debug!(error = &error as &dyn std::error::Error, "a client's connection ended badly");
    }
    drop(incoming);
}

type Sinks = [Option<(Output, mpsc::Receiver<Bytes>)>; 3];

async fn write(mut outgoing: mpsc::Receiver<(Channel, Bytes)>, sinks: &mut Sinks) {
    while let Some((channel, content)) = outgoing.recv().await {
        send(sinks, channel, content).await;
    }
}

async fn send(sinks: &mut Sinks, channel: Channel, content: Bytes) {
    if let Some((sink, _)) = &mut sinks[channel as usize] {
        // The end of the connection is seen where it is driven.
        let _gone = sink.send(content).await;
    }
}

async fn read_input(mut stream: Stream, incoming: mpsc::Sender<Incoming>) {
    while let Some(bytes) = stream.input.recv().await {
        if incoming.send(Incoming::Input(bytes)).await.is_err() {
            return;
        }
    }
    // If nobody listens any more it has ended anyway.
    let _ended = incoming.send(Incoming::InputEnds).await;
    let _gone = stream.output.finish().await;
}

/// The longest message about a terminal's size, in bytes.
const SIZE_LIMIT: usize = 4096;

async fn read_sizes(mut stream: Stream, incoming: mpsc::Sender<Incoming>) {
    let mut pending = Vec::new();
    while let Some(bytes) = stream.input.recv().await {
        pending.extend_from_slice(&bytes);
        let mut values = serde_json::Deserializer::from_slice(&pending).into_iter();
        let mut sizes = Vec::new();
        while let Some(Ok(value)) = values.next() {
            sizes.push(size(&value));
        }
        let used = values.byte_offset();
        pending.drain(..used);
        if pending.len() > SIZE_LIMIT {
            debug!("a client sends sizes that are none");
            return;
        }
        for size in sizes {
            if incoming.send(size).await.is_err() {
                return;
            }
        }
    }
}
