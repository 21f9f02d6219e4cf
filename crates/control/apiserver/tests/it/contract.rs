//! The semantics clients rely on, one by one.

use std::time::Duration;

use berth_apiserver::Identity;
use serde_json::{Value, json};

use crate::support::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}}})
}

#[tokio::test]
async fn creation_fills_metadata_and_names_are_taken_once() {
    let client = Client::start().await;
    let created = client.post(MAPS, &map("a")).await.expect(201);
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(!created["metadata"]["uid"].as_str().unwrap().is_empty());
    let read = client.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(read, created);
    let again = client.post(MAPS, &map("a")).await.expect(409);
    assert_eq!(again["reason"], "AlreadyExists");
    assert_eq!(again["message"], "configmaps \"a\" already exists");
    let generated = client.post(MAPS, &json!({"metadata": {"generateName": "x-"}})).await;
    assert_eq!(generated.expect(201)["metadata"]["name"].as_str().unwrap().len(), 7);
    let elsewhere = client.post("/api/v1/namespaces/none/configmaps", &map("a")).await;
    assert_eq!(elsewhere.expect(404)["message"], "namespaces \"none\" not found");
}

#[tokio::test]
async fn a_stale_change_is_refused() {
    let client = Client::start().await;
    let mut object = client.post(MAPS, &map("a")).await.expect(201);
    let path = format!("{MAPS}/a");
    object["data"]["a"] = json!("2");
    let updated = client.put(&path, &object).await.expect(200);
    assert_ne!(updated["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    let stale = client.put(&path, &object).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    client.put(&path, &object).await.expect(200);
    client.put(&format!("{MAPS}/none"), &map("none")).await.expect(404);
}

#[tokio::test]
async fn racing_patches_all_count() {
    let client = Client::start().await;
    client.post(MAPS, &map("a")).await.expect(201);
    let patches = (0..20).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let patch = json!({"data": {format!("k{number}"): "v"}});
            client.merge(&format!("{MAPS}/a"), &patch).await.expect(200);
        })
    });
    for patch in patches.collect::<Vec<_>>() {
        patch.await.unwrap();
    }
    let object = client.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(object["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let client = Client::start().await;
    client.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.expect(201);
    client.get(&format!("{MAPS}/a")).await.expect(404);
    client.post(MAPS, &map("a")).await.expect(201);
    let patch = json!({"data": {"b": "2"}});
    let patched = client.merge(&format!("{MAPS}/a?dryRun=All"), &patch).await.expect(200);
    assert_eq!(patched["data"]["b"], "2");
    client.delete(&format!("{MAPS}/a?dryRun=All")).await.expect(200);
    assert_eq!(client.get(&format!("{MAPS}/a")).await.expect(200)["data"], json!({"a": "1"}));
    client.post(&format!("{MAPS}?dryRun=Some"), &map("b")).await.expect(400);
}

#[tokio::test]
async fn lists_page_consistently() {
    let client = Client::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        client.post(MAPS, &map(name)).await.expect(201);
    }
    let first = client.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    client.delete(&format!("{MAPS}/c")).await.expect(200);
    let next = first["metadata"]["continue"].as_str().unwrap();
    let second = client.get(&format!("{MAPS}?limit=2&continue={next}")).await.expect(200);
    let names: Vec<_> =
        second["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let exact = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact");
    assert_eq!(client.get(&path).await.expect(200)["items"].as_array().unwrap().len(), 5);
    let selected = client.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dd")).await.expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    client.get(&format!("{MAPS}?fieldSelector=data.a%3Dd")).await.expect(400);
    client.get(&format!("{MAPS}?labelSelector=a%20b")).await.expect(400);
}

