//! The way to a node whose server is another one of the cluster.
//!
//! Each server publishes where it is behind the Service `kubernetes`. It is asked for `nodes/NAME/proxy`, as anybody may who has the
//! right, in this server's own name: who asked, and whether they may, was settled here.

use std::net::SocketAddr;
use std::sync::Arc;

use berth_objects::{Object, Resource, Status};
use berth_store::Range;
use berth_tls::Credentials;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Request, Response};
use rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

use crate::forward::{Handing, forward};
use crate::server::Shared;
use crate::transport::{Connector, Place};
use crate::{Body, BoxError, Identity, NodeService, registry, status};

/// Says that a request has come from another server: it goes no further.
const HANDED_ON: &str = "x-berth-handed-on";
/// What every server's certificate names.
const NAME: &str = "kubernetes.default.svc";

/// What the servers of a cluster show each other.
#[derive(Clone)]
pub struct Peering {
    /// The authority of all their certificates, PEM.
    pub authority: String,
    /// This server's own as a client that may do everything, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl Peering {
    /// Who the certificate names, in the group `system:masters`.
    pub const USER: &'static str = "system:apiserver";
}

impl std::fmt::Debug for Peering {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Peering").finish_non_exhaustive()
    }
}

/// Whether somebody is another server of the cluster, by their certificate.
pub(crate) fn is_peer(identity: &Identity) -> bool {
    identity.user == Peering::USER && identity.is_in(berth_access::MASTERS)
}

/// Takes away what only another server may say.
pub(crate) fn forget(headers: &mut HeaderMap) {
    headers.remove(HANDED_ON);
}

/// Whether another server has asked, which has admitted the request already.
pub(crate) fn handed_on(request: &Request<Body>) -> bool {
    request.headers().contains_key(HANDED_ON)
}

/// The way to a node: in this process, or by the server that has it.
pub(crate) async fn node(shared: &Shared, node: &str) -> Result<Option<NodeService>, Status> {
    if let Some(own) = shared.options.nodes.connect(node) {
        return Ok(Some(own));
    }
    let Some(peering) = shared.options.peering.clone() else { return Ok(None) };
    let Some(address) = published(shared, node).await? else { return Ok(None) };
    let (node, closing) = (node.to_owned(), shared.closing.clone());
    let ask = move |request: Request<Body>| {
        ask(Arc::clone(&peering), address, node.clone(), closing.clone(), request)
    };
    Ok(Some(NodeService::new(tower::service_fn(ask))))
}

/// Boxed, because the compiler cannot follow it into the callers' futures.
fn ask(
    peering: Arc<Peering>,
    address: SocketAddr,
    node: String,
    closing: CancellationToken,
    mut request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, BoxError>> {
    let prepared = move || {
        if handed_on(&request) {
            return Err(BoxError::from("the server that was asked has not this node either"));
        }
        let own = Credentials::from_pem(&peering.certificate, &peering.key)?;
        let mut tls = berth_tls::client(&peering.authority, Some(own))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let place = Place::At(vec![address]);
        let client = Connector::secure(place, tls, ServerName::try_from(NAME)?).client(0);
        let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
        *request.uri_mut() = format!("https://{NAME}/api/v1/nodes/{node}/proxy{path}").parse()?;
        request.headers_mut().remove(HOST);
        let mut ours = HeaderMap::new();
        ours.insert(HANDED_ON, HeaderValue::from_static("1"));
        let handing = Handing { client: &client, ours, upgrades: None, patience: None, closing };
        Ok(forward(handing, request))
    };
    async move { Ok(prepared()?.await?) }.boxed()
}

/// The nodes of all servers that are published, this one's among them.
pub(crate) async fn servers(shared: &Shared) -> Result<Vec<String>, Status> {
    let prefix = registry::prefix(slices()?, "default").into();
    let page = shared.store.range(Range { prefix, ..Range::default() }).await;
    let records = page.map_err(status::store)?.records;
    let mut names = Vec::new();
    for record in &records {
        let slice = registry::decode(slices()?, record)?;
        let labels = slice.labels().and_then(|labels| labels.get("kubernetes.io/service-name"));
        let node = slice.list(&["endpoints"]).first().map_or("", |it| it.text(&["nodeName"]));
        // Other Services may have names that begin alike.
        let ours = slice.name() == format!("kubernetes-{node}");
        if ours && labels.is_some_and(|of| of == "kubernetes") {
            names.push(node.to_owned());
        }
    }
    Ok(names)
}

fn slices() -> Result<&'static Resource<'static>, Status> {
    berth_rules::find("discovery.k8s.io", "v1", "endpointslices")
        .ok_or_else(|| Status::internal("EndpointSlices are not served"))
}

/// Where the server of a node is.
async fn published(shared: &Shared, node: &str) -> Result<Option<SocketAddr>, Status> {
    let found = shared.fetch(slices()?, "default", &format!("kubernetes-{node}")).await?;
    Ok(found.and_then(|(slice, _)| {
        let address = slice.list(&["endpoints"]).first()?.list(&["addresses"]).first()?.as_str()?;
        let port = slice.list(&["ports"]).first()?.integer(&["port"])?;
        Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
    }))
}
