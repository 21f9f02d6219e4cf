//! The definitions of the Gateway API and of cert-manager, as others wrote them.

use std::path::PathBuf;

use berth_objects::Object;
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

/// The objects of all files of a folder, with where they come from.
fn examples(folder: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/gateway").join(folder);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---") {
            let Ok(object) = berth_objects::yaml::parse(document) else { continue };
            if object.text(&["apiVersion"]).starts_with("gateway.networking.k8s.io/") {
                found.push((path.file_name().unwrap().to_string_lossy().into_owned(), object));
            }
        }
    }
    found
}

#[tokio::test]
async fn examples_are_judged_as_their_authors_say() {
    let client = Client::start().await;
    for text in FILES {
        client.send("POST", DEFINITIONS, "application/yaml", text).await.expect(201);
    }
    for (folder, code, least) in [("valid", 201, 60), ("invalid", 422, 30)] {
        let (mut judged, mut wrong) = (0, Vec::new());
        for (file, mut object) in examples(folder) {
            let version = object.text(&["apiVersion"]).to_owned();
            let list = client.get(&format!("/apis/{version}")).await;
            let kind = object["kind"].clone();
            let resources = list.body["resources"].as_array().cloned().unwrap_or_default();
            // The routes without HTTP are not among the definitions here.
            let Some(resource) = resources.iter().find(|it| it["kind"] == kind) else { continue };
            judged += 1;
            object.set(&["metadata", "name"], format!("example-{judged}"));
            object.unset(&["metadata", "namespace"]);
            let folder = if resource["namespaced"] == true { "/namespaces/default" } else { "" };
            let path = format!("/apis/{version}{folder}/{}", resource.text(&["name"]));
            let answer = client.post(&path, &object).await;
            if answer.code != code {
                wrong.push(format!("{file}: {} {}", answer.code, answer.body["message"]));
            }
        }
        assert!(wrong.is_empty(), "{folder}:\n{}", wrong.join("\n"));
        assert!(judged >= least, "only {judged} examples of {folder}");
    }
}

#[tokio::test]
async fn a_definition_of_cert_manager_installs() {
    let client = Client::start().await;
    let text = include_str!("../../data/cert-manager/certificates.yaml");
    client.send("POST", DEFINITIONS, "application/yaml", text).await.expect(201);
    let certificates = "/apis/cert-manager.io/v1/namespaces/default/certificates";
    let good = json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "c"},
        "spec": {"secretName": "c", "dnsNames": ["x.example"], "issuerRef": {"name": "i"}, "usages": ["server auth"]}});
    client.post(certificates, &good).await.expect(201);
    let mut bad = good;
    bad["spec"]["usages"] = json!(["nothing"]);
    bad["spec"].as_object_mut().unwrap().remove("secretName");
    let refused = client.post(certificates, &bad).await.expect(422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("spec.secretName: Required value"), "{message}");
    assert!(message.contains("spec.usages[0]: Unsupported value: \"nothing\""), "{message}");
}
