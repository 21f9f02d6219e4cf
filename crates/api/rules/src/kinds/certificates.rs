//! Requests for certificates.

use berth_objects::Subresource::{Approval, Status};
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "certificates.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 1] = [Resource {
    short: &["csr"],
    scope: Scope::Cluster,
    subresources: &[Status, Approval],
    selectable: &["spec.signerName"],
    columns: cells::SIGNING_REQUEST,
    cells: cells::signing_request,
    ..v1(
        GROUP,
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificatesigningrequest",
    )
}];
