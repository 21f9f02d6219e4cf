//! Calls to servers that objects of the cluster name: webhooks, converters, aggregated APIs.
//!
//! A Service is reached at one of its ready endpoints, not at its address: that works from wherever this server runs, and
//! an endpoint that is gone is known to be gone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_objects::{Object, Status, base64_decode};
use berth_report::chain;
use berth_store::Store;
use berth_tls::ClientConfig;
use bytes::Bytes;
use futures::StreamExt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::Value;

use crate::{BoxError, registry};

/// Answers longer than this are not read to their end.
const LARGEST: usize = 16 << 20;
/// So many different servers are remembered with their connections.
const REMEMBERED: usize = 256;
const CONNECT: Duration = Duration::from_secs(5);

/// Where such a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// What TLS checks the certificate for, as an address without a path: `https://hook.team.svc`.
    base: String,
    path: String,
    service: Option<Service>,
    /// Certificates in PEM to trust instead of the machine's own.
    roots: Option<String>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Service {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CalloutError {
    #[error("{0}")]
    Named(String),
    #[error("cannot set up TLS")]
    Tls(#[from] berth_tls::TlsError),
    #[error("{}", chain(.0))]
    Failed(#[from] reqwest::Error),
    #[error("the answer has more than {LARGEST} bytes")]
    Long,
    #[error("the answer is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("unexpected status code {0}")]
    Code(u16),
}

impl Server {
    /// From a `clientConfig` as webhooks and converters have it: `url` or `service`, and `caBundle`.
    pub fn of_config(config: &Value) -> Result<Self, CalloutError> {
        let roots = roots(config.text(&["caBundle"]))?;
        let service = &config["service"];
        if service.is_object() {
            let port = service.integer(&["port"]).unwrap_or(443);
            return Self::of_service(
                service.text(&["namespace"]),
                service.text(&["name"]),
                port,
                service.text(&["path"]),
                roots,
            );
        }
        let url = config.text(&["url"]);
        let wrong = || CalloutError::Named(format!("\"{url}\" is no https:// address of a server"));
        let parsed: http::Uri = url.parse().map_err(|_| wrong())?;
        let authority = parsed.authority().filter(|_| parsed.scheme_str() == Some("https"));
        Ok(Self {
            base: format!("https://{}", authority.ok_or_else(wrong)?),
            path: parsed.path().to_owned(),
            service: None,
            roots,
        })
    }

    fn of_service(
        namespace: &str,
        name: &str,
        port: i64,
        path: &str,
        roots: Option<String>,
    ) -> Result<Self, CalloutError> {
        let port = u16::try_from(port)
            .map_err(|_| CalloutError::Named(format!("{port} is no port of a Service")))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self {
            // Without a port, so that the endpoint's own counts.
            base: format!("https://{name}.{namespace}.svc"),
            path,
            service: Some(Service { namespace: namespace.into(), name: name.into(), port }),
            roots,
        })
    }
}

pub(crate) fn roots(encoded: &str) -> Result<Option<String>, CalloutError> {
    if encoded.is_empty() {
        return Ok(None);
    }
    let pem = base64_decode(encoded).and_then(|bytes| String::from_utf8(bytes).ok());
    pem.map(Some).ok_or_else(|| CalloutError::Named("the caBundle is no PEM in base64".to_owned()))
}

/// What makes two servers share connections: address, Service, roots.
type Key = (String, Option<Service>, Option<String>);

/// The clients for such servers, with their connections.
pub(crate) struct Callouts {
    store: Arc<dyn Store>,
    clients: Mutex<HashMap<Key, reqwest::Client>>,
}

impl Callouts {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, clients: Mutex::default() }
    }

    fn client(&self, server: &Server) -> Result<reqwest::Client, CalloutError> {
        let key = (server.base.clone(), server.service.clone(), server.roots.clone());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut tls: ClientConfig = match &server.roots {
            Some(pem) => berth_tls::client(pem, None)?,
            None => berth_tls::public_client(None)?,
        };
        tls.alpn_protocols = berth_tls::HTTP.map(<[u8]>::to_vec).to_vec();
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT);
        if let Some(service) = &server.service {
            let (store, service) = (Arc::clone(&self.store), service.clone());
            builder = builder.dns_resolver(Endpoints { store, service });
        }
        let client = builder.build()?;
        if clients.len() >= REMEMBERED {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Posts JSON and reads JSON.
    pub async fn post(
        &self,
        server: &Server,
        timeout: Duration,
        body: &Value,
    ) -> Result<Value, CalloutError> {
        let url = format!("{}{}?timeout={}s", server.base, server.path, timeout.as_secs());
        let request = self
            .client(server)?
            .post(url)
            .timeout(timeout)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(body.to_string());
        let answer = request.send().await?;
        let code = answer.status();
        if !code.is_success() {
            return Err(CalloutError::Code(code.as_u16()));
        }
        Ok(serde_json::from_slice(&read(answer).await?)?)
    }
}

async fn read(answer: reqwest::Response) -> Result<Bytes, CalloutError> {
    let mut bytes = bytes::BytesMut::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > LARGEST {
            return Err(CalloutError::Long);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Answers every name with the endpoints of one Service.
struct Endpoints {
    store: Arc<dyn Store>,
    service: Service,
}

impl Resolve for Endpoints {
    fn resolve(&self, _name: Name) -> Resolving {
        let (store, service) = (Arc::clone(&self.store), self.service.clone());
        Box::pin(async move {
            let found = ready(&*store, &service).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Where a Service's port is served now, in no particular order; at least one place.
pub(crate) async fn ready(
    store: &dyn Store,
    service: &Service,
) -> Result<Vec<SocketAddr>, BoxError> {
    let mut found = endpoints(store, service).await?;
    if found.is_empty() {
        let Service { name, namespace, .. } = service;
        let why = format!("no endpoints available for service \"{name}\" in \"{namespace}\"");
        return Err(BoxError::from(why));
    }
    let first = rand::random_range(0..found.len());
    found.rotate_left(first);
    Ok(found)
}

/// Where a Service's port is served now.
async fn endpoints(store: &dyn Store, service: &Service) -> Result<Vec<SocketAddr>, BoxError> {
    let Service { namespace, name, port } = service;
    let missing = || format!("service \"{name}\" not found in \"{namespace}\"");
    let services = berth_rules::find("", "v1", "services").ok_or_else(missing)?;
    let record = store.get(registry::key(services, namespace, name), None).await?.record;
    let object = registry::decode(services, &record.ok_or_else(missing)?)?;
    let ports = object.list(&["spec", "ports"]);
    let wanted = ports.iter().find(|it| it.integer(&["port"]) == Some(i64::from(*port)));
    let wanted = wanted.ok_or_else(|| format!("service \"{name}\" has no port {port}"))?;
    if object.text(&["spec", "type"]) == "ExternalName" {
        let host = object.text(&["spec", "externalName"]);
        return Ok(tokio::net::lookup_host((host, *port)).await?.collect());
    }
    let mut found = Vec::new();
    for slice in slices_of(store, namespace, name).await? {
        let ports = slice.list(&["ports"]).iter();
        let numbers = ports.filter(|it| it.text(&["name"]) == wanted.text(&["name"]));
        let numbers: Vec<u16> = numbers
            .filter_map(|it| it.integer(&["port"]).and_then(|port| u16::try_from(port).ok()))
            .collect();
        for endpoint in slice.list(&["endpoints"]) {
            if endpoint.at(&["conditions", "ready"]) == Some(&Value::Bool(false)) {
                continue;
            }
            for address in endpoint.list(&["addresses"]).iter().filter_map(Value::as_str) {
                let Ok(address) = address.parse() else { continue };
                found.extend(numbers.iter().map(|port| SocketAddr::new(address, *port)));
            }
        }
    }
    Ok(found)
}

/// The slices of a Service.
pub(crate) async fn slices_of(
    store: &dyn Store,
    namespace: &str,
    name: &str,
) -> Result<Vec<Value>, Status> {
    let slices = berth_rules::find("discovery.k8s.io", "v1", "endpointslices")
        .ok_or_else(|| Status::internal("EndpointSlices are not served"))?;
    let prefix = registry::prefix(slices, namespace).into();
    let page = store.range(berth_store::Range { prefix, ..Default::default() });
    let mut found = Vec::new();
    for record in &page.await.map_err(crate::status::store)?.records {
        let slice = registry::decode(slices, record)?;
        let of = slice.labels().and_then(|labels| labels.get("kubernetes.io/service-name"));
        if of.is_some_and(|of| of == name) {
            found.push(slice);
        }
    }
    Ok(found)
}
