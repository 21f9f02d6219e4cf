//! Groups that another server answers for: a real one, with TLS, that believes this server's certificate alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_apiserver::{Aggregator, Identity, Options};
use berth_authority::Authority;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Client, Network};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS: &str = "/apis/wardle.example.com/v1/namespaces/default/flunders";

type AnyBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What the other server saw of one request.
#[derive(Debug, Clone, Default)]
struct Seen {
    path: String,
    user: String,
    groups: Vec<String>,
    extra: String,
    authorization: bool,
    /// Whether the connection showed a certificate of the front proxy's authority.
    certified: bool,
    body: String,
}

/// A server that answers for `wardle.example.com/v1`.
struct Extension {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    roots: String,
    aggregator: Arc<Aggregator>,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Extension {
    async fn serve() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("authority")).unwrap();
        let proxy = Authority::open(&folder.path().join("proxy")).unwrap();
        let shown = proxy.client("front-proxy-client", "", Duration::from_secs(3600)).unwrap();
        let aggregator = Aggregator {
            clients: authority.certificate().to_owned(),
            authority: proxy.certificate().to_owned(),
            name: "front-proxy-client".to_owned(),
            certificate: shown.certificate,
            key: shown.key,
        };
        let issued = authority.server(&["wardle.default.svc".to_owned()]).unwrap();
        let credentials =
            berth_tls::Credentials::from_pem(&issued.certificate, &issued.key).unwrap();
        let tls = berth_tls::server(credentials, proxy.certificate()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certified = stream.get_ref().1.peer_certificates().is_some();
                    let service =
                        service_fn(move |request| respond(request, certified, Arc::clone(&noted)));
                    let server = hyper::server::conn::http1::Builder::new();
                    let serving = server.serve_connection(TokioIo::new(stream), service);
                    let _gone = serving.with_upgrades().await;
                });
            }
        });
        let roots = STANDARD.encode(authority.certificate());
        Self { address, seen, roots, aggregator: Arc::new(aggregator), task, _folder: folder }
    }

    fn options(&self) -> Options {
        Options { aggregator: Some(self.aggregator.clone()), ..Options::default() }
    }

    /// The Service in front of it, and who it stands for.
    async fn publish(&self, client: &Client) {
        let port = self.address.port();
        let service = json!({"metadata": {"name": "wardle"},
            "spec": {"ports": [{"port": 443, "targetPort": port}]}});
        client.post("/api/v1/namespaces/default/services", &service).await.expect(201);
        let slice = json!({"metadata": {"name": "wardle-1",
                "labels": {"kubernetes.io/service-name": "wardle"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}],
            "ports": [{"name": "", "port": port}]});
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        client.post(slices, &slice).await.expect(201);
        client.post(SERVICES, &self.object()).await.expect(201);
    }

    fn object(&self) -> Value {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.wardle.example.com"},
            "spec": {"group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000,
                "versionPriority": 15, "caBundle": self.roots,
                "service": {"namespace": "default", "name": "wardle"}}})
    }

    fn last(&self, path: &str) -> Seen {
        let seen = self.seen.lock().unwrap();
        seen.iter().rev().find(|it| it.path.starts_with(path)).cloned().expect("it was asked")
    }
}

fn flunder(name: &str) -> Value {
    json!({"kind": "Flunder", "apiVersion": "wardle.example.com/v1",
        "metadata": {"name": name, "namespace": "default"}})
}

