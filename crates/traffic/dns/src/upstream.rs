//! Asks the host's resolvers what is not ours to know.
//!
//! Surprising: which resolvers there are is looked up when a question comes, by the modification time of the file, and not
//! watched: a laptop changes networks rarely, and a server without questions has nothing to do.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::cache::{Asked, Cache};
use crate::plan::Reply;
use crate::wire::OURS;

/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of them may take; clients give up after five seconds.
const ALTOGETHER: Duration = Duration::from_millis(4500);
/// How long a resolver that did not answer stands behind those that do.
const SILENCE: Duration = Duration::from_secs(10);
/// As many as the C library uses.
const SERVERS: usize = 3;

/// One question on its way, for everybody who asks it meanwhile.
type Pending = Shared<BoxFuture<'static, Reply>>;

/// The host's resolvers, and what they have said.
pub(crate) struct Upstream {
    resolv_conf: PathBuf,
    port: u16,
    /// Where we listen ourselves; asking there would never end.
    own: Vec<SocketAddr>,
    servers: Mutex<Servers>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Servers {
    read: Option<(SystemTime, u64)>,
    all: Vec<SocketAddr>,
    silent: HashMap<SocketAddr, Instant>,
}

#[derive(Default)]
struct Known {
    cache: Cache,
    pending: HashMap<Asked, Pending>,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("cannot exchange messages")]
    Exchange(#[from] io::Error),
    #[error("no answer in time")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("cannot write the question")]
    Write(#[from] hickory_proto::ProtoError),
    #[error("the answer is to another question or none at all")]
    Stray,
}

impl Upstream {
    pub(crate) fn new(resolv_conf: PathBuf, port: u16, own: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            resolv_conf,
            port,
            own,
            servers: Mutex::default(),
            known: Mutex::default(),
        })
    }

    /// What is known without asking.
    pub(crate) fn known(&self, asked: &Asked) -> Option<Reply> {
        lock(&self.known).cache.reply(asked, Instant::now())
    }

    /// Asks, unless the answer is known or on its way. Always ends within a few seconds.
    pub(crate) async fn reply(self: &Arc<Self>, asked: Asked) -> Reply {
        let pending = {
            let mut known = lock(&self.known);
            if let Some(reply) = known.cache.reply(&asked, Instant::now()) {
                return reply;
            }
            match known.pending.get(&asked) {
                Some(pending) => pending.clone(),
                None => {
                    let pending = Arc::clone(self).ask_and_keep(asked.clone()).boxed().shared();
                    known.pending.insert(asked, pending.clone());
                    pending
                }
            }
        };
        pending.await
    }

    async fn ask_and_keep(self: Arc<Self>, asked: Asked) -> Reply {
        let reply = timeout(ALTOGETHER, self.ask(&asked)).await;
        let reply = reply.unwrap_or_else(|_late| Reply::of(ResponseCode::ServFail));
        let mut known = lock(&self.known);
        known.pending.remove(&asked);
        known.cache.keep(asked, &reply, Instant::now());
        reply
    }

    /// Asks one resolver after the other, and says so itself when none is any help.
    async fn ask(&self, asked: &Asked) -> Reply {
        let query = Query::query(asked.0.clone(), asked.1);
        for server in self.servers() {
            match timeout(PATIENCE, exchange(server, &query))
                .await
                .map_err(AskError::from)
                .flatten()
            {
                Ok(message) => {
                    lock(&self.servers).silent.remove(&server);
                    match message.response_code {
                        ResponseCode::NoError | ResponseCode::NXDomain => return reply(message),
                        code => debug!(%server, %code, %query, "resolver did not help"),
                    }
                }
                Err(error) => {
                    debug!(%server, error = &error as &dyn std::error::Error, "resolver did not answer");
                    lock(&self.servers).silent.insert(server, Instant::now());
                }
            }
        }
        Reply::of(ResponseCode::ServFail)
    }