#[tokio::test]
async fn watches_follow_selectors_in_and_out() {
    let client = Client::start().await;
    let list = client.get(PODS).await.expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{PODS}?watch=true&resourceVersion={from}&labelSelector=app%3Da");
    let mut watch = client.watch(&path).await;
    client.post(PODS, &pod("b")).await.expect(201);
    client.post(PODS, &pod("a")).await.expect(201);
    watch.expect("ADDED", "a").await;
    client.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    watch.expect("MODIFIED", "a").await;
    let change = json!({"metadata": {"labels": {"app": "z"}}});
    let out = client.merge(&format!("{PODS}/a"), &change).await.expect(200);
    let event = watch.expect("DELETED", "a").await;
    assert_eq!(event["object"]["metadata"]["resourceVersion"], out["metadata"]["resourceVersion"]);
    client.merge(&format!("{PODS}/b"), &json!({"metadata": {"labels": {"app": "a"}}})).await;
    watch.expect("ADDED", "b").await;
    client.delete(&format!("{PODS}/b")).await.expect(200);
    watch.expect("DELETED", "b").await;
    client.server.close();
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_can_begin_with_what_is_there() {
    let client = Client::start().await;
    client.post(MAPS, &map("a")).await.expect(201);
    let path = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = client.watch(&path).await;
    watch.expect("ADDED", "a").await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    client.post(MAPS, &map("b")).await.expect(201);
    watch.expect("ADDED", "b").await;
    let mut short = client.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    short.expect("ADDED", "a").await;
    short.expect("ADDED", "b").await;
    assert!(short.next().await.is_none(), "it ends in time");
    let mut old = client.watch(&format!("{MAPS}?watch=1&resourceVersion=99999")).await;
    let error = old.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[tokio::test]
async fn finalizers_hold_objects() {
    let client = Client::start().await;
    let mut object = map("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(MAPS, &object).await.expect(201);
    let held = client.delete(&format!("{MAPS}/a")).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    client.merge(&format!("{MAPS}/a"), &json!({"metadata": {"finalizers": []}})).await.expect(200);
    client.get(&format!("{MAPS}/a")).await.expect(404);
    client.post(MAPS, &map("b")).await.expect(201);
    let foreground = client.delete(&format!("{MAPS}/b?propagationPolicy=Foreground")).await;
    assert_eq!(foreground.expect(200)["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn pods_end_gracefully() {
    let client = Client::start().await;
    client.post(PODS, &pod("a")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"},
        "target": {"kind": "Node", "name": "n"}});
    client.post(&format!("{PODS}/a/binding"), &binding).await.expect(201);
    client.post(&format!("{PODS}/a/binding"), &binding).await.expect(409);
    let bound = client.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n");
    let going = client.delete(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    client.get(&format!("{PODS}/a")).await.expect(200);
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    let body = options.to_string();
    client.send("DELETE", &format!("{PODS}/a"), "application/json", body).await.expect(409);
    client.delete(&format!("{PODS}/a?gracePeriodSeconds=0")).await.expect(200);
    client.get(&format!("{PODS}/a")).await.expect(404);
    client.post(PODS, &pod("b")).await.expect(201);
    client.delete(&format!("{PODS}/b")).await.expect(200);
    client.get(&format!("{PODS}/b")).await.expect(404);
    let change = json!({"spec": {"nodeName": "m"}});
    client.post(PODS, &pod("c")).await.expect(201);
    client.merge(&format!("{PODS}/c"), &change).await.expect(422);
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "c"}});
    client.post(&format!("{PODS}/c/eviction"), &eviction).await.expect(201);
    client.get(&format!("{PODS}/c")).await.expect(404);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let client = Client::start().await;
    client.post(DEPLOYMENTS, &deployment("a")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/a");
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 9}});
    let spec = client.merge(&path, &both).await.expect(200);
    assert_eq!(
        (&spec["spec"]["replicas"], &spec["metadata"]["generation"]),
        (&json!(3), &json!(2))
    );
    assert!(spec["status"].get("replicas").is_none());
    let both = json!({"spec": {"replicas": 4}, "status": {"replicas": 9}});
    let status = client.merge(&format!("{path}/status"), &both).await.expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(3), &json!(9))
    );
    assert_eq!(status["metadata"]["generation"], 2);
    let scale = client.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(3), &json!("a=b"))
    );
    let scaled = client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 7}})).await;
    assert_eq!(scaled.expect(200)["spec"]["replicas"], 7);
    client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": -1}})).await.expect(422);
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let client = Client::start().await;
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let first = service("a", json!({"type": "NodePort", "ports": ports}));
    let first = client.post(SERVICES, &first).await.expect(201);
    let address = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = first["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!(address.starts_with("10.96.") && (30000..=32767).contains(&port));
    let taken = service("b", json!({"clusterIP": address, "ports": ports}));
    client.post(SERVICES, &taken).await.expect(422);
    let taken = json!([{"port": 80, "nodePort": port}]);
    let taken = service("b", json!({"type": "NodePort", "ports": taken}));
    client.post(SERVICES, &taken).await.expect(422);
    client.delete(&format!("{SERVICES}/a")).await.expect(200);
    client.post(SERVICES, &taken).await.expect(201);
    let headless = service("h", json!({"clusterIP": "None", "ports": ports}));
    let headless = client.post(SERVICES, &headless).await.expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let named = service("e", json!({"type": "ExternalName", "externalName": "x.example"}));
    let named = client.post(SERVICES, &named).await.expect(201);
    assert!(named["spec"].get("clusterIP").is_none());
    let plain = json!({"spec": {"type": "ClusterIP"}});
    let plain = client.merge(&format!("{SERVICES}/b"), &plain).await.expect(200);
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
}