async fn respond(
    mut request: Request<Incoming>,
    certified: bool,
    noted: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<AnyBody>, hyper::Error> {
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    let text = |name: &str| {
        request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
    };
    let mut seen = Seen {
        path: path.clone(),
        user: text("x-remote-user"),
        groups: request
            .headers()
            .get_all("x-remote-group")
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect(),
        extra: text("x-remote-extra-scope"),
        authorization: request.headers().contains_key("authorization"),
        certified,
        body: String::new(),
    };
    let full = |value: &Value| Full::new(Bytes::from(value.to_string())).boxed_unsync();
    if text("upgrade") == "websocket" {
        noted.lock().unwrap().push(seen);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        return Ok(response.body(full(&Value::Null)).unwrap());
    }
    let method = request.method().clone();
    seen.body =
        String::from_utf8(request.into_body().collect().await?.to_bytes().to_vec()).unwrap();
    noted.lock().unwrap().push(seen);
    Ok(answer(&method, &path))
}

/// What the other server says to a request.
fn answer(method: &http::Method, path: &str) -> Response<AnyBody> {
    let full = |value: &Value| Full::new(Bytes::from(value.to_string())).boxed_unsync();
    let kind = |value: &Value| {
        Response::builder().header("content-type", "application/json").body(full(value)).unwrap()
    };
    match path.split('?').next().unwrap() {
        "/apis/wardle.example.com/v1" => {
            kind(&json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "wardle.example.com/v1", "resources": [{"name": "flunders", "singularName": "flunder",
                "namespaced": true, "kind": "Flunder", "verbs": ["get", "list", "watch", "create"], "shortNames": ["flu"]}]}))
        }
        "/openapi/v3" => kind(&json!({"paths": {"apis/wardle.example.com/v1":
            {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=ABC"}}})),
        "/openapi/v3/apis/wardle.example.com/v1" => {
            kind(&json!({"openapi": "3.0.0", "info": {"title": "wardle"}}))
        }
        FLUNDERS if path.contains("watch=") => {
            let line = |name: &str| {
                Ok(Frame::data(Bytes::from(format!(
                    "{}\n",
                    json!({"type": "ADDED", "object": flunder(name)})
                ))))
            };
            // The second event never comes, and the watch does not end.
            let lines = futures::stream::iter([line("one")]).chain(futures::stream::pending());
            Response::new(StreamBody::new(lines).boxed_unsync())
        }
        FLUNDERS if *method == http::Method::POST => kind(&flunder("new")),
        FLUNDERS => kind(&json!({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1",
            "metadata": {"resourceVersion": "5"}, "items": [flunder("one")]})),
        // A large answer of which only the beginning ever comes.
        path if path.ends_with("/endless") => {
            let chunk = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
            let body = StreamBody::new(chunk.chain(futures::stream::pending())).boxed_unsync();
            Response::builder()
                .header("content-type", "application/json")
                .header("content-length", "60000000000")
                .body(body)
                .unwrap()
        }
        path if path.ends_with("/elsewhere") => Response::builder()
            .status(302)
            .header("location", "http://169.254.169.254/")
            .body(full(&Value::Null))
            .unwrap(),
        _ => Response::builder()
            .status(404)
            .body(full(&json!({"kind": "Status", "code": 404})))
            .unwrap(),
    }
}

/// Waits until the condition of an API service has this reason.
async fn reason(client: &Client, wanted: &str) -> Value {
    let mut watch = client
        .watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3Dv1.wardle.example.com"))
        .await;
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let condition = event["object"]["status"]["conditions"][0].clone();
        if condition["reason"] == wanted {
            return condition;
        }
    }
}

/// An extension that can be asked, and the server that hands requests on to it.
async fn published() -> (Extension, Client) {
    let extension = Extension::serve().await;
    let client = Client::with(extension.options()).await;
    extension.publish(&client).await;
    reason(&client, "Passed").await;
    (extension, client)
}

/// The same for clients that need the network.
async fn published_on_network() -> (Extension, Network) {
    let extension = Extension::serve().await;
    let network = Network::with(extension.options()).await;
    extension.publish(&network.client).await;
    reason(&network.client, "Passed").await;
    (extension, network)
}

#[tokio::test]
async fn another_server_answers_for_its_group() {
    let extension = Extension::serve().await;
    let client = Client::with(extension.options()).await;
    extension.publish(&client).await;
    assert_eq!(reason(&client, "Passed").await["status"], "True");

    let list = client.get(FLUNDERS).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "one");
    let seen = extension.last(FLUNDERS);
    assert_eq!((seen.user.as_str(), seen.certified), ("admin", true));
    assert_eq!(seen.groups, ["system:masters", "system:authenticated"]);

    // Bodies go through, and answers come back as they are.
    let created =
        client.post(&format!("{FLUNDERS}?fieldManager=x"), &flunder("new")).await.expect(200);
    assert_eq!(created["kind"], "Flunder");
    let seen = extension.last(&format!("{FLUNDERS}?fieldManager=x"));
    assert_eq!(serde_json::from_str::<Value>(&seen.body).unwrap(), flunder("new"));
    client.get(&format!("{FLUNDERS}/none")).await.expect(404);

    // Watches are streamed.
    let mut watch = client.watch(&format!("{FLUNDERS}?watch=1")).await;
    watch.expect("ADDED", "one").await;

    // A redirection could lead anywhere.
    let refused = client.get("/apis/wardle.example.com/v1/flunders/elsewhere").await.expect(502);
    assert!(refused["message"].as_str().unwrap().contains("redirection"), "{refused}");
}

#[tokio::test]
async fn who_asks_is_judged_here_and_told_there() {
    let (extension, client) = published().await;
    let mut jane = Identity::new("jane", &["team"]);
    jane.extra.insert("scope".to_owned(), vec!["x".to_owned()]);
    let jane = client.as_user(jane);
    let asked = |extension: &Extension| {
        extension.seen.lock().unwrap().iter().filter(|it| it.user == "jane").count()
    };
    jane.get(FLUNDERS).await.expect(403);
    assert_eq!(asked(&extension), 0);
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": ["wardle.example.com"],
        "resources": ["flunders"], "verbs": ["list"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    client.post(&format!("{rbac}/roles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role", "name": "r"}, "subjects": [{"kind": "Group", "name": "team"}]});
    client.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    // What a client says about itself does not arrive.
    let headers = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-scope", "all"),
    ];
    let answer = jane.ask("GET", FLUNDERS, &headers, "").await;
    answer.expect(200);
    let seen = extension.last(FLUNDERS);
    assert_eq!((seen.user.as_str(), seen.extra.as_str(), seen.authorization), ("jane", "x", false));
    assert_eq!(seen.groups, ["team", "system:authenticated"]);
    jane.post(FLUNDERS, &flunder("a")).await.expect(403);
}

#[tokio::test]
async fn what_it_serves_is_told_with_the_rest() {
    let (_extension, client) = published().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = client.get_as("/apis", aggregated).await.expect(200);
    let names: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.first(), Some(&"apiregistration.k8s.io"));
    let place = |name: &str| names.iter().position(|it| *it == name).unwrap();
    assert!(place("apps") < place("batch") && place("batch") < place("wardle.example.com"));
    let own = &all["items"][place("wardle.example.com")]["versions"][0];
    assert_eq!(
        (&own["freshness"], &own["resources"][0]["shortNames"]),
        (&json!("Current"), &json!(["flu"]))
    );
    let plain = client.get("/apis").await.expect(200);
    assert!(
        plain["groups"].as_array().unwrap().iter().any(|it| it["name"] == "wardle.example.com")
    );
    let group = client.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1");
    client.get("/apis/other.example.com").await.expect(404);
    let index = client.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(client.get(url).await.expect(200)["info"]["title"], "wardle");

    // A server that is gone is said to be gone, and asked no more.
    client
        .delete("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/wardle-1")
        .await
        .expect(200);
    client
        .merge(
            &format!("{SERVICES}/v1.wardle.example.com"),
            &json!({"spec": {"versionPriority": 16}}),
        )
        .await
        .expect(200);
    let gone = reason(&client, "MissingEndpoints").await;
    assert!(gone["message"].as_str().unwrap().contains("wardle"), "{gone}");
    let refused = client.get(FLUNDERS).await.expect(503);
    assert!(
        refused["message"].as_str().unwrap().contains("kubectl describe apiservice"),
        "{refused}"
    );
    let all = client.get_as("/apis", aggregated).await.expect(200);
    assert_eq!(all["items"][place("wardle.example.com")]["versions"][0]["freshness"], "Stale");
    client.delete(&format!("{SERVICES}/v1.wardle.example.com")).await.expect(200);
    client.get(FLUNDERS).await.expect(404);
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_said() {
    let extension = Extension::serve().await;
    let client = Client::with(extension.options()).await;
    client.post(SERVICES, &extension.object()).await.expect(201);
    let missing = reason(&client, "ServiceNotFound").await;
    assert_eq!(
        (&missing["status"], &missing["message"]),
        (&json!("False"), &json!("service/wardle in \"default\" is not present"))
    );
    client.delete(&format!("{SERVICES}/v1.wardle.example.com")).await.expect(200);
    extension.publish(&client).await;
    reason(&client, "Passed").await;
    // Certificates of anybody else are not believed.
    let other = Extension::serve().await;
    let path = format!("{SERVICES}/v1.wardle.example.com");
    client.merge(&path, &json!({"spec": {"caBundle": other.roots}})).await.expect(200);
    let failed = reason(&client, "FailedDiscoveryCheck").await;
    assert!(failed["message"].as_str().unwrap().contains("certificate"), "{failed}");
    // Unless that is wanted.
    client
        .merge(&path, &json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}}))
        .await
        .expect(200);
    reason(&client, "Passed").await;
    client.get(FLUNDERS).await.expect(200);
    let port = json!({"spec": {"service": {"port": 8443}}});
    client.merge(&path, &port).await.expect(200);
    reason(&client, "ServicePortError").await;
}

