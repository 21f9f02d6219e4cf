//! Servers and clients for tests.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, ApiService, Identity, Options};
use berth_authority::{Authority, Kubeconfig};
use berth_store::Memory;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub fn admin() -> Identity {
    Identity::new("admin", &["system:masters"])
}

/// A client without a network.
#[derive(Clone)]
pub struct Client {
    pub server: ApiServer,
    service: ApiService,
    store: Arc<dyn berth_store::Store>,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that must have this code.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }
}

impl Client {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        Self::on(Arc::new(Memory::default()), options).await
    }

    pub async fn on(store: Arc<dyn berth_store::Store>, options: Options) -> Self {
        let server = ApiServer::start(store.clone(), options).await.unwrap();
        Self { service: server.service(admin()), server, store }
    }

    pub fn as_user(&self, identity: Identity) -> Self {
        let service = self.server.service(identity);
        Self { server: self.server.clone(), service, store: self.store.clone() }
    }

    /// The newest revision.
    pub fn server_revision(&self) -> berth_store::Revision {
        self.store.current()
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> http::Response<berth_apiserver::Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("user-agent", "test/1")
            .body(Full::new(body.into()))
            .unwrap();
        self.service.clone().oneshot(request).await.unwrap()
    }

    /// The answer to any request.
    pub async fn answer(
        &self,
        request: Request<Full<Bytes>>,
    ) -> http::Response<berth_apiserver::Body> {
        self.service.clone().oneshot(request).await.unwrap()
    }

    /// A request with headers of its own.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        answer(self.service.clone().oneshot(request).await.unwrap()).await
    }

    /// A GET with an Accept header.
    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .header("accept", accept)
            .body(Full::new(Bytes::new()))
            .unwrap();
        answer(self.service.clone().oneshot(request).await.unwrap()).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        answer(self.raw(method, path, kind, body).await).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, "application/json", body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "", "").await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, "application/merge-patch+json", body.to_string()).await
    }

    pub async fn apply(&self, path: &str, manager: &str, force: bool, body: &Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}&force={force}");
        self.send("PATCH", &path, "application/apply-patch+yaml", body.to_string()).await
    }

    pub async fn watch(&self, path: &str) -> Lines {
        let response = self.raw("GET", path, "", "").await;
        assert_eq!(response.status(), 200);
        Lines { body: response.into_body(), rest: Vec::new() }
    }
}

async fn answer(response: http::Response<berth_apiserver::Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

/// The events of a watch.
pub struct Lines {
    body: berth_apiserver::Body,
    rest: Vec<u8>,
}

impl Lines {
    /// The next event, or nothing when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("an event within ten seconds")?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    pub async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("an event");
        assert_eq!(event["type"], kind, "{event}");
        assert_eq!(event["object"]["metadata"]["name"], name, "{event}");
        event
    }
}

/// A server on the network with a kubeconfig for the real kubectl.
pub struct Network {
    pub client: Client,
    pub address: std::net::SocketAddr,
    pub authority: Authority,
    pub folder: tempfile::TempDir,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), berth_apiserver::ListenError>>,
}

impl Network {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let client = Client::with(options).await;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("authority")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let issued = authority.server(&["127.0.0.1".into()]).unwrap();
        let credentials =
            berth_tls::Credentials::from_pem(&issued.certificate, &issued.key).unwrap();
        let tls = berth_tls::server(credentials, authority.certificate()).unwrap();
        let identity =
            authority.client("admin", "system:masters", Duration::from_secs(3600)).unwrap();
        let recording = crate::recording::wanted();
        let scheme = if recording.is_some() { "http" } else { "https" };
        let url = format!("{scheme}://{address}");
        let config = Kubeconfig {
            name: "test",
            server: &url,
            authority: authority.certificate(),
            identity: &identity,
        };
        config.write(&folder.path().join("config")).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (server, shutdown) = (client.server.clone(), shutdown.clone());
            let service = client.service.clone();
            async move {
                match recording {
                    Some(path) => {
                        let serving = crate::recording::serve(listener, service, path);
                        shutdown.run_until_cancelled(serving).await;
                        Ok(())
                    }
                    None => server.serve(listener, tls, shutdown).await,
                }
            }
        });
        Self { client, address, authority, folder, shutdown, task }
    }

    /// Stops the server, which must end by itself.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.unwrap().unwrap().unwrap();
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", self.folder.path().join("config"))
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs kubectl and returns its code and all its output.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output();
        let output = tokio::time::timeout(Duration::from_secs(60), output);
        let output = output.await.expect("kubectl ends within a minute").expect("kubectl is there");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs kubectl, which must succeed, and returns its output.
    pub async fn ok(&self, arguments: &'static str) -> String {
        let words: Vec<_> = arguments.split_whitespace().collect();
        let (code, text) = self.run(&words).await;
        assert_eq!(code, 0, "kubectl {arguments}\n{text}");
        text
    }
}

impl Network {
    /// A connection with TLS, for what clients would not do.
    pub async fn connect(
        &self,
        user: &str,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let lifetime = Duration::from_secs(3600);
        let issued = self.authority.client(user, "system:masters", lifetime).unwrap();
        let own = berth_tls::Credentials::from_pem(&issued.certificate, &issued.key).unwrap();
        let config = berth_tls::client(self.authority.certificate(), Some(own)).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        connector
            .connect(rustls::pki_types::ServerName::from(self.address.ip()), stream)
            .await
            .unwrap()
    }
}
