//! The sockets. What the index knows is answered in the receiving task itself; only what must be asked elsewhere becomes a
//! task of its own, and there is a bound to those.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::message::{Packet, Question, Reply, read};
use crate::resolve::{Local, Resolver};
use crate::upstream::Upstream;
use crate::zone::Zone;
use crate::{Index, Settings};

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address cannot be listened on.
    #[error("cannot answer names at `{address}`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// A server whose sockets are open.
pub struct Bound {
    sockets: Vec<(UdpSocket, TcpListener)>,
    resolver: Arc<Resolver>,
    under_way: usize,
}

/// A client that holds a connection must ask something in this time.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 256;

impl Bound {
    /// Opens all sockets. Port 0 takes any, the same for UDP and TCP.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub async fn bind(settings: Settings, index: Arc<Index>) -> Result<Self, DnsError> {
        let mut sockets = Vec::new();
        for address in &settings.listen {
            let wrong = |source| DnsError::Bind { address: *address, source };
            let tcp = TcpListener::bind(address).await.map_err(wrong)?;
            let local = tcp.local_addr().map_err(wrong)?;
            let udp = UdpSocket::bind(local).await.map_err(wrong)?;
            info!(address = %local, "answering names");
            sockets.push((udp, tcp));
        }
        let under_way = settings.under_way;
        let zone = Zone::new(&settings.zone);
        let resolver = Arc::new(Resolver::new(zone, index, Upstream::new(settings)));
        Ok(Self { sockets, resolver, under_way })
    }

    /// Where it answers.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(_, tcp)| tcp.local_addr().ok()).collect()
    }

    /// Answers until told to stop.
    pub async fn serve(self, stop: &CancellationToken) {
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.sockets {
            let (resolver, token) = (Arc::clone(&self.resolver), stop.clone());
            tasks.spawn(packets(Arc::new(udp), resolver, self.under_way, token));
            let (resolver, token) = (Arc::clone(&self.resolver), stop.clone());
            tasks.spawn(connections(tcp, resolver, token));
        }
        while let Some(outcome) = tasks.join_next().await {
            if let Err(error) = outcome {
                warn!(%error, "a task that answers names has failed");
            }
        }
    }
}

async fn packets(
    socket: Arc<UdpSocket>,
    resolver: Arc<Resolver>,
    most: usize,
    stop: CancellationToken,
) {
    let mut buffer = vec![0; 4096];
    let mut asking = JoinSet::new();
    loop {
        let (length, client) = tokio::select! {
            () = stop.cancelled() => return,
            Some(_done) = asking.join_next() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // Such as a report that an earlier answer did not arrive.
                Err(error) => {
                    debug!(%error, "cannot receive");
                    continue;
                }
            },
        };
        let question = match read(&buffer[..length]) {
            Packet::Noise => continue,
            Packet::Wrong(answer) => {
                send(&socket, &answer, client).await;
                continue;
            }
            Packet::Question(question) => question,
        };
        match resolver.local(question.name(), question.kind(), client.ip()) {
            Local::Done(reply) => answer(&socket, &question, &reply, client).await,
            Local::Ask(ask) => {
                // Twice the bound on questions to resolvers, since several may wait for the same.
                if asking.len() >= most.saturating_mul(2) {
                    let busy = Reply::code(hickory_proto::op::ResponseCode::ServFail);
                    answer(&socket, &question, &busy, client).await;
                    continue;
                }
                let (socket, resolver) = (Arc::clone(&socket), Arc::clone(&resolver));
                asking.spawn(async move {
                    let reply = resolver.ask(ask).await;
                    answer(&socket, &question, &reply, client).await;
                });
            }
        }
    }
}

async fn answer(socket: &UdpSocket, question: &Question, reply: &Reply, client: SocketAddr) {
    match question.answer(reply, true) {
        Some(bytes) => send(socket, &bytes, client).await,
        None => debug!(name = %question.name(), "the answer has no wire format"),
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        debug!(%client, %error, "cannot answer");
    }
}

async fn connections(listener: TcpListener, resolver: Arc<Resolver>, stop: CancellationToken) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_done) = open.join_next() => continue,
            accepted = listener.accept(), if open.len() < CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let resolver = Arc::clone(&resolver);
                open.spawn(async move {
                    if let Err(error) = converse(stream, client, &resolver).await {
                        debug!(%client, %error, "a connection has ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; those in use come back as connections end.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(
    mut stream: TcpStream,
    client: SocketAddr,
    resolver: &Resolver,
) -> Result<(), std::io::Error> {
    loop {
        let mut buffer = Vec::new();
        let received = timeout(IDLE, async {
            let length = stream.read_u16().await?;
            buffer.resize(usize::from(length), 0);
            stream.read_exact(&mut buffer).await
        });
        match received.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Ok(()),
        }
        let bytes = match read(&buffer) {
            Packet::Noise => return Ok(()),
            Packet::Wrong(bytes) => bytes,
            Packet::Question(question) => {
                let reply = match resolver.local(question.name(), question.kind(), client.ip()) {
                    Local::Done(reply) => reply,
                    Local::Ask(ask) => resolver.ask(ask).await,
                };
                let none = || std::io::Error::other("the answer has no wire format");
                question.answer(&reply, false).ok_or_else(none)?
            }
        };
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let whole = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(IDLE, stream.write_all(&whole)).await??;
    }
}