#[tokio::test]
async fn the_own_groups_are_local_and_stay_so() {
    let client = Client::start().await;
    let all = client.get(SERVICES).await.expect(200);
    let names: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["metadata"]["name"].as_str().unwrap())
        .collect();
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let core = client.get(&format!("{SERVICES}/v1.")).await.expect(200);
    assert_eq!(
        (&core["status"]["conditions"][0]["reason"], &core["spec"]["groupPriorityMinimum"]),
        (&json!("Local"), &json!(18000))
    );
    // What is deleted comes back.
    let mut watch =
        client.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3Dv1.apps")).await;
    watch.expect("ADDED", "v1.apps").await;
    client.delete(&format!("{SERVICES}/v1.apps")).await.expect(200);
    watch.expect("DELETED", "v1.apps").await;
    watch.expect("ADDED", "v1.apps").await;
    // Nobody else can answer for what is built in.
    let stolen = json!({"spec": {"service": {"namespace": "default", "name": "thief"}}});
    let refused = client.merge(&format!("{SERVICES}/v1.apps"), &stolen).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("built in"), "{refused}");
    // A kind that is defined has one as long as it is.
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut watch = client
        .watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3Dv1.example.com"))
        .await;
    client.post(definitions, &definition).await.expect(201);
    watch.expect("ADDED", "v1.example.com").await;
    client.delete(&format!("{definitions}/boats.example.com")).await.expect(200);
    watch.expect("DELETED", "v1.example.com").await;
}

