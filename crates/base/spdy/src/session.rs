//! A connection with its streams.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::SpdyError;
use crate::frame::{self, Frame, Reader};
use crate::headers::{Deflater, Headers};

/// How many chunks of input may wait for the reader of a stream.
pub const WINDOW: usize = 32;
/// How many streams a client may have open.
const STREAMS: usize = 1024;
const REFUSED: u32 = 3;
const CANCELLED: u32 = 5;

/// The other side has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side has closed the connection")]
pub struct Closed;

/// What the writing half is told.
enum Order {
    Reply(u32),
    Data(u32, Bytes, bool),
    Reset(u32, u32),
    Ping(u32),
    Close,
}

/// The server's end of a connection: hands out the streams that the client opens.
pub struct Session {
    opened: mpsc::Receiver<Stream>,
    orders: mpsc::Sender<Order>,
}

/// A stream that the client has opened.
pub struct Stream {
    /// What it is for.
    pub headers: Headers,
    /// What the client sends, until it ends its side or the connection.
    pub input: mpsc::Receiver<Bytes>,
    /// What the client receives.
    pub output: Output,
}

/// The sending side of a stream. Dropped without [`Output::finish`], it tells the client that the stream broke off.
pub struct Output {
    stream: u32,
    orders: mpsc::Sender<Order>,
    finished: bool,
}

/// Serves a connection whose protocol is agreed on. The future moves its bytes and must be polled until it ends: at the
/// client's wish, at [`Session::close`], or with an error.
///
/// # Errors
/// The future ends with an error when the connection breaks or the client does not keep to SPDY/3.1.
pub fn serve<T>(connection: T) -> (Session, impl Future<Output = Result<(), SpdyError>> + Send)
where
    T: AsyncRead + AsyncWrite + Send,
{
    let (source, sink) = tokio::io::split(connection);
    let (announce, opened) = mpsc::channel(WINDOW);
    let (orders, received) = mpsc::channel(WINDOW);
    let newest = Arc::new(AtomicU32::new(0));
    let dispatch = Dispatch {
        inputs: HashMap::new(),
        announce,
        orders: orders.clone(),
        newest: Arc::clone(&newest),
    };
    let drive = async move {
        let mut source = std::pin::pin!(source);
        let mut sink = std::pin::pin!(sink);
        let writing = write(sink.as_mut(), received, &newest);
        tokio::select! {
            read = dispatch.run(Reader::new(source.as_mut())) => read,
            written = writing => written,
        }
    };
    (Session { opened, orders }, drive)
}

impl Session {
    /// The next stream the client opens; none once the connection has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Sends what is still to go out, then ends the connection.
    pub async fn close(self) {
        // A connection that has ended already needs no end.
        let _ended = self.orders.send(Order::Close).await;
    }
}

