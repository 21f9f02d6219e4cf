//! Port-forward: for each connection the client opens a stream for bytes and one for an error, and both name the port.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use berth_shim::Shim;
use berth_shim::client::ShimError;
use berth_spdy::Stream;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::status::chain;

/// How much is read from a connection in one go, in bytes.
const CHUNK: usize = 32 << 10;

/// Both streams of a connection.
#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Serves a client until it leaves or `stop` is cancelled.
pub async fn serve<T>(connection: T, shim: Shim, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Send,
{
    let (mut session, drive) = berth_spdy::serve(connection);
    let mut drive = Box::pin(drive);
    let shim = Arc::new(shim);
    let mut waiting: HashMap<(String, String), Pair> = HashMap::new();
    // Dropped at the end, and with it the connections.
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            Some(stream) = session.next() => stream,
            Some(_) = running.join_next() => continue,
            () = stop.cancelled() => break,
            ended = &mut drive => {
                if let Err(error) = ended {
                    debug!(error = &error as &dyn std::error::Error, "a forwarding client left");
                }
                return;
            }
        };
        let of = |name: &str| stream.headers.get(name).unwrap_or_default().to_owned();
        let key = (of("requestid"), of("port"));
        let pair = waiting.entry(key.clone()).or_default();
        match stream.headers.get("streamtype") {
            Some("data") => pair.data = Some(stream),
            Some("error") => pair.error = Some(stream),
            other => debug!(?other, "a client opened a stream that is for nothing"),
        }
        if pair.data.is_some() && pair.error.is_some() {
            let pair = waiting.remove(&key).unwrap_or_default();
            if let (Some(data), Some(error)) = (pair.data, pair.error) {
                running.spawn(forward(Arc::clone(&shim), key.1, data, error));
            }
        }
    }
    tokio::join!(session.close(), async {
        if let Err(error) = drive.await {
            debug!(error = &error as &dyn std::error::Error, "a forwarding client left");
        }
    });
}

/// Moves the bytes of one connection; what goes wrong is said on the stream for it.
async fn forward(shim: Arc<Shim>, port: String, data: Stream, mut error: Stream) {
    if let Err(problem) = connected(shim, &port, data).await {
        let text = format!("cannot forward to port {port}: {}", chain(&*problem));
        // The client may have left; then nobody wants to know.
        let _gone = error.output.send(Bytes::from(text)).await;
    }
    let _gone = error.output.finish().await;
}

async fn connected(
    shim: Arc<Shim>,
    port: &str,
    data: Stream,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let number: u16 =
        port.parse().ok().filter(|port| *port > 0).ok_or("this is not the number of a port")?;
    let namespace = tokio::task::spawn_blocking(move || namespace(&shim)).await??;
    let connect =
        move || berth_network::dial::loopback(namespace.as_ref().map(AsFd::as_fd), number);
    let connection = tokio::task::spawn_blocking(connect).await??;
    connection.set_nonblocking(true)?;
    Ok(exchange(TcpStream::from_std(connection)?, data).await?)
}

/// The pod's network namespace, none if it uses the host's.
fn namespace(shim: &Shim) -> Result<Option<OwnedFd>, ShimError> {
    Ok(shim.state()?.1)
}

async fn exchange(connection: TcpStream, stream: Stream) -> io::Result<()> {
    let (mut source, mut sink) = connection.into_split();
    let Stream { mut input, mut output, .. } = stream;
    let inward = async {
        while let Some(bytes) = input.recv().await {
            sink.write_all(&bytes).await?;
        }
        sink.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = source.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            if output.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
                return Ok(());
            }
        }
        let _gone = output.finish().await;
        Ok::<_, io::Error>(())
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        // What the pod says last ends the connection, whether or not the client has more to say.
        said = &mut outward => said,
        heard = &mut inward => {
            // A pod that no longer listens may still be talking.
            if let Err(error) = heard {
                debug!(%error, "the pod's side of a forwarded connection is closed");
            }
            outward.await
        }
    }
}
