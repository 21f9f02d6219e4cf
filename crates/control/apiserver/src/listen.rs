//! The network's door: TLS with client certificates, HTTP/1.1 and HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{ApiServer, ApiService, Identity};

/// How long a client may take to shake hands, and requests to finish at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest head of a request over HTTP/1.1, in bytes.
const LARGEST_HEAD: usize = 128 << 10;
/// The same for HTTP/2.
const HEADERS: u32 = 64 << 10;
/// More connections than this are closed as they come.
const CONNECTIONS: usize = 20_000;

/// Why listening ended.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The listener failed for good.
    #[error("cannot accept connections")]
    Accept(#[source] io::Error),
}

impl ApiServer {
    /// Serves HTTPS until `shutdown` is cancelled, then lets requests finish for a while. Clients without a certificate
    /// are answered 401.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        shutdown: CancellationToken,
    ) -> Result<(), ListenError> {
        let acceptor = TlsAcceptor::from(tls);
        let graceful = GracefulShutdown::new();
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok((_, peer)) if tasks.len() >= CONNECTIONS => {
                    tracing::warn!(%peer, "closed a connection, since there are too many");
                    continue;
                }
                Ok(accepted) => accepted,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not accept");
                    // Out of descriptors: others have to finish first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(ListenError::Accept(error)),
            };
            let connection = Connection {
                server: self.clone(),
                acceptor: acceptor.clone(),
                watcher: graceful.watcher(),
                peer,
            };
            let end = end.clone();
            tasks.spawn(async move { end.run_until_cancelled(connection.run(stream)).await });
        }
        self.close();
        tasks.close();
        if tokio::time::timeout(PATIENCE, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
        // What is left now, streams above all, would never finish by itself.
        end.cancel();
        tasks.wait().await;
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    ) || error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

struct Connection {
    server: ApiServer,
    acceptor: TlsAcceptor,
    watcher: Watcher,
    peer: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = &error as &dyn std::error::Error, "could not set nodelay");
        }
        let stream = match tokio::time::timeout(PATIENCE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a handshake failed");
                return;
            }
            Err(_) => return,
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let identity = certificates.and_then(|chain| identity(chain.first()?));
        let service = ApiService::new(Arc::clone(&self.server.shared), identity, Some(self.peer));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(LARGEST_HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1000)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(Duration::from_secs(30));
        let connection = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
            .into_owned();
        let connection = self.watcher.watch(connection);
        if let Err(error) = connection.await {
            tracing::debug!(error = &*error, "a connection ended badly");
        }
    }
}

/// The user and groups of a certificate the handshake has verified.
fn identity(certificate: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let mut groups: Vec<String> = groups.map(String::from).collect();
    groups.push(berth_access::AUTHENTICATED.into());
    Some(Identity { user, groups, ..Identity::default() })
}
