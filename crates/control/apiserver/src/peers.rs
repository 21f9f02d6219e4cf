//! The way to a node whose server is another one of the cluster.
//!
//! Each server publishes where it is behind the Service `kubernetes`. It is asked for `nodes/NAME/proxy`, as anybody may who has the
//! right, in this server's own name: who asked, and whether they may, was settled here.

use std::net::SocketAddr;

use berth_objects::{Object, Status};
use berth_tls::Credentials;
use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use rustls::pki_types::ServerName;

use crate::call::Call;
use crate::forward::forward;
use crate::transport::{Connector, Place};
use crate::{Body, BoxError};

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

/// Whether another server has asked, which has admitted the request already.
pub(crate) fn handed_on(call: &Call, request: &Request<Body>) -> bool {
    call.identity.user == Peering::USER
        && call.identity.is_in(berth_access::MASTERS)
        && request.headers().contains_key(HANDED_ON)
}

/// Has the server of another node answer, whose address in the request is the node's own. Nothing, if there is no such server.
pub(crate) async fn at_peer(
    call: &Call,
    node: &str,
    mut request: Request<Body>,
) -> Result<Option<Response<Body>>, BoxError> {
    let Some(peering) = &call.shared.options.peering else { return Ok(None) };
    if request.headers().contains_key(HANDED_ON) {
        return Ok(None);
    }
    let Some(address) = published(call, node).await? else { return Ok(None) };
    let own = Credentials::from_pem(&peering.certificate, &peering.key)?;
    let mut tls = berth_tls::client(&peering.authority, Some(own))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = Connector::secure(Place::At(address), tls, ServerName::try_from(NAME)?).client(0);
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    *request.uri_mut() = format!("https://{NAME}/api/v1/nodes/{node}/proxy{path}").parse()?;
    request.headers_mut().remove(HOST);
    request.headers_mut().insert(HANDED_ON, HeaderValue::from_static("1"));
    Ok(Some(forward(&client, request, None, call.shared.closing.clone()).await?))
}

/// Where the server of a node is.
async fn published(call: &Call, node: &str) -> Result<Option<SocketAddr>, Status> {
    let slices = berth_rules::find("discovery.k8s.io", "v1", "endpointslices")
        .ok_or_else(|| Status::internal("EndpointSlices are not served"))?;
    let found = call.shared.fetch(slices, "default", &format!("kubernetes-{node}")).await?;
    Ok(found.and_then(|(slice, _)| {
        let address = slice.list(&["endpoints"]).first()?.list(&["addresses"]).first()?.as_str()?;
        let port = slice.list(&["ports"]).first()?.integer(&["port"])?;
        Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
    }))
}