#[tokio::test]
async fn namespaces_end_when_finalized() {
    let client = Client::start().await;
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.expect(201);
    let going = client.delete("/api/v1/namespaces/x").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = client.post("/api/v1/namespaces/x/configmaps", &map("a")).await.expect(403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut end = going;
    end["spec"]["finalizers"] = json!([]);
    client.delete("/api/v1/namespaces/default").await.expect(403);
    client.put("/api/v1/namespaces/x/finalize", &end).await.expect(200);
    client.get("/api/v1/namespaces/x").await.expect(404);
}

#[tokio::test]
async fn strangers_are_refused() {
    let client = Client::start().await;
    let stranger = client.as_user(Identity::new("eve", &["system:authenticated"]));
    let refused = stranger.get(&format!("{PODS}/a")).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"a\" is forbidden: User \"eve\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    stranger.get("/version").await.expect(200);
    stranger.get("/metrics").await.expect(403);
}

#[tokio::test]
async fn mistakes_are_explained() {
    let client = Client::start().await;
    let mut wrong = deployment("a");
    wrong["spec"]["selector"]["matchLabels"]["a"] = json!("c");
    let invalid = client.post(DEPLOYMENTS, &wrong).await.expect(422);
    assert_eq!(invalid["details"]["causes"][0]["field"], "spec.template.metadata.labels");
    let mut unknown = map("a");
    unknown["extra"] = json!(1);
    let strict = client.post(&format!("{MAPS}?fieldValidation=Strict"), &unknown).await.expect(400);
    assert!(strict["message"].as_str().unwrap().contains("unknown field \"extra\""));
    let warned = client.post(MAPS, &unknown).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"extra\\\"\"");
    assert!(warned.expect(201).get("extra").is_none());
    client.send("POST", MAPS, "text/plain", "x").await.expect(415);
    client.send("POST", MAPS, "application/json", "{").await.expect(400);
    client.send("POST", MAPS, "application/json", vec![b' '; 4 << 20]).await.expect(413);
    client.get("/api/v1/nothing").await.expect(404);
    client.put(MAPS, &map("a")).await.expect(405);
    let yaml = "metadata:\n  name: y\ndata: {k: v}\n";
    client.send("POST", MAPS, "application/yaml", yaml).await.expect(201);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let client = Client::start().await;
    for name in ["a", "b", "c"] {
        client.post(PODS, &pod(name)).await.expect(201);
    }
    client.delete(&format!("{PODS}?labelSelector=app%20in%20(a,b)")).await.expect(200);
    let left = client.get(PODS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn both_groups_show_the_same_events() {
    let client = Client::start().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"},
        "reason": "Started", "message": "hello", "type": "Normal"});
    client.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    let path = "/apis/events.k8s.io/v1/namespaces/default/events/e";
    let newer = client.get(path).await.expect(200);
    assert_eq!((&newer["note"], &newer["regarding"]["name"]), (&json!("hello"), &json!("p")));
    assert_eq!(newer["apiVersion"], "events.k8s.io/v1");
    let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    assert_eq!(client.get(path).await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn kube_clients_work_in_memory() {
    use k8s_openapi::api::core::v1::ConfigMap;
    let client = Client::start().await;
    let kube = kube::Client::new(client.server.service(crate::support::admin()), "default");
    let maps: kube::Api<ConfigMap> = kube::Api::default_namespaced(kube);
    let map = serde_json::from_value(map("a")).unwrap();
    maps.create(&kube::api::PostParams::default(), &map).await.unwrap();
    let stream =
        kube::runtime::watcher(maps, kube::runtime::watcher::Config::default().streaming_lists());
    let mut stream = std::pin::pin!(stream);
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(event) = futures::StreamExt::next(&mut stream).await {
            if let kube::runtime::watcher::Event::InitApply(map) = event.unwrap() {
                return map.metadata.name;
            }
        }
        None
    });
    assert_eq!(found.await.unwrap().as_deref(), Some("a"));
}

