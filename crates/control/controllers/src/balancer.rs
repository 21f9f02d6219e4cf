//! Services of type LoadBalancer: their outer address.
//!
//! There is no machine outside that spreads connections; the address is the node's own, or the one that the annotation
//! `berth.dev/listen-address` names.

use std::fmt;
use std::time::Duration;

use berth_client::{Key, Queue};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::debug;

use crate::context::{Context, or_absent};

const LISTEN_ADDRESS: &str = "berth.dev/listen-address";

/// Publishes outer addresses until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    let to = queue.clone();
    context.mirrors.services.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let to = queue.clone();
    let services = context.mirrors.services.clone();
    context.mirrors.nodes.listen(move |change| {
        if let berth_client::Change::Put { old: Some(old), new } = change
            && address(old) == address(new)
            && is_ready(old) == is_ready(new)
        {
            return;
        }
        for service in services.all() {
            to.push(Key::of(service.as_ref()));
        }
    });
    context.mirrors.synced().await;
    queue.serve(4, &context.stop, |key| reconcile(&context, key)).await;
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Publish(String),
    Withdraw,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(address) => write!(formatter, "publish {address}"),
            Self::Withdraw => formatter.write_str("withdraw the address"),
        }
    }
}

fn plan(service: &Service, node: Option<&str>) -> Vec<Step> {
    let spec = service.spec.clone().unwrap_or_default();
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.clone());
    let has = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    // Another implementation's, if it names one.
    let ours = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none();
    if !ours {
        let left = spec.type_.as_deref() != Some("LoadBalancer") && !has.is_empty();
        return left.then_some(Step::Withdraw).into_iter().collect();
    }
    let named = service.annotations().get(LISTEN_ADDRESS).map(String::as_str);
    let Some(address) = named.or(node) else { return Vec::new() };
    let said = has.len() == 1 && has[0].ip.as_deref() == Some(address);
    (!said).then(|| Step::Publish(address.to_owned())).into_iter().collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.any(|condition| condition.status == "True")
}

fn address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let of = |kind: &str| addresses.iter().find(|address| address.type_ == kind);
    of("ExternalIP").or_else(|| of("InternalIP")).map(|address| address.address.clone())
}

async fn reconcile(context: &Context, key: Key) -> Result<Option<Duration>, kube::Error> {
    let Some(service) = context.mirrors.services.get(&key) else { return Ok(None) };
    let nodes = context.mirrors.nodes.all();
    let preferred = context.settings.node_name.as_str();
    let mut ready: Vec<_> = nodes.iter().filter(|node| is_ready(node)).collect();
    ready.sort_by_key(|node| (preferred != node.name_any(), node.name_any()));
    let node = ready.iter().find_map(|node| address(node));
    for step in plan(&service, node.as_deref()) {
        debug!(service = %key, %step, "load balancer");
        let ingress = match step {
            Step::Publish(address) => Some(vec![LoadBalancerIngress {
                ip: Some(address),
                ..LoadBalancerIngress::default()
            }]),
            Step::Withdraw => None,
        };
        let patch = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
        let params = PatchParams::default();
        let outcome = api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await;
        if let Some(service) = or_absent(outcome)? {
            context.mirrors.services.note(service);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(kind: &str, annotation: Option<&str>, has: Option<&str>) -> Service {
        let ingress: Vec<_> = has.iter().map(|ip| json!({ "ip": ip })).collect();
        let mut service: Service = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "type": kind },
            "status": { "loadBalancer": { "ingress": ingress } },
        }))
        .unwrap();
        if let Some(address) = annotation {
            service.annotations_mut().insert(LISTEN_ADDRESS.into(), address.into());
        }
        service
    }

    fn text(service: &Service, node: Option<&str>) -> String {
        plan(service, node).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn publishes_the_annotation_or_the_node_once() {
        let node = Some("192.0.2.1");
        assert_eq!(text(&service("LoadBalancer", None, None), node), "publish 192.0.2.1");
        assert_eq!(
            text(&service("LoadBalancer", Some("127.0.0.1"), None), node),
            "publish 127.0.0.1"
        );
        assert_eq!(text(&service("LoadBalancer", None, Some("192.0.2.1")), node), "");
        assert_eq!(text(&service("LoadBalancer", None, None), None), "");
    }

    #[test]
    fn withdraws_when_the_type_changes() {
        assert_eq!(
            text(&service("ClusterIP", None, Some("192.0.2.1")), None),
            "withdraw the address"
        );
        assert_eq!(text(&service("ClusterIP", None, None), Some("192.0.2.1")), "");
    }
}
