//! The sockets: one datagram loop and one listener for each address.
//!
//! Surprising: when too many questions wait for the host's resolvers, the next one fails at once instead of queueing. A
//! client tries again after a failure, but a late answer finds nobody listening.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::plan::Reply;
use crate::resolver::{Answer, Resolver};
use crate::wire::{self, Incoming, Question};
use crate::{DnsError, Protocol};

/// How long a connection may say nothing, or take nothing.
const IDLE: Duration = Duration::from_secs(10);
/// How long to leave a socket alone that failed, so that a lasting failure does not spin.
const PAUSE: Duration = Duration::from_millis(50);
/// Questions are short; what is longer is cut and then refused as malformed.
const QUESTION: usize = 4096;

/// Both sockets of one address.
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Sockets {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How much may go on at one time.
pub(crate) struct Limits {
    pub waiting: usize,
    pub connections: usize,
}

struct Server {
    resolver: Arc<Resolver>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Opens all sockets, or none.
pub(crate) async fn bind(addresses: &[SocketAddr]) -> Result<Vec<Sockets>, DnsError> {
    let mut all = Vec::new();
    for wanted in addresses {
        let failed =
            |protocol, address| move |source| DnsError::Listen { protocol, address, source };
        let tcp = TcpListener::bind(wanted).await.map_err(failed(Protocol::Tcp, *wanted))?;
        // The same port for both, also when the system chose it.
        let address = tcp.local_addr().map_err(failed(Protocol::Tcp, *wanted))?;
        let udp = UdpSocket::bind(address).await.map_err(failed(Protocol::Udp, address))?;
        all.push(Sockets { udp, tcp, address });
    }
    Ok(all)
}

/// Serves on all sockets until told to stop, and returns when nothing is left running.
pub(crate) async fn serve(
    sockets: Vec<Sockets>,
    resolver: Arc<Resolver>,
    limits: Limits,
    stop: &CancellationToken,
) {
    let server = Arc::new(Server {
        resolver,
        waiting: Arc::new(Semaphore::new(limits.waiting)),
        connections: Arc::new(Semaphore::new(limits.connections)),
        tasks: TaskTracker::new(),
        stop: stop.clone(),
    });
    let loops = sockets.into_iter().map(|Sockets { udp, tcp, .. }| {
        let server = Arc::clone(&server);
        async move {
            let udp = Arc::new(udp);
            tokio::join!(
                server.stop.run_until_cancelled(server.datagrams(&udp)),
                server.stop.run_until_cancelled(Arc::clone(&server).connections(&tcp)),
            );
        }
    });
    join_all(loops).await;
    server.tasks.close();
    server.tasks.wait().await;
}

impl Server {
    async fn datagrams(self: &Arc<Self>, socket: &Arc<UdpSocket>) {
        let mut buffer = [0; QUESTION];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => self.datagram(socket, &buffer[..length], from).await,
                Err(error) => {
                    warn!(%error, "cannot receive datagrams");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn datagram(self: &Arc<Self>, socket: &Arc<UdpSocket>, bytes: &[u8], from: SocketAddr) {
        let question = match wire::parse(bytes) {
            Incoming::Noise => return,
            Incoming::Refused(answer) => return send(socket, &answer, from).await,
            Incoming::Question(question) => question,
        };
        let limit = question.datagram();
        let later = match self.answer(&question, from) {
            Answer::Now(reply) => {
                return send(socket, &written(&question, reply, limit), from).await;
            }
            Answer::Later(later) => later,
        };
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
            let busy = Reply::of(ResponseCode::ServFail);
            return send(socket, &written(&question, busy, limit), from).await;
        };
        let (server, socket) = (Arc::clone(self), Arc::clone(socket));
        self.tasks.spawn(async move {
            let asked = server.resolver.ask(later);
            if let Some(reply) = server.stop.run_until_cancelled(asked).await {
                send(&socket, &written(&question, reply, limit), from).await;
            }
            drop(permit);
        });
    }

    async fn connections(self: Arc<Self>, listener: &TcpListener) {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let server = Arc::clone(&self);
                    self.tasks.spawn(async move {
                        let talk = server.talk(stream, from);
                        if let Some(Err(error)) = server.stop.run_until_cancelled(talk).await {
                            debug!(%error, %from, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers one message after the other, until the client closes or falls asleep.
    async fn talk(&self, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let bytes = timeout(IDLE, message(&mut stream)).await??;
            let answer = match wire::parse(&bytes) {
                Incoming::Noise => return Ok(()),
                Incoming::Refused(answer) => answer,
                Incoming::Question(question) => {
                    let reply = match self.answer(&question, from) {
                        Answer::Now(reply) => reply,
                        Answer::Later(later) => match self.waiting.try_acquire() {
                            Ok(_permit) => self.resolver.ask(later).await,
                            Err(_busy) => Reply::of(ResponseCode::ServFail),
                        },
                    };
                    written(&question, reply, u16::MAX)
                }
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    fn answer(&self, question: &Question, from: SocketAddr) -> Answer {
        let query = &question.query;
        self.resolver.answer(query.name(), query.query_type(), from.ip().to_canonical())
    }
}

async fn message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn written(question: &Question, reply: Reply, limit: u16) -> Vec<u8> {
    question.answer(reply, limit).unwrap_or_else(|error| {
        error!(%error, query = %question.query, "cannot write an answer");
        let failure = Reply::of(ResponseCode::ServFail);
        // An answer of the question alone was taken from the wire and goes back to it.
        question.answer(failure, limit).unwrap_or_default()
    })
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        debug!(%error, %to, "cannot send an answer");
    }
}
