//! HTTP/1.1 to servers that objects of the cluster name, for requests of clients that are handed on: bodies are streamed both ways, and
//! upgrades are possible.
//!
//! Webhooks and converters, which get questions of our own, are asked through `callout`.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use berth_store::Store;
use berth_tls::ClientConfig;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::callout::{self, Service};
use crate::{Body, BoxError};

const CONNECT: Duration = Duration::from_secs(5);
/// The same where there are other addresses to try.
const NEXT: Duration = Duration::from_secs(1);
/// How long a peer may be silent before it is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(60);

/// A client for one server, with its connections.
pub(crate) type HttpClient = hyper_util::client::legacy::Client<Connector, Body>;

/// Where a server is.
#[derive(Clone)]
pub(crate) enum Place {
    /// At one of these addresses.
    At(Vec<SocketAddr>),
    /// At one of the ready endpoints of a Service. A client may outlive the server, and must not keep its store open.
    Service(Weak<dyn Store>, Service),
}

/// Opens connections to one server, whatever a request calls it.
#[derive(Clone)]
pub(crate) struct Connector {
    place: Place,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Whether this machine's own addresses are refused.
    abroad: bool,
}

impl Connector {
    /// Connections without TLS.
    pub fn plain(place: Place) -> Self {
        Self { place, tls: None, abroad: false }
    }

    /// Connections with TLS to a server of this name.
    pub fn secure(place: Place, tls: ClientConfig, name: ServerName<'static>) -> Self {
        Self { place, tls: Some((TlsConnector::from(Arc::new(tls)), name)), abroad: false }
    }

    /// Refuses addresses that only mean something on this machine: whoever may name endpoints must not reach through this
    /// server what listens to it alone.
    pub fn abroad(mut self) -> Self {
        self.abroad = true;
        self
    }

    /// A client that keeps so many connections at hand.
    pub fn client(self, idle: usize) -> HttpClient {
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            .build(self)
    }

    async fn open(self) -> Result<Stream, BoxError> {
        let addresses = match &self.place {
            Place::At(addresses) => addresses.clone(),
            Place::Service(store, service) => {
                let store = store.upgrade().ok_or("the server has ended")?;
                callout::ready(&*store, service).await?
            }
        };
        // Each once and in order, and without the addresses, so that the same state is told in the same words.
        let mut why = BTreeSet::new();
        let patience = if addresses.len() > 1 { NEXT } else { CONNECT };
        for address in addresses {
            if self.abroad && !is_abroad(address) {
                why.insert(format!("{address} means something else on every machine"));
                continue;
            }
            match tokio::time::timeout(CONNECT, self.connect(address, patience)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => why.insert(error.to_string()),
                Err(_) => why.insert("no connection in time".to_owned()),
            };
        }
        let why: Vec<String> = why.into_iter().collect();
        Err(if why.is_empty() { "there is no address".into() } else { why.join("; ").into() })
    }

    async fn connect(&self, address: SocketAddr, patience: Duration) -> io::Result<Stream> {
        let stream = tokio::time::timeout(patience, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, SILENCE)?;
        sockopt::set_tcp_keepintvl(&stream, SILENCE / 3)?;
        sockopt::set_tcp_keepcnt(&stream, 3)?;
        let stream: Box<dyn Duplex> = match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
        };
        Ok(Stream(TokioIo::new(stream)))
    }
}

fn is_abroad(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let local = match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        self.clone().open().boxed()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, with TLS or without.
pub(crate) struct Stream(TokioIo<Box<dyn Duplex>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_alone_are_known() {
        for own in [
            "127.0.0.1:80",
            "[::1]:80",
            "169.254.169.254:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "[fe80::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(!is_abroad(own.parse().unwrap()), "{own}");
        }
        for other in ["10.0.0.1:80", "192.168.1.1:443", "[2001:db8::1]:80"] {
            assert!(is_abroad(other.parse().unwrap()), "{other}");
        }
    }
}
