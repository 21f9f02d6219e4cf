//! The subresource `proxy`, as far as it needs no pod: what is asked of a node, and whom it does not lead to.

use std::sync::Arc;

use berth_apiserver::{Body, BoxError, NodeService, Nodes, Options};
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::support::{Client, admin};

/// A node that says what it was asked.
struct Echo;

impl Nodes for Echo {
    fn connect(&self, node: &str) -> Option<NodeService> {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let (method, uri) = (request.method().to_string(), request.uri().to_string());
            let body = request.into_body().collect().await?.to_bytes();
            let said =
                json!({"method": method, "uri": uri, "body": String::from_utf8_lossy(&body)});
            let said =
                Full::new(said.to_string().into()).map_err(|never| match never {}).boxed_unsync();
            Ok::<_, BoxError>(Response::new(said))
        });
        (node == "n1").then(|| NodeService::new(service))
    }
}

async fn start() -> Client {
    let client = Client::with(Options { nodes: Arc::new(Echo), ..Options::default() }).await;
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name}});
        client.post("/api/v1/nodes", &node).await.expect(201);
    }
    client
}

#[tokio::test]
async fn nodes_are_asked_with_whatever_is_sent() {
    let client = start().await;
    let answer = client
        .post("/api/v1/nodes/n1/proxy/stats/summary?x=1&y=a%2Fb", &json!("hello"))
        .await
        .expect(200);
    assert_eq!(
        answer,
        json!({"method": "POST", "uri": "/stats/summary?x=1&y=a%2Fb", "body": "\"hello\""})
    );
    let away = client.get("/api/v1/nodes/n2/proxy/stats").await.expect(503);
    assert_eq!(away["message"], "the node \"n2\" cannot be reached");
    client.get("/api/v1/nodes/n3/proxy/stats").await.expect(404);
    client.get("/api/v1/nodes/ftp:n1:21/proxy/").await.expect(400);
    let moved = client.get("/api/v1/nodes/n1/proxy?a=b").await;
    assert_eq!(
        (moved.code, moved.headers["location"].to_str().unwrap()),
        (301, "/api/v1/nodes/n1/proxy/?a=b")
    );
}

#[tokio::test]
async fn a_proxy_is_a_right_of_its_own() {
    let client = start().await;
    let mut node = admin();
    node.user = "joe".to_owned();
    node.groups.clear();
    let joe = client.as_user(node);
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["create"], "resourceNames": ["n1"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    client.post(&format!("{rbac}/clusterroles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "joe"}]});
    client.post(&format!("{rbac}/clusterrolebindings"), &binding).await.expect(201);
    joe.get("/api/v1/nodes/n1/proxy/stats").await.expect(403);
    joe.post("/api/v1/nodes/n1/proxy/stats", &Value::Null).await.expect(200);
    joe.post("/api/v1/nodes/n2/proxy/stats", &Value::Null).await.expect(403);
}

#[tokio::test]
async fn this_machine_is_not_reached_through_endpoints() {
    let client = start().await;
    // Somebody who may write endpoints points to what listens here.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}, {"name": "other", "port": 81}]}});
    client.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    let none = client.get("/api/v1/namespaces/default/services/web:80/proxy/").await.expect(503);
    assert!(
        none["message"].as_str().unwrap().contains("no endpoints available for service"),
        "{none}"
    );
    let slice = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"name": "http", "port": port}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    client.post(slices, &slice).await.expect(201);
    // Only pods of the namespace that have this address count, and no other machines by a name.
    for name in ["web:80", "http:web:http"] {
        let path = format!("/api/v1/namespaces/default/services/{name}/proxy/");
        let refused = client.get(&path).await.expect(503);
        assert_eq!(refused["message"], "no endpoints available for service \"web\"");
    }
    let outside = json!({"metadata": {"name": "out"}, "spec": {"type": "ExternalName",
        "externalName": "localhost", "ports": [{"port": port}]}});
    client.post("/api/v1/namespaces/default/services", &outside).await.expect(201);
    let path = format!("/api/v1/namespaces/default/services/out:{port}/proxy/");
    client.get(&path).await.expect(503);
    let unknown = client.get("/api/v1/namespaces/default/services/web/proxy/").await.expect(503);
    assert!(
        unknown["message"].as_str().unwrap().contains("no service port \"\" found"),
        "{unknown}"
    );
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let early = client.get("/api/v1/namespaces/default/pods/p/proxy/").await.expect(503);
    assert_eq!(early["message"], "the pod \"p\" has no address yet");
    let status = json!({"status": {"podIP": "127.0.0.1"}});
    client.merge("/api/v1/namespaces/default/pods/p/status", &status).await.expect(200);
    let path = format!("/api/v1/namespaces/default/pods/p:{port}/proxy/");
    let refused = client.get(&path).await.expect(503);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("something else on every machine"), "{refused}");
    // The same by a Service and its endpoint.
    let target = json!([{"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}}]);
    client.merge(&format!("{slices}/web-1"), &json!({"endpoints": target})).await.expect(200);
    let path = "/api/v1/namespaces/default/services/web:80/proxy/";
    let refused = client.get(path).await.expect(503);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("something else on every machine"), "{refused}");
    assert!(listener.accept().now_or_never().is_none(), "somebody came");
}
