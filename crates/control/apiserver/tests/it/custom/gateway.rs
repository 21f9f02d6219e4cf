//! The definitions of the Gateway API, as others wrote them.

use serde_json::{Value, json};

use super::DEFINITIONS;
use crate::support::Client;

/// The definitions in the order in which they are installed.
pub const FILES: [&str; 7] = [
    include_str!("../../data/gateway/gatewayclasses.yaml"),
    include_str!("../../data/gateway/gateways.yaml"),
    include_str!("../../data/gateway/httproutes.yaml"),
    include_str!("../../data/gateway/grpcroutes.yaml"),
    include_str!("../../data/gateway/referencegrants.yaml"),
    include_str!("../../data/gateway/backendtlspolicies.yaml"),
    include_str!("../../data/gateway/tlsroutes.yaml"),
];

fn gateway(listeners: &Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
        "spec": {"gatewayClassName": "berth", "listeners": listeners}})
}

#[tokio::test]
async fn they_install_and_judge() {
    let client = Client::start().await;
    for text in FILES {
        let answer = client.send("POST", DEFINITIONS, "application/yaml", text).await;
        assert_eq!(answer.code, 201, "{}", answer.body["message"]);
        assert!(answer.headers.get("warning").is_none(), "{:?}", answer.headers["warning"]);
    }
    let root = "/apis/gateway.networking.k8s.io/v1";
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "berth"},
        "spec": {"controllerName": "berth.dev/gateway"}});
    client.post(&format!("{root}/gatewayclasses"), &class).await.expect(201);
    let other = json!({"spec": {"controllerName": "other.example/x"}});
    let path = format!("{root}/gatewayclasses/berth");
    let refused = client.merge(&path, &other).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("field is immutable"), "{refused}");
    let gateways = format!("{root}/namespaces/default/gateways");
    let one = gateway(&json!([{"name": "http", "port": 80, "protocol": "HTTP"}]));
    let made = client.post(&gateways, &one).await.expect(201);
    assert_eq!(made["spec"]["listeners"][0]["allowedRoutes"]["namespaces"]["from"], "Same");
    assert_eq!(made["status"], Value::Null, "a status has a path of its own");
    let twice = json!([{"name": "http", "port": 80, "protocol": "HTTP"}, {"name": "http2", "port": 80, "protocol": "HTTP"}]);
    let refused = client.post(&gateways, &gateway(&twice)).await.expect(422);
    let wanted = "Combination of port, protocol and hostname must be unique for each listener";
    assert!(refused["message"].as_str().unwrap().contains(wanted), "{refused}");
    let plain =
        json!([{"name": "x", "port": 80, "protocol": "HTTP", "tls": {"mode": "Terminate"}}]);
    let refused = client.post(&gateways, &gateway(&plain)).await.expect(422);
    assert!(
        refused["message"].as_str().unwrap().contains("tls must not be specified for protocols"),
        "{refused}"
    );
    let routes = format!("{root}/namespaces/default/httproutes");
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"parentRefs": [{"name": "g"}], "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/a"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}}],
            "backendRefs": [{"name": "web", "port": 80}]}]}});
    let refused = client.post(&routes, &route).await.expect(422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("RequestRedirect filter must not be used together with backendRefs"),
        "{refused}"
    );
    let mut good = route;
    good["spec"]["rules"][0].as_object_mut().unwrap().remove("filters");
    let made = client.post(&routes, &good).await.expect(201);
    assert_eq!(made["spec"]["rules"][0]["backendRefs"][0]["weight"], 1);
    let table =
        client.get_as(&routes, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["columnDefinitions"][1]["name"], "Hostnames");
}