    /// Whom to ask, the most promising first. When all have been silent lately, only the one that has been longest.
    fn servers(&self) -> Vec<SocketAddr> {
        let stamp = std::fs::metadata(&self.resolv_conf)
            .and_then(|metadata| Ok((metadata.modified()?, metadata.len())));
        let mut servers = lock(&self.servers);
        match stamp {
            Ok(stamp) if servers.read == Some(stamp) => {}
            // While the file is being replaced, the old resolvers are better than none.
            Err(error) => {
                if servers.read.take().is_some() {
                    warn!(%error, path = %self.resolv_conf.display(), "cannot see the resolvers' file");
                }
            }
            Ok(stamp) => match std::fs::read_to_string(&self.resolv_conf) {
                Ok(text) => {
                    let all = parse(&text, self.port, &self.own);
                    info!(resolvers = ?all, "read the host's resolvers");
                    *servers = Servers { read: Some(stamp), all, silent: HashMap::new() };
                }
                Err(error) => {
                    warn!(%error, path = %self.resolv_conf.display(), "cannot read the resolvers' file");
                }
            },
        }
        let Servers { all, silent, .. } = &mut *servers;
        silent.retain(|_, since| since.elapsed() < SILENCE);
        let mut order = all.clone();
        order.sort_by_key(|server| silent.get(server).copied());
        if !order.is_empty() && order.iter().all(|server| silent.contains_key(server)) {
            order.truncate(1);
        }
        order
    }
}

/// The resolvers that a file in the form of resolv.conf(5) names, without ourselves.
fn parse(text: &str, port: u16, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())??.parse::<IpAddr>().ok()
    });
    let ours = |server: &SocketAddr| {
        own.iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && server.ip().is_loopback();
            own.port() == server.port() && (everywhere || own.ip() == server.ip())
        })
    };
    named
        .map(|address| SocketAddr::new(address, port))
        .filter(|server| !ours(server))
        .take(SERVERS)
        .collect()
}

/// One question and its answer, over TCP when a datagram cannot hold it.
async fn exchange(server: SocketAddr, query: &Query) -> Result<Message, AskError> {
    let message = over_udp(server, query, true).await?;
    let message = match message.response_code {
        // Some resolvers, mostly in small boxes, take EDNS for an error.
        ResponseCode::FormErr | ResponseCode::NotImp => over_udp(server, query, false).await?,
        _ => message,
    };
    if message.truncation { over_tcp(server, query).await } else { Ok(message) }
}

fn question(query: &Query, extended: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    if extended {
        let mut edns = Edns::new();
        edns.set_max_payload(OURS);
        message.set_edns(edns);
    }
    message
}

async fn over_udp(server: SocketAddr, query: &Query, extended: bool) -> Result<Message, AskError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A new socket each time: its random port is what makes a forged answer hard.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let question = question(query, extended);
    socket.send(&question.to_vec()?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(message) if fits(&message, &question) => return Ok(message),
            // Late, forged or broken: the right one may still come.
            Ok(_) | Err(_) => debug!(%server, "ignored a stray datagram"),
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Query) -> Result<Message, AskError> {
    let mut stream = TcpStream::connect(server).await?;
    let question = question(query, true);
    let bytes = question.to_vec()?;
    let length = u16::try_from(bytes.len()).map_err(|_| AskError::Stray)?;
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    let message = Message::from_vec(&bytes).map_err(|_| AskError::Stray)?;
    if fits(&message, &question) { Ok(message) } else { Err(AskError::Stray) }
}

fn fits(message: &Message, question: &Message) -> bool {
    // A resolver that cannot make sense of a question may not repeat it.
    let refused = message.queries.is_empty() && message.response_code == ResponseCode::FormErr;
    message.message_type == MessageType::Response
        && message.id == question.id
        && (refused || message.queries == question.queries)
}

/// Of a message, what a stub resolver can use.
fn reply(message: Message) -> Reply {
    let mut reply = Reply::of(message.response_code);
    reply.answers = message.answers;
    reply.authorities = message.authorities;
    reply.authorities.retain(|record| record.record_type() == RecordType::SOA);
    reply
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolvers_but_never_ourselves() {
        let text = "# by hand\nsearch home\nnameserver 10.96.0.10\n nameserver\t127.0.0.53 # stub\n\
            nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let own = ["10.96.0.10:53".parse().unwrap()];
        let servers: Vec<String> = parse(text, 53, &own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::1]:53", "192.0.2.1:53"]);
        let everywhere = ["0.0.0.0:53".parse().unwrap()];
        assert!(parse("nameserver 127.0.0.1", 53, &everywhere).is_empty());
        assert_eq!(parse("nameserver 127.0.0.1", 5353, &everywhere).len(), 1);
    }
}