#[tokio::test]
async fn applied_fields_have_owners() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/a");
    let mut wanted = deployment("a");
    wanted["spec"]["replicas"] = json!(2);
    let created = client.apply(&path, "one", false, &wanted).await.expect(201);
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = client.apply(&path, "one", false, &wanted).await.expect(200);
    assert_eq!(again, created, "applying the same again changes nothing");
    client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 5}})).await.expect(200);
    let conflict = client.apply(&path, "one", false, &wanted).await.expect(409);
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.replicas");
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = client.apply(&path, "one", true, &wanted).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 2);
    let labels = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "labels": {"x": "y"}}});
    client.apply(&path, "two", false, &labels).await.expect(200);
    let bare = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
    let bare = client.apply(&path, "two", false, &bare).await.expect(200);
    assert!(bare["metadata"].get("labels").is_none(), "{bare}");
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "status": {"replicas": 2}});
    let status = client.apply(&format!("{path}/status"), "ctl", false, &status).await.expect(200);
    assert_eq!(status["status"]["replicas"], 2);
    client.send("PATCH", &path, "application/apply-patch+yaml", "{}").await.expect(400);
}

#[tokio::test]
async fn discovery_is_aggregated_and_tagged() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let client = Client::start().await;
    let ask = async |tag: &str| {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let request = http::Request::get("/apis")
            .header("accept", accept)
            .header("if-none-match", tag)
            .body(http_body_util::Full::new(bytes::Bytes::new()));
        let service = client.server.service(crate::support::admin());
        service.oneshot(request.unwrap()).await.unwrap()
    };
    let response = ask("").await;
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["kind"], "APIGroupDiscoveryList");
    assert_eq!(ask(&tag).await.status(), 304);
    let list = client.get("/apis/apps/v1").await.expect(200);
    assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == "deployments/scale"));
    assert_eq!(client.get("/apis").await.expect(200)["kind"], "APIGroupList");
    for path in ["/healthz", "/livez", "/readyz", "/version", "/api", "/apis/apps", "/openapi/v3"] {
        client.get(path).await.expect(200);
    }
}

#[tokio::test]
async fn streams_go_to_the_pods_node() {
    use berth_apiserver::{Body, BoxError, NodeService, Nodes, Options};
    use http_body_util::{BodyExt, Full};
    struct Echo;
    impl Nodes for Echo {
        fn connect(&self, node: &str) -> Option<NodeService> {
            let service = tower::service_fn(|request: http::Request<Body>| async move {
                let text = format!("{} {}", request.method(), request.uri());
                let body = Full::new(bytes::Bytes::from(text)).map_err(|never| match never {});
                Ok::<_, BoxError>(http::Response::new(body.boxed_unsync()))
            });
            (node == "n").then(|| NodeService::new(service))
        }
    }
    let options = Options { nodes: std::sync::Arc::new(Echo), ..Options::default() };
    let client = Client::with(options).await;
    let mut two = pod("a");
    two["spec"]["containers"] = json!([{"name": "c", "image": "x"}, {"name": "d", "image": "x"}]);
    two["spec"]["nodeName"] = json!("n");
    client.post(PODS, &two).await.expect(201);
    let which = client.get(&format!("{PODS}/a/log")).await.expect(400);
    assert!(which["message"].as_str().unwrap().ends_with("choose one of: [c d]"), "{which}");
    let log = client.get(&format!("{PODS}/a/log?container=d&follow=true")).await.expect(200);
    assert_eq!(log, "GET /containerLogs/default/a/d?container=d&follow=true");
    let exec = client.send("POST", &format!("{PODS}/a/exec?command=ls"), "", "").await.expect(200);
    assert_eq!(exec, "POST /exec/default/a/c?command=ls");
    client.get(&format!("{PODS}/a/log?container=z")).await.expect(400);
    two["metadata"]["name"] = json!("b");
    two["spec"]["nodeName"] = json!("lost");
    client.post(PODS, &two).await.expect(201);
    client.get(&format!("{PODS}/b/attach")).await.expect(503);
}

#[tokio::test]
async fn a_restart_keeps_objects_addresses_and_watches() {
    use berth_apiserver::Options;
    use berth_store::{Disk, DiskOptions};
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Disk::open(&folder.path().join("store"), DiskOptions::default()).unwrap();
        std::sync::Arc::new(disk)
    };
    let client = Client::on(open(), Options::default()).await;
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    let created = client.post(SERVICES, &service).await.expect(201);
    client.post(MAPS, &map("a")).await.expect(201);
    drop(client);

    let client = Client::on(open(), Options::default()).await;
    let again = client.get(&format!("{SERVICES}/a")).await.expect(200);
    assert_eq!(again, created);
    let taken = json!({"metadata": {"name": "b"},
        "spec": {"clusterIP": created["spec"]["clusterIP"], "ports": [{"port": 80}]}});
    client.post(SERVICES, &taken).await.expect(422);
    let from = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = client.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    watch.expect("ADDED", "a").await;
}