impl Output {
    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Closed> {
        self.orders.send(Order::Data(self.stream, bytes, false)).await.map_err(|_| Closed)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn finish(mut self) -> Result<(), Closed> {
        self.finished = true;
        self.orders.send(Order::Data(self.stream, Bytes::new(), true)).await.map_err(|_| Closed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            // When the queue is full the client learns it from the end of the connection.
            let _full = self.orders.try_send(Order::Reset(self.stream, CANCELLED));
        }
    }
}

struct Dispatch {
    inputs: HashMap<u32, mpsc::Sender<Bytes>>,
    announce: mpsc::Sender<Stream>,
    orders: mpsc::Sender<Order>,
    newest: Arc<AtomicU32>,
}

impl Dispatch {
    async fn run<R: AsyncRead + Unpin>(mut self, mut reader: Reader<R>) -> Result<(), SpdyError> {
        while let Some(frame) = reader.next().await? {
            match frame {
                Frame::Open { stream, headers, last } => self.open(stream, headers, last).await?,
                Frame::Reset { stream } => drop(self.inputs.remove(&stream)),
                Frame::Ping { id } => self.tell(Order::Ping(id)).await,
                Frame::Data { stream, bytes, last } => {
                    if let Some(input) = self.inputs.get(&stream)
                        && !bytes.is_empty()
                    {
                        // Who reads no more does not want the rest.
                        let _unwanted = input.send(bytes).await;
                    }
                    if last {
                        self.inputs.remove(&stream);
                    }
                }
                // The client opens no more streams, but those that are open go on.
                Frame::GoAway | Frame::Other => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, headers: Headers, last: bool) -> Result<(), SpdyError> {
        if stream.is_multiple_of(2) || stream <= self.newest.load(Ordering::Relaxed) {
            return Err(SpdyError::Protocol("a stream has a number that is not its turn"));
        }
        self.newest.store(stream, Ordering::Relaxed);
        self.inputs.retain(|_, input| !input.is_closed());
        if self.inputs.len() >= STREAMS {
            self.tell(Order::Reset(stream, REFUSED)).await;
            return Ok(());
        }
        let (sender, input) = mpsc::channel(WINDOW);
        if !last {
            self.inputs.insert(stream, sender);
        }
        self.tell(Order::Reply(stream)).await;
        let output = Output { stream, orders: self.orders.clone(), finished: false };
        // The server may have stopped taking streams; dropping this one tells the client.
        let _unwanted = self.announce.send(Stream { headers, input, output }).await;
        Ok(())
    }

    async fn tell(&self, order: Order) {
        // The writing half only ends together with this one.
        let _ended = self.orders.send(order).await;
    }
}

async fn write<W: AsyncWrite + Unpin>(
    mut sink: W,
    mut orders: mpsc::Receiver<Order>,
    newest: &AtomicU32,
) -> Result<(), SpdyError> {
    let mut deflater = Deflater::new()?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Reply(stream) => {
                let block = deflater.write(&Headers::default())?;
                sink.write_all(&frame::reply(stream, &block)).await?;
            }
            Order::Data(stream, bytes, last) => {
                sink.write_all(&frame::data_head(stream, bytes.len(), last)).await?;
                sink.write_all(&bytes).await?;
            }
            Order::Reset(stream, status) => {
                sink.write_all(&frame::reset(stream, status)).await?;
            }
            Order::Ping(id) => sink.write_all(&frame::ping(id)).await?,
            Order::Close => {
                let last = newest.load(Ordering::Relaxed);
                sink.write_all(&frame::go_away(last, 0)).await?;
                break;
            }
        }
        if orders.is_empty() {
            sink.flush().await?;
        }
    }
    sink.flush().await?;
    Ok(sink.shutdown().await?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;
    use crate::headers::Deflater;

    fn headers(kind: &str) -> Headers {
        Headers(vec![("streamtype".into(), kind.into())])
    }

    async fn send(client: &mut DuplexStream, stream: u32, bytes: &[u8], last: bool) {
        client.write_all(&frame::data_head(stream, bytes.len(), last)).await.unwrap();
        client.write_all(bytes).await.unwrap();
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_end_one_way_at_a_time() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (mut session, drive) = serve(server);
        let driven = tokio::spawn(drive);
        let mut deflater = Deflater::new().unwrap();
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let block = deflater.write(&headers(kind)).unwrap();
            client.write_all(&frame::open(stream, &block, kind == "error")).await.unwrap();
        }
        send(&mut client, 3, b"hello", true).await;
        let error = session.next().await.unwrap();
        let mut data = session.next().await.unwrap();
        assert_eq!(error.headers.get("streamtype"), Some("error"));
        assert_eq!(data.headers.get("streamtype"), Some("data"));
        assert_eq!(data.input.recv().await.unwrap(), "hello");
        assert_eq!(data.input.recv().await, None);
        data.output.send(Bytes::from_static(b"bye")).await.unwrap();
        data.output.finish().await.unwrap();
        error.output.finish().await.unwrap();
        session.close().await;
        driven.await.unwrap().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        let expected = [&frame::data_head(3, 3, false)[..], b"bye"].concat();
        assert!(answer.windows(expected.len()).any(|part| part == expected));
        assert!(answer.ends_with(&frame::go_away(3, 0)));
    }

    #[tokio::test]
    async fn a_reused_number_ends_the_connection() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (_session, drive) = serve(server);
        let mut deflater = Deflater::new().unwrap();
        for _ in 0..2 {
            let block = deflater.write(&headers("data")).unwrap();
            client.write_all(&frame::open(1, &block, false)).await.unwrap();
        }
        assert!(matches!(drive.await, Err(SpdyError::Protocol(_))));
    }

    #[tokio::test]
    async fn what_nobody_reads_is_not_piled_up() {
        let (mut client, server) = tokio::io::duplex(1 << 12);
        let (mut session, drive) = serve(server);
        let driven = tokio::spawn(drive);
        let block = Deflater::new().unwrap().write(&headers("data")).unwrap();
        client.write_all(&frame::open(1, &block, false)).await.unwrap();
        let mut stream = session.next().await.unwrap();
        let flood = async {
            loop {
                send(&mut client, 1, &[0; 1024], false).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(200), flood).await.is_err());
        assert!(stream.input.recv().await.is_some());
        driven.abort();
    }
}