#[tokio::test]
async fn answers_of_others_are_streamed_and_not_kept() {
    let (_extension, client) = published().await;
    let request = Request::get(format!("{FLUNDERS}/endless"))
        .header("accept-encoding", "gzip")
        .header("accept", "application/yaml")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), client.answer(request)).await;
    let answer = answer.expect("the beginning comes at once");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "60000000000");
    assert_eq!(answer.headers()["content-type"], "application/json");
    let first = answer.into_body().frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "{");
}

#[tokio::test]
async fn a_client_cannot_hide_who_it_is_or_what_it_asks_for() {
    let (extension, network) = published_on_network().await;
    let ask = async |path: &str, headers: &str| {
        let mut stream = network.connect("admin").await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let hiding = "Connection: close, X-Remote-User, X-Remote-Group\r\nX-Remote-User: other\r\n\
        X-Forwarded-For: 10.0.0.1\r\nAuthorization: Bearer x\r\nCookie: a=b\r\n";
    assert_eq!(ask(FLUNDERS, hiding).await, "HTTP/1.1 200");
    let seen = extension.last(FLUNDERS);
    assert_eq!((seen.user.as_str(), seen.groups.len()), ("admin", 2), "{seen:?}");
    assert!(!seen.authorization);
    for path in [
        "flunders/one%2Fstatus",
        "flunders/../../../v2",
        "flunders//one",
        "flunders?watch=1&watch=0",
    ] {
        let path = format!("/apis/wardle.example.com/v1/namespaces/default/{path}");
        let before = extension.seen.lock().unwrap().len();
        assert_eq!(ask(&path, "").await, "HTTP/1.1 400", "{path}");
        assert_eq!(extension.seen.lock().unwrap().len(), before);
    }
    network.stop().await;
}

/// Of two servers that find out different things one writes what it found, and not for ever.
#[tokio::test]
async fn servers_that_disagree_do_not_write_against_each_other() {
    let extension = Extension::serve().await;
    let other = Extension::serve().await;
    let store = std::sync::Arc::new(berth_store::Memory::default());
    // The second shows a certificate the extension refuses, and so cannot reach it.
    let start = async |node: &str, aggregator: &Arc<Aggregator>| {
        let peer = berth_apiserver::Peer { node: node.to_owned(), local: false };
        let options = Options {
            aggregator: Some(Arc::clone(aggregator)),
            peer: Some(peer),
            advertise: Some("10.9.9.9:6443".parse().unwrap()),
            ..Options::default()
        };
        Client::on(store.clone(), options).await
    };
    let one = start("one", &extension.aggregator).await;
    let two = start("two", &other.aggregator).await;
    extension.publish(&one).await;
    reason(&one, "Passed").await;
    // The other one knows for itself that it cannot ask.
    let began = std::time::Instant::now();
    while two.get(FLUNDERS).await.code != 503 {
        assert!(began.elapsed() < Duration::from_secs(10), "it can ask");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let path = format!("{SERVICES}/v1.wardle.example.com");
    let version = one.get(&path).await.expect(200)["metadata"]["resourceVersion"].clone();
    let mut watch = one
        .watch(&format!("{SERVICES}?watch=1&resourceVersion={}", version.as_str().unwrap()))
        .await;
    let news = tokio::time::timeout(Duration::from_secs(3), watch.next()).await;
    assert!(news.is_err(), "somebody writes: {news:?}");
    one.get(FLUNDERS).await.expect(200);
}

/// What every cluster has is made although a webhook for everything cannot be asked: its pod may need this server.
#[tokio::test]
async fn a_server_starts_without_its_webhooks() {
    let store = std::sync::Arc::new(berth_store::Memory::default());
    let extension = Extension::serve().await;
    let first = Client::on(store.clone(), Options::default()).await;
    let hook = json!({"metadata": {"name": "all"}, "webhooks": [{"name": "all.example.com",
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 1,
        "clientConfig": {"service": {"namespace": "default", "name": "nobody"}},
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    first.delete(&format!("{SERVICES}/v1.apps")).await.expect(200);
    first.post(hooks, &hook).await.expect(201);
    drop(first);
    let again = Client::on(store, extension.options()).await;
    again.get(&format!("{SERVICES}/v1.apps")).await.expect(200);
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    again.get(map).await.expect(200);
    // For everybody else it is asked.
    let refused = again.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await;
    assert_eq!(refused.code, 500, "{}", refused.body);
}

#[tokio::test]
async fn others_can_read_whom_to_believe() {
    let extension = Extension::serve().await;
    let client = Client::with(extension.options()).await;
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let data = client.get(map).await.expect(200)["data"].clone();
    assert_eq!(data["requestheader-client-ca-file"], extension.aggregator.authority);
    assert_eq!(data["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    assert_eq!(data["client-ca-file"], extension.aggregator.clients);
}

#[tokio::test]
async fn upgrades_and_kubectl_reach_it() {
    let (_extension, network) = published_on_network().await;

    let out = network.ok("get apiservice v1.wardle.example.com --no-headers").await;
    assert!(out.contains("default/wardle") && out.contains("True"), "{out}");
    assert!(network.ok("api-resources --api-group=wardle.example.com").await.contains("flu"));
    assert!(network.ok("get flu").await.contains("one"));
    network
        .ok("wait --for=condition=Available apiservice/v1.wardle.example.com --timeout=5s")
        .await;

    let mut stream = network.connect("admin").await;
    let head = format!(
        "GET {FLUNDERS}/one/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"PING");
    drop(stream);
    network.stop().await;
}
