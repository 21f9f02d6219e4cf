//! Which pods stand behind a Service, and what its slices say now.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::object::{is_finished, is_going, ready};

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Us.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label that says that a Service has no address of its own.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// A Service, what its slices should hold and what they hold.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The Service.
    pub service: Arc<Service>,
    /// Endpoints by the ports they serve, since named ports may differ between pods.
    pub wanted: Vec<(Vec<EndpointPort>, Vec<Endpoint>)>,
    /// Our slices of this Service.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Whether we keep a slice.
#[must_use]
pub fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

/// Whether a Service selects a pod. Without a selector, or pointing outside, it selects none.
#[must_use]
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(spec) = &service.spec else { return false };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return false;
    };
    spec.type_.as_deref() != Some("ExternalName")
        && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
}

/// Whether a change of a pod can change an endpoint.
#[must_use]
pub fn differs(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let status = pod.status.as_ref();
        (
            pod.uid(),
            pod.metadata.labels.clone(),
            status.and_then(|status| status.pod_ips.clone()),
            status.and_then(|status| status.pod_ip.clone()),
            (ready(pod).is_some(), is_going(pod), is_finished(pod)),
            pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        )
    };
    facts(old) != facts(new)
}

/// Looks at a Service, and the pods and slices of its namespace.
#[must_use]
pub fn observe(
    service: Arc<Service>,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
) -> Observed {
    let name = service.name_any();
    let of_service = |slice: &&Arc<EndpointSlice>| {
        slice.labels().get(SERVICE_NAME) == Some(&name) && is_ours(slice)
    };
    let slices = slices.iter().filter(of_service).cloned().collect();
    let spec = spec(&service);
    let selecting = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let mut wanted: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    if selecting && spec.type_.as_deref() != Some("ExternalName") && !is_going(service.as_ref()) {
        for pod in pods.iter().filter(|pod| selects(&service, pod)) {
            let Some(endpoint) = endpoint(&service, &spec, pod) else { continue };
            let ports = ports(&spec, pod);
            let entry = wanted.entry(format!("{ports:?}")).or_insert((ports, Vec::new()));
            entry.1.push(endpoint);
        }
        if wanted.is_empty() {
            // A slice without endpoints says: known, and nobody there.
            wanted.insert(String::new(), (Vec::new(), Vec::new()));
        }
    }
    let mut wanted: Vec<_> = wanted.into_values().collect();
    for (_, endpoints) in &mut wanted {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    }
    Observed { service, wanted, slices }
}

fn endpoint(service: &Service, spec: &ServiceSpec, pod: &Pod) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address =
        status.pod_ip.clone().filter(|address| address.parse::<std::net::Ipv4Addr>().is_ok())?;
    if is_finished(pod) {
        return None;
    }
    let pod_spec = pod.spec.as_ref()?;
    let (serving, going) = (ready(pod).is_some(), is_going(pod));
    let publish = spec.publish_not_ready_addresses == Some(true);
    // The name of a pod within a headless Service, when pod and Service agree on it.
    let hostname = pod_spec.hostname.clone().filter(|hostname| {
        !hostname.is_empty() && pod_spec.subdomain.as_deref() == Some(&service.name_any())
    });
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !going)),
            serving: Some(serving),
            terminating: Some(going),
        }),
        hostname,
        node_name: pod_spec.node_name.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The ports of a Service at one pod. A named port that the pod does not have is left out.
fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let port = |port: &ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(resolve(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or("TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let mut named = all.filter(|found| {
        found.name.as_ref() == Some(name) && found.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    named.next().map(|found| found.container_port)
}
