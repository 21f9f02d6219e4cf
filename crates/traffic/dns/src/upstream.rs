//! Asking the host's own resolvers.
//!
//! The same question asked by many at once is sent once. Every question leaves from a port of its own with a random
//! number, which is what stands between a forger and the cache.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::cache::{Asked, Cache, Heard};
use crate::message::{answered, ask};
use crate::{Resolvers, Settings};

/// Nobody could be asked, or nobody has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no resolver has answered")]
pub struct NoAnswer;

type Flight = Shared<BoxFuture<'static, Result<Arc<Heard>, NoAnswer>>>;

struct Inner {
    settings: Settings,
    resolvers: Mutex<Known>,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Asked, Flight>>,
    room: Semaphore,
}

#[derive(Default)]
struct Known {
    resolvers: Resolvers,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

/// The way to the resolvers. Clones are the same.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

/// At most so often the file that names the resolvers is looked at, and only when there is a question.
const LOOK: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    pub fn new(settings: Settings) -> Self {
        let inner = Inner {
            room: Semaphore::new(settings.under_way),
            settings,
            resolvers: Mutex::default(),
            cache: Mutex::default(),
            flights: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What has been said before and still holds.
    pub fn known(&self, asked: &Asked) -> Option<Arc<Heard>> {
        lock(&self.inner.cache).get(asked, Instant::now())
    }

    /// Asks, unless somebody is asking the same already.
    pub async fn ask(&self, asked: Asked) -> Result<Arc<Heard>, NoAnswer> {
        if let Some(heard) = self.known(&asked) {
            return Ok(heard);
        }
        let flight = {
            let mut flights = lock(&self.inner.flights);
            let inner = &self.inner;
            flights.entry(asked).or_insert_with_key(|asked| fly(inner, asked.clone())).clone()
        };
        flight.await
    }
}

fn fly(inner: &Arc<Inner>, asked: Asked) -> Flight {
    let inner = Arc::clone(inner);
    let work = async move {
        let outcome = inner.ask(&asked).await;
        if let Ok(heard) = &outcome {
            lock(&inner.cache).put(asked.clone(), Arc::clone(heard));
        }
        lock(&inner.flights).remove(&asked);
        outcome
    };
    work.boxed().shared()
}

impl Inner {
    async fn ask(&self, (name, kind): &Asked) -> Result<Arc<Heard>, NoAnswer> {
        // Too many questions are refused at once rather than piled up.
        let _place = self.room.try_acquire().map_err(|_full| NoAnswer)?;
        let Resolvers(servers) = self.resolvers();
        let mut failed = None;
        for patience in [self.settings.patience, self.settings.patience * 2] {
            let mut silent = false;
            for server in &servers {
                let message = match timeout(patience, exchange(*server, name, *kind)).await {
                    Ok(Ok(message)) => message,
                    Ok(Err(error)) => {
                        debug!(%server, %error, "cannot ask a resolver");
                        continue;
                    }
                    Err(_elapsed) => {
                        debug!(%server, "a resolver does not answer");
                        silent = true;
                        continue;
                    }
                };
                let code = message.metadata.response_code;
                let heard = Arc::new(Heard::new(message, Instant::now()));
                if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
                    return Ok(heard);
                }
                failed = Some(heard);
            }
            // Asking again helps only against packets that were lost.
            if !silent {
                break;
            }
        }
        failed.ok_or(NoAnswer)
    }

    fn resolvers(&self) -> Resolvers {
        let mut known = lock(&self.resolvers);
        let now = Instant::now();
        if known.looked.is_some_and(|looked| now - looked < LOOK) {
            return known.resolvers.clone();
        }
        known.looked = Some(now);
        let path = &self.settings.resolv_conf;
        let modified = std::fs::metadata(path).and_then(|file| file.modified()).ok();
        if modified != known.modified || modified.is_none() {
            match Resolvers::read(path, &self.settings.listen) {
                Ok(resolvers) => {
                    if resolvers != known.resolvers {
                        info!(resolvers = ?resolvers.0, "using resolvers");
                    }
                    known.resolvers = resolvers;
                    known.modified = modified;
                }
                // The former ones stay.
                Err(error) => warn!(path = %path.display(), %error, "cannot read resolvers"),
            }
        }
        known.resolvers.clone()
    }
}

async fn exchange(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> Result<Message, std::io::Error> {
    let id = rand::random::<u16>();
    let unspeakable = || std::io::Error::other("the question has no wire format");
    let question = ask(id, name, kind).ok_or_else(unspeakable)?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = vec![0; 4096];
    let message = loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = answered(&buffer[..length], id, name, kind) {
            break message;
        }
    };
    if !message.metadata.truncation {
        return Ok(message);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let other = || std::io::Error::other("the resolver answers another question");
    answered(&buffer, id, name, kind).ok_or_else(other)
}
