//! The objects every cluster has.

use berth_objects::{Object, Status};
use serde_json::{Value, json};

use crate::server::ApiServer;
use crate::{aggregation, definitions, flow, write};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes sure that the first objects exist.
pub(crate) async fn objects(server: &ApiServer) -> Result<(), Status> {
    for name in NAMESPACES {
        ensure(server, ("", "namespaces"), "", json!({"metadata": {"name": name}})).await?;
    }
    for (name, value) in berth_rules::SYSTEM_PRIORITIES {
        let class = json!({"metadata": {"name": name}, "value": value,
        "description": match name {
            "system-node-critical" => "For pods a node cannot do without; they are never moved.",
            _ => "For pods the cluster cannot do without; they may move to another node.",
        }});
        ensure(server, ("scheduling.k8s.io", "priorityclasses"), "", class).await?;
    }
    for (plural, object) in flow::objects() {
        ensure(server, (flow::GROUP, plural), "", object).await?;
    }
    if let Some(own) = &server.shared.options.aggregator {
        let announced = aggregation::announce(own);
        ensure(server, ("", "configmaps"), "kube-system", announced).await?;
    }
    let block = server.shared.options.service_addresses.trunc().to_string();
    let block = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [block]}});
    ensure(server, ("networking.k8s.io", "servicecidrs"), "", block).await?;
    let address = server.shared.addresses.first().to_string();
    let target = server.shared.options.advertise.map_or(6443, |at| at.port());
    let options = &server.shared.options;
    let mut service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address, "ports": [{"name": "https", "port": 443, "targetPort": target}]},
    });
    if options.peer.as_ref().is_some_and(|peer| peer.local) {
        service["spec"]["internalTrafficPolicy"] = "Local".into();
    }
    ensure(server, ("", "services"), "default", service).await?;
    let Some(at) = options.advertise else { return Ok(()) };
    // Of several servers each has a slice of its own, which goes with it.
    let (name, peer) = match &options.peer {
        None => ("kubernetes".to_owned(), Value::Null),
        Some(peer) => (format!("kubernetes-{}", peer.node), peer.node.clone().into()),
    };
    let mut slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if at.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}],
    });
    if !peer.is_null() {
        slice["endpoints"][0]["nodeName"] = peer;
    }
    ensure(server, ("discovery.k8s.io", "endpointslices"), "default", slice).await
}

async fn ensure(
    server: &ApiServer,
    (group, plural): (&str, &str),
    namespace: &str,
    mut object: Value,
) -> Result<(), Status> {
    let resource = berth_rules::find(group, "v1", plural)
        .ok_or_else(|| Status::internal("a kind the server needs is not served"))?;
    let mut call = definitions::own(&server.shared, resource.into(), namespace, object.name())?;
    // No webhook can be asked before the server runs that its pod needs.
    call.own = true;
    call.fit(&mut object)?;
    if call.shared.fetch(resource, namespace, &call.name).await?.is_none() {
        return match write::create_object(&mut call, object).await {
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            outcome => outcome.map(drop),
        };
    }
    // The published address may be another one than at the last start, and so may be what others have to know of us.
    let moving: &[&str] = match plural {
        "endpointslices" => &["endpoints", "ports"],
        "configmaps" => &["data"],
        _ => return Ok(()),
    };
    let current = write::change(&call, |old| {
        let mut new = old.clone();
        for field in moving {
            new.set(&[field], object[*field].clone());
        }
        Ok(new)
    });
    current.await?;
    Ok(())
}
